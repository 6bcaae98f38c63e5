"""Whose the preferred episodes are, and what cloning loses."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import records
from benchmarks.analyses import layout_luck
from benchmarks.analyses.layout_luck import Options, authors, cloning, costs_of_others, main
from benchmarks.datasets import generate
from benchmarks.datasets.generate import jobs_of, roll_out
from sb3_prefine import Trajectories, collect, dsrl
from tests.benchmarks import agents

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # there are fewer episodes than the paper's
TASK = dsrl.find_task("BallRun")
N_EPISODES = 10


@pytest.fixture(scope="module")
def rolled(tmp_path_factory) -> Iterator[Trajectories]:
    """Three episodes of the first two agents, two of the last two, while they are the agents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "WEIGHTS", agents.save(tmp_path_factory.mktemp("weights")))
        patch.setattr(generate, "NOISE_FACTORS", {"BallRun": (1.0,)})
        yield roll_out(TASK, N_EPISODES, seed=0, workers=1)


def test_the_agent_of_an_episode_is_found(rolled):
    expected = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(authors(TASK, rolled, N_EPISODES), expected)
    some = np.array([9, 0, 4])
    np.testing.assert_array_equal(authors(TASK, rolled[some], N_EPISODES), expected[some])


def test_episodes_of_others_are_refused(rolled):
    job = jobs_of(TASK, N_EPISODES, seed=0)[0]
    foreign = collect(job.agent, job.env_id, 2, seed=99, progress_bar=False)
    with pytest.raises(ValueError, match="BallRun: 2 of 12 episodes are of none of the agents"):
        authors(TASK, rolled + foreign, N_EPISODES)


def test_the_costs_of_others_by_hand():
    costs, agents_of = np.array([0.0, 10.0, 20.0, 5.0, 7.0]), np.array([0, 0, 0, 1, 2])
    np.testing.assert_allclose(costs_of_others(costs, agents_of, np.array([0, 2, 3])), [15.0, 5.0])


def test_the_luck_of_a_task_is_that_of_its_preferred_episodes(rolled):
    found = layout_luck.luck(TASK, rolled, N_EPISODES, seed=0)
    whose, costs = authors(TASK, rolled, N_EPISODES), rolled.episode_costs
    preferred = layout_luck.paper.choose(TASK, rolled, 0).preferred_ids
    others = [costs[[j for j in range(N_EPISODES) if j != i and whose[j] == whose[i]]].mean() for i in preferred]
    assert found["preferred_cost"] == pytest.approx(costs[preferred].mean())
    assert found["others_cost"]["mean"] == pytest.approx(np.mean(others))
    assert found["others_cost"]["low"] <= np.mean(others) <= found["others_cost"]["high"]
    assert found["with_others"] == len(preferred)


def test_a_careful_agent_is_cloned_from_its_own_episodes():
    found = cloning(dsrl.find_task("PointGoal1"), Options(episodes=1, steps=200, evaluation_episodes=2))
    assert (found["agent"]["robot"], found["agent"]["caution"]) == ("Point", layout_luck.CAREFUL["caution"])
    returns = {name: found[name]["rewards"] for name in ("of_agent", "of_clone", "of_clone_by_samples")}
    assert all(len(values) == 2 for values in returns.values())
    assert np.mean(returns["of_agent"]) > 5
    assert returns["of_agent"] != returns["of_clone"] != returns["of_clone_by_samples"]


def test_a_record_that_is_there_is_kept(tmp_path, data, capsys):
    records.save(tmp_path / "CarGoal1.json", {"preferred_cost": 1.0})
    main(("CarGoal1",), data=data, results=tmp_path)
    assert "is there already" in capsys.readouterr().out
    assert records.load(tmp_path / "CarGoal1.json") == {"preferred_cost": 1.0}


def test_tasks_without_layouts_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match=r"found BallRun\. Only PointGoal1 and CarGoal1 have layouts"):
        main(("BallRun",), data=data, results=tmp_path)
