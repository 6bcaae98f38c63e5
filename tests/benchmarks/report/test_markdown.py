"""Templates and the parts of pages."""

import re

import numpy as np
import pytest

from benchmarks.report import markdown
from benchmarks.report.markdown import CONFIDENCE, TEMPLATES, count, list_names, not_run, render, table, versions
from benchmarks.runs import scores

_PLACEHOLDER = re.compile(r"\{\{ \w+ \}\}")
# Numbers that are names: tables, figures and equations of the paper, tasks, algorithms, files and addresses.
_NAMES = re.compile(
    r"(Tables?|Fig\.|Eq\.|Algorithm) \d+|Walker2d|A2C|V100|(stable_baselines|sb|SB|rl-baselines)3|\.hdf5|SHA-256"
)
_NUMBER_WORDS = re.compile(
    r"\b(three|four|five|six|seven|eight|nine|ten|eleven|twenty|hundreds?|thousands?|twice|fifth|tenth)\b",
    re.IGNORECASE,
)


@pytest.fixture
def template(tmp_path, monkeypatch):
    monkeypatch.setattr(markdown, "TEMPLATES", tmp_path)
    (tmp_path / "page.md").write_text("{{ n }} of {{ n }} runs: {{ names }}.\n")


def test_a_template_is_filled_in(template):
    assert render("page", n=3, names="{{ n }}") == "3 of 3 runs: {{ n }}."


@pytest.mark.parametrize("values", [{"n": 3}, {"n": 3, "names": "", "others": ""}])
def test_unknown_and_unused_names_are_errors(template, values):
    with pytest.raises(ValueError, match=r"^template page: found (names|others)"):
        render("page", **values)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.md")), ids=lambda path: path.stem)
def test_no_template_has_an_unexplained_number(path):
    text = _NAMES.sub("", _PLACEHOLDER.sub("", path.read_text()))
    assert re.findall(r".*\d.*", text) == []
    assert _NUMBER_WORDS.findall(text) == []
    # A misspelt placeholder would be printed.
    assert "{{" not in text


def test_confidence_is_that_of_the_intervals():
    episodes = [np.random.default_rng(seed).normal(size=20) for seed in range(3)]
    score, means = scores.summarize(episodes), scores.resampled_means(episodes)
    inside = (score.low <= means) & (means <= score.high)
    assert f"{inside.mean():.0%}" == CONFIDENCE


def test_names_and_counts_read_as_text():
    assert [list_names(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "none",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert (count(1, "run"), count(1_000, "run")) == ("1 run", "1,000 runs")
    assert not_run("tune BallRun") == "Not run yet: `python -m benchmarks tune BallRun`."


def test_tables_are_markdown():
    assert table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "| --- | --: |", "| x | 1 |"]


def test_versions_are_listed_once():
    assert versions([{"versions": {"x": "2", "y": "1"}}, {"versions": {"x": "1", "y": "1"}}]) == "x 1, 2, y 1"
