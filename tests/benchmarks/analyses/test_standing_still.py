"""Who stands still, by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import paper, records
from benchmarks.analyses.standing_still import main, standing
from benchmarks.datasets.goal_seeker import GoalSeeker
from sb3_prefine import Trajectories, collect, dsrl


def walk(*speeds: np.ndarray) -> Trajectories:
    """An episode for each array of speeds, in a direction that does not matter."""
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


def test_steps_and_ends_by_hand():
    runs_on = np.full(400, 0.8)
    stops = np.r_[np.full(100, 0.8), np.full(300, 0.01)]
    goes_on = np.r_[np.full(300, 0.01), np.full(100, 0.8)]
    found = standing(walk(runs_on, stops, goes_on), "Point")
    assert found == {"steps": 0.5, "episodes": pytest.approx(1 / 3, abs=1e-4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of PointGoal1: a careful agent, and one that looks at no hazard."""
    folder = tmp_path_factory.mktemp("standing")
    agents = [GoalSeeker("Point", 1.0, 0.2, 6.0, 0.05), GoalSeeker("Point", 2.2, 0.0, 0.0, 0.05)]
    parts = [collect(agent, "SafetyPointGoal1-v0", 3, seed=1, progress_bar=False) for agent in agents]
    Trajectories.concatenate(parts).to_hdf5(folder / "PointGoal1.hdf5")
    return folder


@pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # there are fewer episodes than the paper's
def test_clones_are_measured_and_a_record_that_is_there_is_kept(folder, capsys):
    where = {"tier": "smoke", "seeds": (0,), "data": folder, "results": folder / "results", "cache": folder / "cache"}
    main(("PointGoal1",), **where)
    record = records.load(folder / "results" / "PointGoal1.json")
    data = Trajectories.from_hdf5(folder / "PointGoal1.hdf5")
    preferred = paper.choose(dsrl.find_task("PointGoal1"), data, seed=0).preferred
    assert record["preferred"] == standing(preferred, "Point")
    assert record["BC"]["steps"] != record["PREFINE"]["steps"] != record["preferred"]["steps"]
    main(("PointGoal1",), **where)
    assert "is there already" in capsys.readouterr().out


def test_other_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found BallRun\. Name Goal tasks: PointGoal1 and CarGoal1"):
        main(("BallRun",), results=tmp_path)
