"""
All snippets and commands of README.md and docs/.

The blocks of ``python`` and ``sh`` run unchanged, one after the other in one folder. The commands in blocks of ``bash``
install things or run these tests, so they are only checked one by one. Blocks of ``text`` show output.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_prefine import PREFINE, Trajectories, dsrl
from tests.worlds import RandomEnv, make_model, preferences

BALL_CIRCLE = dsrl.find_task("BallCircle")
ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
# The addresses of a file in the repository, as a page and as an image.
IN_REPOSITORY = (
    r"^https://(github\.com/sb3-prefine/sb3-prefine/blob|raw\.githubusercontent\.com/sb3-prefine/sb3-prefine)/main/"
)


def blocks(document: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def run_python(document: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of Python with the variables ``names``, and return all variables."""
    for block in blocks(document, "python"):
        exec(compile(block, str(document), "exec"), names)
    return names


def run_shell(document: Path, folder: Path) -> str:
    """Run the blocks of sh in bash, in the activated virtual environment, and return their output."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",  # no windows
    }
    command = ["bash", "-euo", "pipefail", "-c", "".join(blocks(document, "sh"))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands() -> list[str]:
    """The commands in blocks of bash, and in the text between backticks."""
    found: set[str] = set()
    for document in (README, *DOCS):
        for block in blocks(document, "bash"):
            found |= {line.partition("#")[0].strip() for line in block.splitlines()}
        found |= set(re.findall(r"`((?:make|python|sb3-prefine|pip) [^`]+)`", document.read_text()))
    return sorted(found)


@pytest.mark.parametrize("document", [README, *DOCS], ids=lambda path: path.name)
def test_all_blocks_are_of_a_checked_kind(document):
    fences = re.findall(r"^\s*(?:```|~~~)", document.read_text(), flags=re.MULTILINE)
    assert len(fences) == 2 * sum(len(blocks(document, kind)) for kind in ("python", "sh", "bash", "text"))


def test_python_of_the_readme_runs_unchanged(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run_python(README, names)
    before, after = re.findall(r"cost ([\d.]+)", capsys.readouterr().out)
    assert float(before) > 900
    assert float(after) < 100
    assert names["path"].is_file()


def test_shell_commands_of_the_readme_run_unchanged(zoo, tmp_path):
    """They run the command line, and then RL Zoo with the data that it wrote."""
    printed = run_shell(README, tmp_path)
    (return_before, cost_before), (return_after, cost_after) = (
        _return_and_cost(printed, name) for name in ("ppo/HalfCheetah-v3", "safe.zip")
    )
    data_return = Trajectories.from_hdf5(tmp_path / "chosen" / "preferred.hdf5").episode_returns.mean()
    assert cost_after <= 25 < 900 < cost_before
    assert 0.8 * data_return < return_after < return_before
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")

    run = tmp_path / "logs" / "prefine" / "SpeedLimitHalfCheetah-v0_1"
    evaluations = np.load(run / "evaluations.npz")
    costs = evaluations["costs"].mean(axis=1)
    assert evaluations["timesteps"].tolist() == [500, 1000]
    assert costs.min() <= 25
    assert (run / "best_model.zip").is_file()
    [played] = re.findall(r"^Mean reward: ([\d.]+)", printed, flags=re.MULTILINE)
    assert float(played) > 0.8 * data_return
    [plotted] = pickle.loads((tmp_path / "costs.pkl").read_bytes())["SpeedLimitHalfCheetah"].values()
    np.testing.assert_allclose(plotted["mean"], costs)


def _return_and_cost(printed: str, policy: str) -> tuple[float, float]:
    """The return and the cost of a policy in the table of ``compare``."""
    [row] = re.findall(rf"^ *({re.escape(policy)}  .*)$", printed, flags=re.MULTILINE)
    _, mean_return, _, mean_cost, *_ = re.split(" {2,}", row.strip())
    return float(mean_return.replace(",", "")), float(mean_cost.replace(",", ""))


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_blocks_of_the_docs_run_unchanged(document, zoo, tmp_path, monkeypatch):
    """The pages use the reader's own model, data and environment. Here they are small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path))
    good, bad = (trajectories_of(BALL_CIRCLE, cost) for cost in (0.0, 1.0))
    (good + bad).to_hdf5(dsrl.dataset_path(BALL_CIRCLE))
    source = make_model(PPO, VecNormalize(make_vec_env(RandomEnv, 2)), n_steps=20, batch_size=20).learn(40)
    model = PREFINE(source, preferences(), device="cpu").learn(5)
    data = {"trajectories": preferences().preferred, "preferences": preferences()}
    names = run_python(document, {"model": model, "MyEnv": RandomEnv, "n_steps": 40, **data})
    if document.name == "policies.md":
        assert names["ppo"].num_timesteps >= 40
        assert names["safe"].num_timesteps == 40
    if document.name == "dsrl.md":
        assert names["model"].num_timesteps == 40
        assert np.isfinite([names["reward"], names["cost"]]).all()
    if document.name == "rivals.md":
        assert [rival.num_timesteps for rival in names["rivals"].values()] == [20] * 8
    run_shell(document, tmp_path)


