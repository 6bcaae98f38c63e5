"""Every snippet and command of the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
# Commands in the text between backticks.
COMMANDS += re.findall(r"`((?:make|python|sb3-prefine|pip) [^`]+)`", README)


def test_the_python_runs_as_it_stands(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), names)
    before, after = re.findall(r"cost ([\d.]+)", capsys.readouterr().out)
    assert float(before) > 900
    assert float(after) < 100
    assert Path(str(names["path"])).is_file()


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_exists(command):
    program, *arguments = command.split()
    if program == "make":
        # Run for real by .ci/run and, what `make demo` does, by test_demo: from here they would run in a circle.
        result = subprocess.run(
            ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout
    elif program == "sb3-prefine":
        result = subprocess.run([sys.executable, "-m", "sb3_prefine", *arguments], capture_output=True, check=False)
        assert result.returncode == 0
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()  # run by test_examples
    else:
        extras = re.fullmatch(r'pip install "sb3-prefine\[([\w,]+)\]"', command)
        assert extras, f"nothing runs {command!r}"
        declared = (ROOT / "pyproject.toml").read_text()
        for extra in extras.group(1).split(","):
            assert f"\n{extra} = [" in declared


def test_every_file_that_is_linked_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


def test_the_table_is_of_the_settings_in_the_example():
    rows = re.findall(r"^\| (PPO|SAC|A2C) .* \| ([\d,]+) steps, \d+ s \|$", README, flags=re.MULTILINE)
    spec = (ROOT / "examples" / "retrofit_zoo_checkpoint.py").read_text()
    assert len(rows) == 3
    for algo, steps in rows:
        assert re.search(rf'"{algo.lower()}": \([\de-]+, {steps.replace(",", "_")}\)', spec), algo
