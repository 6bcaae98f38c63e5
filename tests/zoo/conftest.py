"""A policy that is too fast in SafetyBallRun-v0, in RL Zoo's layout, and data to slow it down."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import yaml
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids)
from sb3_prefine import Trajectories, collect
from sb3_prefine.zoo import enjoy as zoo_enjoy
from sb3_prefine.zoo import train as zoo_train

ENV_ID = "SafetyBallRun-v0"


@dataclass(frozen=True)
class Case:
    """A checkpoint in RL Zoo's layout, and the files of its data."""

    folder: Path
    zip_path: Path
    dataset: Path
    preferred: Path
    dispreferred: Path

    @property
    def two_sets(self) -> list[str]:
        """The two sets as arguments of ``-params``."""
        return [f"preferred:'{self.preferred}'", f"dispreferred:'{self.dispreferred}'"]


Command = Callable[..., None]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``python -m sb3_prefine.zoo.train`` in this process. The logs are in ``tmp_path / "logs"``."""

    def run(*arguments: str) -> None:
        defaults = ["--algo", "prefine", "--env", ENV_ID, "-f", str(tmp_path / "logs"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["train", *defaults, "--seed", "3", "--verbose", "0", *arguments])
        zoo_train.main()

    return run


@pytest.fixture
def enjoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``python -m sb3_prefine.zoo.enjoy`` in this process."""

    def run(*arguments: str) -> None:
        defaults = ["--algo", "prefine", "--env", ENV_ID, "-f", str(tmp_path / "logs"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["enjoy", *defaults, "--no-render", *arguments])
        zoo_enjoy.main()

    return run


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A policy that was trained with VecNormalize."""
    venv = VecNormalize(DummyVecEnv([lambda: gym.make(ENV_ID)]))
    return _write(tmp_path_factory.mktemp("normalised"), venv, {"normalize": True})


@pytest.fixture(scope="session")
def timed_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A policy that was trained with TimeFeatureWrapper, so it has one more observation than the environment."""
    venv = DummyVecEnv([lambda: TimeFeatureWrapper(gym.make(ENV_ID))])
    config = {"env_wrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper"}
    return _write(tmp_path_factory.mktemp("timed"), venv, config)


def _write(root: Path, venv: VecEnv, config: dict) -> Case:
    model = PPO(
        "MlpPolicy",
        venv,
        n_steps=64,
        batch_size=64,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [16, 16], "log_std_init": -2.0},
    )
    model.learn(64)  # for the statistics of VecNormalize
    with torch.no_grad():
        # Full speed ahead: about 90 of 100 steps have a cost.
        model.policy.action_net.weight.mul_(0.1)
        model.policy.action_net.bias.copy_(torch.tensor([1.0, 0.0]))
    folder = root / "ppo" / f"{ENV_ID}_1"
    (folder / ENV_ID).mkdir(parents=True)
    model.save(folder / f"{ENV_ID}.zip")
    (folder / ENV_ID / "config.yml").write_text(yaml.safe_dump(config))
    if isinstance(venv, VecNormalize):
        venv.save(folder / ENV_ID / "vecnormalize.pkl")

    bad = collect(folder, ENV_ID, 6, n_envs=6, seed=0, progress_bar=False)
    good = collect(folder, ENV_ID, 6, n_envs=6, seed=1, progress_bar=False, action_transform=lambda a: 0.12 * a)
    assert good.episode_costs.max() < 20 < 80 < bad.episode_costs.min()
    files = {"dataset": Trajectories.concatenate([bad, good]), "preferred": good, "dispreferred": bad}
    for name, episodes in files.items():
        episodes.to_hdf5(root / f"{name}.hdf5")
    return Case(folder, folder / f"{ENV_ID}.zip", *(root / f"{name}.hdf5" for name in files))
