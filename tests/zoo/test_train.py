"""The commands that a user runs, and the files that they write."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib import pyplot as plt
from rl_zoo3.plots import all_plots

from sb3_prefine import PREFINE, Trajectories, evaluate_policy, load_reference
from tests.zoo.conftest import ENV_ID

COST_LIMIT = 20


@pytest.fixture(scope="module")
def logs(case, tmp_path_factory):
    """The logs of a run whose policy is too fast in the first evaluations, and safe in later ones."""
    logs = tmp_path_factory.mktemp("run") / "logs"
    options = "-n 80 --eval-freq 10 --eval-episodes 2 --n-eval-envs 2 --save-freq 40 --seed 3 --device cpu -P"
    hyperparams = (
        f"pretrained:'{case.folder}' dataset:'{case.dataset}' cost_limit:20 n_preferred:3 n_dispreferred:3 "
        f"learning_rate:0.02 batch_size:64 eval_cost_limit:{COST_LIMIT}"
    )
    command = f"-m sb3_prefine.zoo.train --algo prefine --env {ENV_ID} -f {logs} {options} -params {hyperparams}"
    result = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return logs


def test_folder_has_the_files_of_rl_zoo(logs):
    run = logs / "prefine" / f"{ENV_ID}_1"
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert found == {
        f"{ENV_ID}.zip",
        "best_model.zip",
        "evaluations.npz",
        "rl_model_40_steps.zip",
        "rl_model_80_steps.zip",
        "0.monitor.csv",
        *(f"{ENV_ID}/{name}" for name in ("args.yml", "config.yml", "command.txt")),
    }
    config = yaml.safe_load((run / ENV_ID / "config.yml").read_text())
    assert (config["beta"], config["learning_rate"]) == (0.2, 0.02)  # from the file, from the command line
    assert "env_wrapper" not in config


def test_best_model_is_the_best_safe_model(logs):
    run = logs / "prefine" / f"{ENV_ID}_1"
    evaluations = np.load(run / "evaluations.npz")
    np.testing.assert_array_equal(evaluations["timesteps"], range(10, 90, 10))
    assert evaluations["costs"].shape == evaluations["results"].shape == (8, 2)
    rewards, costs = evaluations["results"].mean(axis=1), evaluations["costs"].mean(axis=1)
    safe = costs <= COST_LIMIT
    assert not safe[0]
    assert safe.any()
    assert rewards.max() > rewards[safe].max()  # the model with the highest reward is unsafe
    best = evaluate_policy(run / "best_model.zip", ENV_ID, 2, seed=3)
    assert best.mean_reward == pytest.approx(rewards[safe].max())
    assert best.mean_cost <= COST_LIMIT


def test_saved_models_open_without_rl_zoo(logs, case):
    run = logs / "prefine" / f"{ENV_ID}_1"
    for name in (f"{ENV_ID}.zip", "best_model.zip", "rl_model_40_steps.zip"):
        model = PREFINE.load(run / name)
        assert model.learning_rate == 0.02
        assert model.num_timesteps % 10 == 0
    last = np.load(run / "evaluations.npz")
    evaluation = evaluate_policy(PREFINE.load(run / f"{ENV_ID}.zip"), ENV_ID, 2, seed=3)
    np.testing.assert_array_equal(evaluation.episode_rewards, last["results"][-1])
    # load_reference also opens the folder of the run.
    observations = Trajectories.from_hdf5(case.preferred).observations
    np.testing.assert_array_equal(
        load_reference(run).predict(observations, deterministic=True)[0],
        PREFINE.load(run / f"{ENV_ID}.zip").predict(observations, deterministic=True)[0],
    )


def test_enjoy_plays_the_saved_model(logs, enjoy, capsys):
    enjoy("-f", str(logs), "-n", "300")
    returns = [float(number) for number in re.findall(r"Episode Reward: (-?[\d.]+)", capsys.readouterr().out)]
    expected = evaluate_policy(logs / "prefine" / f"{ENV_ID}_1" / f"{ENV_ID}.zip", ENV_ID, 20)
    assert len(returns) == 3
    # Other episodes of the same policy. Another policy would earn about 1,500 or 0.
    spread = 6 * expected.episode_rewards.std() + 1
    assert np.abs(np.array(returns) - expected.mean_reward).max() < spread


def test_rl_zoo_plots_the_cost(logs, monkeypatch):
    costs = logs / "costs"
    command = f"all_plots -a prefine -e SafetyBallRun -f {logs} -k costs --no-million --no-display -o {costs}"
    monkeypatch.setattr(sys, "argv", command.split())
    plt.switch_backend("Agg")
    all_plots()
    plt.close("all")
    plotted = pickle.loads(Path(f"{costs}.pkl").read_bytes())["SafetyBallRun"][f"PREFINE-{logs}"]
    evaluations = np.load(logs / "prefine" / f"{ENV_ID}_1" / "evaluations.npz")
    np.testing.assert_array_equal(plotted["timesteps"], evaluations["timesteps"])
    np.testing.assert_allclose(plotted["mean"], evaluations["costs"].mean(axis=1))
