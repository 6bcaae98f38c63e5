"""A small file with BallRun episodes."""

from pathlib import Path

import pytest

from sb3_prefine import Trajectories, collect
from tests.benchmarks import agents


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with BallRun.hdf5: six safe episodes, then six unsafe ones."""
    folder = tmp_path_factory.mktemp("data")
    episodes = [
        collect(agents.pushing(push), "SafetyBallRun-v0", 3, n_envs=3, seed=i, progress_bar=False)
        for i, push in enumerate(agents.PUSHES)
    ]
    Trajectories.concatenate(episodes).to_hdf5(folder / "BallRun.hdf5")
    return folder
