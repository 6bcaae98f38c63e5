"""Agents of the preferred episodes, and the cost of clones."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import records
from benchmarks.analyses import layout_luck
from benchmarks.analyses.layout_luck import Options, find_agents, main, mean_costs_of_other_episodes, measure_cloning
from benchmarks.datasets import generate
from benchmarks.datasets.generate import jobs_of, roll_out
from sb3_prefine import Trajectories, collect, dsrl
from tests.benchmarks import agents

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper
TASK = dsrl.find_task("BallRun")
N_EPISODES = 10


@pytest.fixture(scope="module")
def rolled(tmp_path_factory) -> Iterator[Trajectories]:
    """Three episodes of each of the first two agents, and two of each of the last two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "WEIGHTS", agents.save(tmp_path_factory.mktemp("weights")))
        patch.setattr(generate, "NOISE_FACTORS", {"BallRun": (1.0,)})
        yield roll_out(TASK, N_EPISODES, seed=0, workers=1)


def test_agent_of_each_episode_is_found(rolled):
    expected = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(find_agents(TASK, rolled, N_EPISODES), expected)
    some = np.array([9, 0, 4])
    np.testing.assert_array_equal(find_agents(TASK, rolled[some], N_EPISODES), expected[some])


def test_episodes_of_unknown_agents_raise(rolled):
    job = jobs_of(TASK, N_EPISODES, seed=0)[0]
    foreign = collect(job.agent, job.env_id, 2, seed=99, progress_bar=False)
    with pytest.raises(ValueError, match=r"^BallRun: 2 of 12 episodes"):
        find_agents(TASK, rolled + foreign, N_EPISODES)


def test_mean_costs_of_other_episodes_match_hand_computation():
    costs, agents_of = np.array([0.0, 10.0, 20.0, 5.0, 7.0]), np.array([0, 0, 0, 1, 2])
    np.testing.assert_allclose(mean_costs_of_other_episodes(costs, agents_of, np.array([0, 2, 3])), [15.0, 5.0])


def test_layout_luck_is_measured_on_preferred_episodes(rolled):
    found = layout_luck.measure_layout_luck(TASK, rolled, N_EPISODES, seed=0)
    whose, costs = find_agents(TASK, rolled, N_EPISODES), rolled.episode_costs
    preferred = layout_luck.paper.choose_sets(TASK, rolled, 0).preferred_ids
    others = [costs[[j for j in range(N_EPISODES) if j != i and whose[j] == whose[i]]].mean() for i in preferred]
    assert found["preferred_cost"] == pytest.approx(costs[preferred].mean())
    assert found["others_cost"]["mean"] == pytest.approx(np.mean(others))
    assert found["others_cost"]["low"] <= np.mean(others) <= found["others_cost"]["high"]
    assert found["with_others"] == len(preferred)


def test_careful_agent_is_cloned_from_its_own_episodes():
    found = measure_cloning(dsrl.find_task("PointGoal1"), Options(episodes=1, steps=200, evaluation_episodes=2))
    assert (found["agent"]["robot"], found["agent"]["caution"]) == ("Point", layout_luck.CAREFUL_AGENT["caution"])
    returns = {name: found[name]["rewards"] for name in ("of_agent", "of_clone", "of_clone_stochastic")}
    assert all(len(values) == 2 for values in returns.values())
    assert np.mean(returns["of_agent"]) > 5
    assert returns["of_agent"] != returns["of_clone"] != returns["of_clone_stochastic"]


def test_existing_record_is_kept(tmp_path, data, capsys):
    records.save(tmp_path / "CarGoal1.json", {"preferred_cost": 1.0})
    main(("CarGoal1",), data=data, results=tmp_path)
    assert "exists already" in capsys.readouterr().out
    assert records.load(tmp_path / "CarGoal1.json") == {"preferred_cost": 1.0}


def test_tasks_without_layouts_raise(tmp_path, data):
    with pytest.raises(ValueError, match=r"^tasks: .*BallRun"):
        main(("BallRun",), data=data, results=tmp_path)
