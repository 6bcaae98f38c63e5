"""Runs collect, split, train, evaluate, compare and info in a row. Each must give the same as its Python function."""

import contextlib
import json

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, evaluate_policy, load_reference
from sb3_prefine.data.trajectories import COLUMNS
from tests.cli.conftest import ENV, Outcome

LIMIT, STEPS = 30, 200


@pytest.fixture(scope="module")
def folder(call, policy, tmp_path_factory):
    """The folder in which the commands ran, and the outcome of each."""
    folder = tmp_path_factory.mktemp("pipeline")
    outcomes: dict[str, Outcome] = {}
    for command in (
        f"collect {policy} {ENV} --out data.hdf5 --episodes 5 --scales 0.2 1.0 --seed 7 --cost-limit {LIMIT}",
        f"split data.hdf5 --cost-limit {LIMIT} --n-preferred 2 --n-dispreferred 3 --out chosen --seed 2",
        f"train {policy} --preferred chosen/preferred.hdf5 --dispreferred chosen/dispreferred.hdf5 --out safe.zip "
        f"--steps {STEPS} --learning-rate 3e-3 --batch-size 64 --sft-coef 1.2 --seed 4 --save-model model.zip",
        f"evaluate safe.zip {ENV} --episodes 6 --cost-limit {LIMIT} --seed 5 --json safe.json",
        f"compare {ENV} {policy} safe.zip --episodes 4 --cost-limit {LIMIT} --plot plane.png",
        "info safe.zip",
    ):
        with contextlib.chdir(folder):
            outcome = call(*command.split())
        assert outcome.code == 0, outcome.err
        outcomes[command.split()[0]] = outcome
    return folder, outcomes


def test_collect_records_the_same_as_in_python(folder, policy):
    expected = [
        collect(policy, ENV, 5, seed=7, progress_bar=False, action_transform=lambda actions: 0.2 * actions),
        collect(policy, ENV, 5, seed=7, progress_bar=False),
    ]
    found = Trajectories.from_hdf5(folder[0] / "data.hdf5")
    for column in COLUMNS:
        assert np.array_equal(getattr(found, column), np.concatenate([getattr(t, column) for t in expected])), column


def test_split_selects_the_same_as_from_costs(folder):
    data = Trajectories.from_hdf5(folder[0] / "data.hdf5")
    expected = PreferenceBuffer.from_costs(data, LIMIT, 2, 3, seed=2)
    for name in ("preferred", "dispreferred"):
        found = Trajectories.from_hdf5(folder[0] / "chosen" / f"{name}.hdf5")
        assert np.array_equal(found.observations, getattr(expected, name).observations)
        assert np.array_equal(found.costs, getattr(expected, name).costs)


def test_train_learns_the_same_as_learn(folder, policy):
    here, _ = folder
    sets = [Trajectories.from_hdf5(here / "chosen" / f"{name}.hdf5") for name in ("preferred", "dispreferred")]
    expected = PREFINE(
        policy, PreferenceBuffer(*sets), learning_rate=3e-3, batch_size=64, sft_coef=1.2, seed=4, device="auto"
    ).learn(STEPS)
    exported = PPO.load(here / "safe.zip", device="cpu").policy.state_dict()
    resumed = PREFINE.load(here / "model.zip", device="cpu")
    assert resumed.num_timesteps == STEPS
    for name, weights in expected.policy.state_dict().items():
        torch.testing.assert_close(exported[name], weights.cpu(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(resumed.policy.state_dict()[name], weights.cpu(), rtol=1e-4, atol=1e-5)
    before = load_reference(policy).policy.state_dict()
    assert not torch.allclose(exported["action_net.bias"], before["action_net.bias"])


def test_evaluate_measures_the_same_as_evaluate_policy(folder):
    expected = evaluate_policy(folder[0] / "safe.zip", ENV, 6, seed=5)
    found = json.loads((folder[0] / "safe.json").read_text())
    assert found["episode_rewards"] == expected.episode_rewards.tolist()
    assert found["episode_costs"] == expected.episode_costs.tolist()
    assert found["episode_lengths"] == [100] * 6
    assert found["mean_reward"] == expected.mean_reward
    assert found["reward_interval"] == list(expected.reward_interval)
    assert found["cost_interval"] == list(expected.cost_interval)
    assert found["violation_rate"] == expected.violation_rate(LIMIT)
    assert found["cvar_cost"] == expected.cvar_cost()
    assert {name: found[name] for name in ("policy", "env", "deterministic", "seed", "cost_limit", "n_episodes")} == {
        "policy": "safe.zip",
        "env": ENV,
        "deterministic": True,
        "seed": 5,
        "cost_limit": LIMIT,
        "n_episodes": 6,
    }


def test_compare_tables_and_plots_each_policy(folder, policy):
    here, outcomes = folder
    for path in (policy, here / "safe.zip"):
        expected = evaluate_policy(path, ENV, 4)
        [row] = [line for line in outcomes["compare"].out.splitlines() if path.name in line]
        assert f"{expected.mean_reward:,.0f}" in row
        assert f"{expected.mean_cost:,.1f}" in row
        assert f"{expected.violation_rate(LIMIT):.0%}" in row
    assert (here / "plane.png").read_bytes().startswith(b"\x89PNG")


def test_policy_becomes_safer(folder, policy):
    before, after = (evaluate_policy(path, ENV, 6).mean_cost for path in (policy, folder[0] / "safe.zip"))
    assert after < before - 20


def test_info_describes_the_exported_zip(folder):
    out = folder[1]["info"].out
    assert "algorithm                 ppo" in out
    assert "mlp_extractor.policy_net: 7-16-16" in out
    assert "diagonal Gaussian" in out


def test_tables_are_not_cut_in_a_pipe_and_progress_goes_to_stderr(folder):
    for command, outcome in folder[1].items():
        assert "…" not in outcome.out, command
        assert "episode/s" not in outcome.out, command
    assert "episode/s" in folder[1]["collect"].err
    assert f"{STEPS}/{STEPS}" in folder[1]["train"].err
