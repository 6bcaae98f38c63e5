"""A policy that is too fast, data to make it safe, and the command line."""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO

import sb3_prefine.envs  # noqa: F401 (registers ENV)
from sb3_prefine import Trajectories, collect
from sb3_prefine.cli.main import main
from tests.worlds import make_model

# An episode has 100 steps, and a step costs 1 if the ball is too fast.
ENV = "SafetyBallRun-v0"


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error message of a command with exit code 1, without progress bars."""
        assert self.code == 1, self
        return self.err.rpartition("sb3-prefine: error: ")[2].strip()


Call = Callable[..., Outcome]


@pytest.fixture(scope="session")
def call() -> Call:
    """Runs a command in this process: ``call("info", path)``. test_readme runs commands in their own processes."""

    def call(*arguments: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        code: int | str | None = 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", ["sb3-prefine", *map(str, arguments)])
            try:
                main()
            except SystemExit as stop:
                code = stop.code
        if isinstance(code, str):
            # sys.exit with a message makes the interpreter print it and exit with 1.
            return Outcome(1, out.getvalue(), err.getvalue() + code)
        return Outcome(code or 0, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a PPO policy that rolls straight ahead, too fast."""
    model = make_model(PPO, gym.make(ENV))
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([1.0, 0.0]))
        model.policy.log_std.fill_(-1.0)
    path = tmp_path_factory.mktemp("policy") / "fast.zip"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def data(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 episodes with slow to fast balls. Their costs are about 18, 50 and 89, for 6 episodes each."""
    sets = [
        collect(policy, ENV, 6, seed=3, progress_bar=False, action_transform=lambda actions, s=scale: s * actions)
        for scale in (0.2, 0.35, 1.0)
    ]
    path = tmp_path_factory.mktemp("data") / "balls.hdf5"
    Trajectories.concatenate(sets).to_hdf5(path)
    return path


@pytest.fixture(scope="session")
def two_sets(data: Path) -> tuple[Path, Path]:
    """The files of the slow balls and of the fast balls."""
    episodes = Trajectories.from_hdf5(data)
    slow, fast = data.with_name("slow.hdf5"), data.with_name("fast.hdf5")
    episodes[:6].to_hdf5(slow)
    episodes[12:].to_hdf5(fast)
    return slow, fast
