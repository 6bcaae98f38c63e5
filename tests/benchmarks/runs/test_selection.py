"""The choice of the two sets."""

import numpy as np
import pytest

from benchmarks.runs.selection import Selection, choose_sets
from sb3_prefine import Trajectories, dsrl
from tests.benchmarks.datasets.test_generate import one_step_episodes

TASK = dsrl.find_task("BallRun")
# Distinct returns, so that episodes can be identified; 60 are safe, 40 are not.
RETURNS = np.arange(100.0) + 100
COSTS = np.where(np.arange(100) % 5 < 3, 10.0, 60.0)


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return one_step_episodes(RETURNS, COSTS, TASK)


def returns(trajectories: Trajectories) -> set[float]:
    return set(trajectories.episode_returns.round(3).tolist())


def test_default_selection_is_the_papers(trajectories):
    sets = choose_sets(TASK, trajectories, Selection(n_preferred=10, n_dispreferred=4))
    safe = RETURNS[COSTS < 40]
    assert len(sets.preferred) == 10
    assert min(returns(sets.preferred)) >= np.sort(safe)[30]  # the better half
    assert len(sets.dispreferred) == 4
    assert sets.dispreferred.episode_costs.tolist() == [60.0] * 4


def test_all_safe_episodes_earn_less_than_the_better_half(trajectories):
    of = {
        pool: choose_sets(TASK, trajectories, Selection(pool=pool, n_preferred=25))
        for pool in ("better_half", "all_safe")
    }
    assert of["all_safe"].preferred.episode_costs.max() < 40
    assert len(of["all_safe"].preferred) == 25
    assert of["all_safe"].preferred.episode_returns.mean() < of["better_half"].preferred.episode_returns.mean()
    assert returns(of["all_safe"].dispreferred) == returns(of["better_half"].dispreferred)


def test_flipped_episodes_move_to_the_other_set(trajectories):
    plain, flipped = (
        choose_sets(TASK, trajectories, Selection(n_preferred=20, n_dispreferred=10, flipped=share))
        for share in (0.0, 0.2)
    )
    assert (len(flipped.preferred), len(flipped.dispreferred)) == (20 - 4 + 2, 10 - 2 + 4)
    assert len(returns(flipped.preferred) & returns(plain.dispreferred)) == 2
    assert len(returns(flipped.dispreferred) & returns(plain.preferred)) == 4
    everything = returns(plain.preferred) | returns(plain.dispreferred)
    assert returns(flipped.preferred) | returns(flipped.dispreferred) == everything


def test_too_few_episodes_are_not_flipped(trajectories):
    flipped = choose_sets(TASK, trajectories, Selection(n_preferred=1, n_dispreferred=1, flipped=0.4))
    assert (len(flipped.preferred), len(flipped.dispreferred)) == (1, 1)


def test_unsafe_episodes_of_the_reference_are_dispreferred(trajectories):
    reference_episodes = one_step_episodes(RETURNS + 1000, COSTS, TASK)
    sets = choose_sets(TASK, trajectories, Selection(dispreferred="reference", n_dispreferred=7), reference_episodes)
    assert len(sets.dispreferred) == 7
    assert min(returns(sets.dispreferred)) > 1000
    assert sets.dispreferred.episode_costs.min() == 60


def test_safe_reference_without_dispreferred_episodes_raises(trajectories):
    reference_episodes = one_step_episodes(RETURNS, np.zeros(100), TASK)
    with pytest.raises(ValueError, match=rf"^{TASK.name}: .*100 episodes.* 40\b"):
        choose_sets(TASK, trajectories, Selection(dispreferred="reference"), reference_episodes)


def test_draw_determines_the_chosen_episodes(trajectories):
    def preferred(draw: int) -> set[float]:
        return returns(choose_sets(TASK, trajectories, Selection(pool="all_safe", n_preferred=10, draw=draw)).preferred)

    assert preferred(0) == preferred(0) != preferred(1)


def test_name_has_differences_from_the_paper():
    assert Selection().name == "tau40-draw0"
    changed = Selection(tau=30, draw=2, n_preferred=5, pool="all_safe", flipped=0.1, dispreferred="reference")
    assert changed.name == "tau30-draw2-n_preferred=5-pool=all_safe-flipped=0.1-dispreferred=reference"
