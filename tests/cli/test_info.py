import os
import zipfile

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_prefine import PREFINE, Trajectories
from sb3_prefine.cli.demo import DATA
from sb3_prefine.cli.describe_data import histogram
from tests.worlds import env_with_actions, make_model, preferences, trajectories

# Files of episodes


def test_data_file_is_described(call, data):
    out = call("info", data).out
    episodes = Trajectories.from_hdf5(data)
    assert f"{data}: 18 episodes, 1,800 transitions" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert rows["observations"][1:] == ["(1800,", "7)", "float32"]
    assert rows["timeouts"][1:] == ["(1800,)", "bool"]
    for name, values in (("return", episodes.episode_returns), ("cost", episodes.episode_costs)):
        expected = [values.min(), np.quantile(values, 0.1), np.median(values), np.quantile(values, 0.9), values.max()]
        assert rows[name][1:7] == [f"{number:,.1f}" for number in (*expected, values.mean())]
    assert rows["length"][1:7] == ["100"] * 6


def test_all_attributes_and_datasets_are_shown(call, data, tmp_path):
    path = tmp_path / "no_suffix"  # info recognises HDF5 by its content
    path.write_bytes(data.read_bytes())
    with h5py.File(path, "a") as file:
        file.create_dataset("extra/steps", data=np.arange(3, dtype=np.int16))
        file.attrs.update({"recorded_by": np.bytes_("Ann"), "limits": [1, 2], "robot": "[bold]ball"})
    out = call("info", path).out
    assert ["extra/steps", "(3,)", "int16"] in [line.split() for line in out.splitlines()]
    for line in ("recorded_by: Ann", "limits: [1 2]", "robot: [bold]ball"):
        assert line in out.splitlines()


def test_unknown_costs_are_counted(call, tmp_path):
    known, unknown = trajectories([0.0, 1.0, 0.0], 2), trajectories([0.0, 1.0, 0.0], 3)
    columns = {name: getattr(unknown, name) for name in ("observations", "next_observations", "actions", "rewards")}
    flags = {name: getattr(unknown, name) for name in ("terminals", "timeouts")}
    unknown = Trajectories(**columns, **flags, costs=np.full(30, np.nan))
    (known + unknown).to_hdf5(tmp_path / "some.hdf5")
    assert "cost (3 unknown)" in call("info", tmp_path / "some.hdf5").out
    unknown.to_hdf5(tmp_path / "none.hdf5")
    out = call("info", tmp_path / "none.hdf5").out
    assert [line.split() for line in out.splitlines() if line.strip().startswith("cost ")] == [["cost", "unknown"]]


@pytest.mark.parametrize("content", [None, b"", b"text", "cut", "empty"])
def test_unreadable_data_file_is_one_line(call, data, tmp_path, content):
    path = tmp_path / "x.hdf5"
    if content == "cut":
        path.write_bytes(data.read_bytes()[:3000])
    elif content == "empty":
        h5py.File(path, "w").close()
    elif content is not None:
        path.write_bytes(content)
    outcome = call("info", path)
    assert outcome.error.startswith(f"{path}: ")
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.integers(1, 30))
def test_histogram_bars_follow_the_counts_of_the_bins(values, n_bins):
    bars = histogram(np.array(values, dtype=np.float64), n_bins)
    assert len(bars) == n_bins
    low, high = (min(values), max(values)) if len(set(values)) > 1 else (values[0] - 0.5, values[0] + 0.5)
    width = (high - low) / n_bins
    counts = [0] * n_bins
    for value in values:
        position = (value - low) / width
        # Rounding decides to which bin a value on a border belongs.
        assume(abs(position - round(position)) > 1e-9 or value in (low, high))
        counts[min(int(position), n_bins - 1)] += 1
    assert [bar == " " for bar in bars] == [count == 0 for count in counts]
    assert [bar == "█" for bar, count in zip(bars, counts, strict=True) if count == max(counts)] == [
        True
    ] * counts.count(max(counts))
    by_count = sorted(zip(counts, bars, strict=True))
    assert [bar for _, bar in by_count] == sorted((bar for _, bar in by_count), key=" ▁▂▃▄▅▆▇█".index)


# Checkpoints


def properties(outcome):
    """The values by their labels. If a label has several values, they are a list."""
    found: dict[str, list[str]] = {}
    for line in outcome.out.splitlines()[1:]:
        found.setdefault(line[:28].strip(), []).append(line[28:].strip())
    return {label: values[0] if len(values) == 1 else values for label, values in found.items()}