def trajectories_of(task: dsrl.Task, cost: float, n_episodes: int = 10, length: int = 50) -> Trajectories:
    """Random data with the sizes of a task, and the same cost in each step."""
    rng = np.random.default_rng(0)
    n = n_episodes * length
    observations, actions = (rng.uniform(-1, 1, (n, size)) for size in (task.observation_size, task.action_size))
    timeouts = np.arange(1, n + 1) % length == 0
    return Trajectories(
        observations, observations, actions, rng.normal(size=n), np.full(n, cost), np.zeros(n, bool), timeouts
    )


@pytest.mark.parametrize("command", commands())
def test_all_commands_exist(command):
    program, *arguments = command.split()
    if program == "make":
        # CI runs these commands, which would run this test again. test_demo runs the command of `make demo`.
        result = subprocess.run(
            ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout
    elif program == "sb3-prefine":
        result = subprocess.run([sys.executable, "-m", "sb3_prefine", *arguments], capture_output=True, check=False)
        assert result.returncode == 0
    elif command.startswith("python -m "):
        verb = [sys.executable, *arguments[:3], "--help"]
        assert subprocess.run(verb, cwd=ROOT, capture_output=True, check=False).returncode == 0
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()  # run by test_examples
    else:
        extras = re.fullmatch(r'pip install "sb3-prefine\[([\w,]+)\]"', command)
        assert extras, f"nothing runs {command!r}"
        declared = (ROOT / "pyproject.toml").read_text()
        for extra in extras.group(1).split(","):
            assert f"\n{extra} = [" in declared


def links(document: Path) -> list[str]:
    """The targets of the links and images of a document, inline and in the list at its end."""
    return [
        inline or listed
        for inline, listed in re.findall(r"\]\(([^)]+)\)|^\[\w+\]: (\S+)$", document.read_text(), re.MULTILINE)
    ]


def linked_file(document: Path, target: str) -> Path | None:
    """The file of this repository that a link leads to, or None for another site."""
    if re.match(IN_REPOSITORY, target):
        return ROOT / re.sub(IN_REPOSITORY, "", target)
    return None if target.startswith("https://") else document.parent / target


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *DOCS], ids=lambda path: path.name)
def test_linked_files_and_sections_exist(document):
    for target in links(document):
        address, _, section = target.partition("#")
        file = linked_file(document, address)
        assert file is None or file.is_file(), target
        if file and section:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert section in [heading.lower().replace(" ", "-") for heading in headings], target


def test_readme_links_work_on_a_package_index():
    targets = links(README)
    assert any(re.match(IN_REPOSITORY, target) for target in targets)
    assert [target for target in targets if not target.startswith("https://")] == []


def test_table_of_the_readme_has_the_settings_of_the_example():
    rows = re.findall(r"^\| (PPO|SAC|A2C) .* \| ([\d,]+) steps, \d+ s \|$", README.read_text(), flags=re.MULTILINE)
    spec = (ROOT / "examples" / "retrofit_zoo_checkpoint.py").read_text()
    assert len(rows) == 3
    for algo, steps in rows:
        assert re.search(rf'"{algo.lower()}": \([\de-]+, {steps.replace(",", "_")}\)', spec), algo
