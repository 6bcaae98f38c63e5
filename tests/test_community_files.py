"""The files around the code agree with it: changelog, citation, map, workflows, hooks."""

import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import sb3_prefine

ROOT = Path(__file__).parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEADINGS = ["Breaking Changes", "New Features", "Bug Fixes", "Deprecations", "Others", "Documentation"]


def read_yaml(name: str) -> Any:
    # YAML reads the key "on" of a workflow as True.
    return yaml.safe_load((ROOT / name).read_text())


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_citation_has_the_version_of_the_package():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == sb3_prefine.__version__
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
    assert citation["license"] == PROJECT["license"]


def test_paper_is_the_same_everywhere():
    paper = read_yaml("CITATION.cff")["preferred-citation"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert paper["url"] in (ROOT / "README.md").read_text()
    [identifier] = paper["identifiers"]
    assert identifier["value"] == f"arXiv:{paper['url'].rpartition('/')[2]}"


def test_changelog_has_the_version_and_the_headings_in_order():
    versions = re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert sb3_prefine.__version__ in versions
    for version in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        headings = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert headings == [heading for heading in HEADINGS if heading in headings]


@pytest.mark.parametrize("name", re.findall(r"`(sb3_prefine[\w.]+)`(?=[^|\n]*\|$)", CHANGELOG, re.MULTILINE))
def test_new_imports_of_the_changelog_work(name):
    assert pkgutil.resolve_name(name)


def test_map_has_every_package_of_the_tree():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    mapped = re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "sb3_prefine").glob("*/__init__.py")}
    modules = {"objective", "prefine", "callbacks"}
    assert {name for _, name in mapped} == packages | modules
    assert [int(layer) for layer, _ in mapped] == sorted(int(layer) for layer, _ in mapped)


def test_ci_checks_and_tests_every_declared_python():
    workflow = read_yaml(".github/workflows/ci.yml")
    [job] = workflow["jobs"].values()
    declared = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert job["strategy"]["matrix"]["python-version"] == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"
    assert commands(job) == ["make check", "make test"]
    assert workflow["permissions"] == {"contents": "read"}


def test_ci_fetches_the_checkpoints_that_tests_name(zoo):
    [job] = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    [fetched] = [step["with"]["sparse-checkout"] for step in job["steps"] if "sparse-checkout" in step.get("with", {})]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r'"((?:a2c|dqn|ppo|sac)/\w+-v\d)"', tests))
    existing = {f"{name}_1" for name in named if (zoo / f"{name}_1").is_dir()}
    assert "ppo/HalfCheetah-v3_1" in existing
    assert existing <= set(fetched.split())
    assert all(any((zoo / folder).glob("*.zip")) for folder in fetched.split())


def test_publishing_needs_no_stored_token():
    workflow = read_yaml(".github/workflows/publish.yml")
    assert workflow[True] == {"release": {"types": ["published"]}}
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert "secrets." not in (ROOT / ".github/workflows/publish.yml").read_text()


def test_hooks_run_what_make_check_runs():
    [local] = read_yaml(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in re.findall(r"\$\(BIN\)/(\S+(?: (?!-)\S+)?)", recipe[1]):
        program = command.removesuffix(" .")
        assert any(entry.startswith(f".venv/bin/{program}") for entry in entries), program


@pytest.mark.parametrize("form", ["bug", "feature", "question"])
def test_issue_forms_have_what_github_needs(form):
    content = read_yaml(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= content.keys()
    ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"].get("label") for field in content["body"] if field["type"] != "markdown")


def test_blank_issues_are_closed_and_security_reports_are_private():
    config = read_yaml(".github/ISSUE_TEMPLATE/config.yml")
    assert config["blank_issues_enabled"] is False
    [contact] = config["contact_links"]
    assert contact["url"] in (ROOT / "SECURITY.md").read_text()