@pytest.mark.parametrize(
    ("algorithm", "env", "expected"),
    [
        (
            PPO,
            None,
            {
                "algorithm": "ppo",
                "policy": "stable_baselines3.common.policies.ActorCriticPolicy",
                "observations": "Box(-inf, inf, (5,), float32)",
                "network": [
                    "mlp_extractor.policy_net: 5-16-16",
                    "mlp_extractor.value_net: 5-16-16",
                    "action_net: 16-3",
                    "value_net: 16-1",
                ],
                "likelihood": "diagonal Gaussian",
            },
        ),
        (SAC, None, {"algorithm": "sac", "likelihood": "squashed Gaussian"}),
        (PPO, env_with_actions(spaces.Discrete(4)), {"actions": "Discrete(4)", "likelihood": "categorical"}),
    ],
)
def test_checkpoint_is_described(call, tmp_path, algorithm, env, expected):
    model = make_model(algorithm, env and env())
    model.save(tmp_path / "model.zip")
    found = properties(call("info", tmp_path / "model.zip"))
    assert expected.items() <= found.items()
    assert found["file"] == str(tmp_path / "model.zip")
    assert found["parameters"] == f"{sum(p.numel() for p in model.policy.parameters()):,}"
    assert found["opens without unpickling"] == "yes"
    assert found["normaliser"] == found["env wrappers"] == "none"


def test_convolutions_are_shown(call, tmp_path):
    class Screen(env_with_actions(spaces.Discrete(2))):
        observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    PPO("CnnPolicy", Screen(), seed=0, device="cpu").save(tmp_path / "screen.zip")
    networks = properties(call("info", tmp_path / "screen.zip"))["network"]
    assert "features_extractor.cnn: conv 3x8x8-32-conv 32x4x4-64-conv 64x3x3-64" in networks


@pytest.mark.parametrize(
    ("algorithm", "env", "reason"),
    [(TD3, "Pendulum-v1", "TD3"), (DQN, "CartPole-v1", "DQN")],
)
def test_policy_without_a_likelihood_is_described_with_the_reason(call, tmp_path, algorithm, env, reason):
    make_model(algorithm, gym.make(env)).save(tmp_path / "model.zip")
    likelihood = properties(call("info", tmp_path / "model.zip"))["likelihood"]
    assert likelihood.startswith("none: policy: ")
    assert reason in likelihood


def test_normaliser_is_described(call):
    found = properties(call("info", DATA / "reference.zip"))
    assert found["normaliser"] == "VecNormalize over 1,001,480 observations, clipped to ±10"


def test_name_in_the_zoo_is_described_with_its_wrappers(call, zoo):
    found = properties(call("info", "ppo/Walker2d-v3"))
    assert found["file"].startswith(str(zoo))
    assert found["env wrappers"] == "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    assert "," not in found["network"][0]


def test_zip_of_prefine_is_recognised(call, tmp_path):
    PREFINE(make_model(PPO), preferences(), device="cpu").learn(1).save(tmp_path / "model.zip")
    found = properties(call("info", tmp_path / "model.zip"))
    assert found["written by"].startswith("PREFINE.save")
    assert found["algorithm"] == "ppo"


class OwnExtractor(FlattenExtractor):
    """A class of the user, which only unpickling finds."""


def test_checkpoint_that_needs_unpickling_is_described_with_trust(call, tmp_path):
    make_model(PPO, policy_kwargs={"features_extractor_class": OwnExtractor}).save(tmp_path / "own.zip")
    assert "trust=True" in call("info", tmp_path / "own.zip").error
    found = properties(call("info", tmp_path / "own.zip", "--trust"))
    assert found["opens without unpickling"].startswith("no: ")
    assert "features_extractor_class" in found["opens without unpickling"]
    assert found["algorithm"] == "ppo"


def test_missing_normaliser_is_an_error(call, tmp_path):
    (tmp_path / "alone.zip").write_bytes((DATA / "reference.zip").read_bytes())
    assert "normalizer=False" in call("info", tmp_path / "alone.zip").error
    assert properties(call("info", tmp_path / "alone.zip", "--normalizer", "false"))["normaliser"] == "none"


@pytest.mark.parametrize("content", [None, b"", b"text", "cut", "foreign", "junk"])
def test_unreadable_checkpoint_is_one_line(call, policy, tmp_path, content):
    path = tmp_path / "x.zip"
    if content == "cut":
        path.write_bytes(policy.read_bytes()[: os.path.getsize(policy) // 2])
    elif content in ("foreign", "junk"):
        with zipfile.ZipFile(policy) as good, zipfile.ZipFile(path, "w") as bad:
            bad.writestr("data", good.read("data"))
            if content == "junk":
                bad.writestr("policy.pth", b"junk")
    elif content is not None:
        path.write_bytes(content)
    outcome = call("info", path)
    assert str(path) in outcome.error
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
