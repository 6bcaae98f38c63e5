"""How often robots stand still."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import paper, records
from benchmarks.analyses.standing_still import main, standing_shares
from benchmarks.datasets.goal_seeker import GoalSeeker
from sb3_prefine import Trajectories, collect, dsrl


def walk(*speeds: np.ndarray) -> Trajectories:
    """Make an episode for each array of speeds. Directions are arbitrary."""
    speed = np.concatenate(speeds)
    observations = np.full((len(speed), 60), 9.0, np.float32)
    observations[:, 3], observations[:, 4] = 0.6 * speed, -0.8 * speed
    zeros = np.zeros(len(speed), np.float32)
    timeouts = np.zeros(len(speed), bool)
    timeouts[np.cumsum([len(part) for part in speeds]) - 1] = True
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=np.zeros((len(speed), 2), np.float32),
        rewards=zeros,
        costs=zeros,
        terminals=np.zeros(len(speed), bool),
        timeouts=timeouts,
    )


def test_standing_shares_match_hand_computation():
    runs_on = np.full(400, 0.8)
    stops = np.r_[np.full(100, 0.8), np.full(300, 0.01)]
    starts_late = np.r_[np.full(300, 0.01), np.full(100, 0.8)]
    found = standing_shares(walk(runs_on, stops, starts_late), "Point")
    assert found == {"steps": 0.5, "episodes": pytest.approx(1 / 3, abs=1e-4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with data of PointGoal1, from a careful agent and from one that ignores hazards."""
    folder = tmp_path_factory.mktemp("standing")
    agents = [GoalSeeker("Point", 1.0, 0.2, 6.0, 0.05), GoalSeeker("Point", 2.2, 0.0, 0.0, 0.05)]
    parts = [collect(agent, "SafetyPointGoal1-v0", 3, seed=1, progress_bar=False) for agent in agents]
    Trajectories.concatenate(parts).to_hdf5(folder / "PointGoal1.hdf5")
    return folder


@pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper
def test_clones_are_measured_and_existing_record_is_kept(folder, capsys):
    where = {"tier": "smoke", "seeds": (0,), "data": folder, "results": folder / "results", "cache": folder / "cache"}
    main(("PointGoal1",), **where)
    record = records.load(folder / "results" / "PointGoal1.json")
    data = Trajectories.from_hdf5(folder / "PointGoal1.hdf5")
    preferred = paper.choose_sets(dsrl.find_task("PointGoal1"), data, seed=0).preferred
    assert record["preferred"] == standing_shares(preferred, "Point")
    assert record["BC"]["steps"] != record["PREFINE"]["steps"] != record["preferred"]["steps"]
    main(("PointGoal1",), **where)
    assert "exists already" in capsys.readouterr().out


def test_tasks_that_are_not_goal_tasks_raise(tmp_path):
    with pytest.raises(ValueError, match=r"^tasks: .*BallRun"):
        main(("BallRun",), results=tmp_path)
