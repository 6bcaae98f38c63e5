"""Episodes are selected by cost and return as in the paper."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from tests.data.episodes import episodes


def choose(t: Trajectories, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
    """Return the ids that ``from_costs`` chooses, after checking that its episodes have these ids."""
    buffer = PreferenceBuffer.from_costs(t, *args, **kwargs)
    assert buffer.preferred_ids is not None
    assert buffer.dispreferred_ids is not None
    for chosen, ids in ((buffer.preferred, buffer.preferred_ids), (buffer.dispreferred, buffer.dispreferred_ids)):
        assert [episode.observations[0, 0] / 6 for episode in chosen] == ids.tolist()
    return buffer.preferred_ids.tolist(), buffer.dispreferred_ids.tolist()


def rank(values: list[int], candidates: list[int]) -> list[int]:
    """Sort the candidates from the highest value to the lowest; in a tie the first one comes first."""
    ranked: list[int] = []
    rest = list(candidates)
    while rest:
        best = rest[0]
        for candidate in rest:
            if values[candidate] > values[best]:
                best = candidate
        rest.remove(best)
        ranked.append(best)
    return ranked


def share(total: int, parts: int) -> list[int]:
    """Divide ``total`` into ``parts`` shares that differ by at most one, the larger ones first."""
    shares = [0] * parts
    for turn in range(total):
        shares[turn % parts] += 1
    return shares


selections = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 8)), min_size=2, max_size=40)


@given(
    data=selections,
    cost_limit=st.integers(1, 8),
    n_preferred=st.integers(1, 12),
    n_dispreferred=st.integers(1, 6),
    seed=st.integers(0, 100),
    n_strata=st.integers(1, 12),
    pool_size=st.integers(6, 12),
    unsafe=st.sampled_from(["over_limit", "top_cost"]),
)
def test_from_costs_selects_as_the_paper_describes(
    data: list[tuple[int, int]],
    cost_limit: int,
    n_preferred: int,
    n_dispreferred: int,
    seed: int,
    n_strata: int,
    pool_size: int,
    unsafe: Any,
) -> None:
    returns, costs = [r for r, _ in data], [c for _, c in data]
    everything = list(range(len(data)))
    safe = [i for i in everything if costs[i] < cost_limit]
    over = [i for i in everything if costs[i] >= cost_limit]
    t = episodes(returns, costs)
    arguments = (t, cost_limit, n_preferred, n_dispreferred, seed)
    options = {"n_strata": n_strata, "dispreferred_pool": pool_size, "unsafe": unsafe}
    if not safe or (not over and unsafe == "over_limit"):
        with pytest.raises(ValueError, match=rf"^cost_limit: .*\b{cost_limit}\b"):
            PreferenceBuffer.from_costs(*arguments, **options)
        return

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preferred, dispreferred = choose(*arguments, **options)
        assert (preferred, dispreferred) == choose(*arguments, **options)
    warned = " ".join(str(warning.message) for warning in caught)

    better_half = rank(returns, safe)[: len(safe) - len(safe) // 2]
    n_expected = min(n_preferred, len(better_half))
    assert len(preferred) == len(set(preferred)) == n_expected
    assert preferred == sorted(preferred)
    n_strata = min(n_strata, n_expected)
    start = 0
    for size, quota in zip(share(len(better_half), n_strata), share(n_expected, n_strata), strict=True):
        assert len(set(preferred) & set(better_half[start : start + size])) == quota
        start += size
    assert start == len(better_half)
    assert ("n_preferred=" in warned) == (n_expected < n_preferred)

    candidates = over if unsafe == "over_limit" else [i for i in everything if i not in preferred]
    pool = rank(costs, candidates)[:pool_size]
    assert len(dispreferred) == len(set(dispreferred)) == min(n_dispreferred, len(pool))
    assert dispreferred == sorted(dispreferred)
    assert set(dispreferred) <= set(pool)
    assert ("n_dispreferred=" in warned) == (len(dispreferred) < n_dispreferred)
    assert not set(preferred) & set(dispreferred)
    is_costlier = np.mean([costs[i] for i in dispreferred]) > np.mean([costs[i] for i in preferred])
    assert ("cost no more" in warned) == (not is_costlier)


def test_from_costs_has_the_papers_numbers_as_defaults() -> None:
    """Of 1,000 episodes, half are safe: 100 of the better 250, 10 from each 25; 20 of the 100 costliest."""
    rng = np.random.default_rng(0)
    returns, costs = rng.permutation(1000), rng.permutation(1000)
    preferred, dispreferred = choose(episodes(returns, costs), cost_limit=500)
    assert len(preferred) == 100
    assert len(dispreferred) == 20
    assert min(costs[dispreferred]) >= 900
    assert max(costs[preferred]) < 500
    ranking = sorted(returns[costs < 500])[::-1]
    for stratum in range(10):
        assert np.isin(returns[preferred], ranking[25 * stratum : 25 * stratum + 25]).sum() == 10


def test_episodes_of_strata_and_pool_are_drawn_equally_often() -> None:
    """2 episodes are drawn from each of 3 strata of 4, and 3 from a pool of 5: 1/2 and 3/5 of the time."""
    t = episodes(range(36), [0] * 24 + list(range(20, 32)))
    n_seeds = 500
    drawn = np.zeros(36)
    for seed in range(n_seeds):
        buffer = PreferenceBuffer.from_costs(t, 10, 6, 3, seed, n_strata=3, dispreferred_pool=5)
        drawn[buffer.preferred_ids] += 1
        drawn[buffer.dispreferred_ids] += 1
    expected = np.array([0.0] * 12 + [0.5] * 12 + [0.0] * 7 + [0.6] * 5)
    # Five standard deviations of a binomial.
    assert (np.abs(drawn / n_seeds - expected) <= 5 * np.sqrt(expected * (1 - expected) / n_seeds)).all()


def test_size_and_strata_of_one_set_do_not_change_the_other() -> None:
    t = episodes(range(200), np.random.default_rng(0).permutation(200))
    first = choose(t, 100, 10, 5, 3)
    assert choose(t, 100, 20, 5, 3, n_strata=7)[1] == first[1]
    assert choose(t, 100, 10, 8, 3)[0] == first[0]
    assert choose(t, 100, 10, 5, 4)[0] != first[0]
    assert choose(t, 100, 10, 5, 4)[1] != first[1]


def test_too_few_safe_episodes_are_all_taken_with_a_warning() -> None:
    t = episodes([4, 3, 2, 1, 0, 9, 9], [0, 0, 0, 0, 0, 7, 8])
    with pytest.warns(UserWarning, match=r"^n_preferred=100: only 3 ") as caught:
        preferred, dispreferred = choose(t, 5, 100, 2)
    assert caught[0].filename.endswith("test_selection.py")
    assert (preferred, dispreferred) == ([0, 1, 2], [5, 6])


def test_too_few_unsafe_episodes_are_all_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"^n_dispreferred=20: only 2 "):
        preferred, dispreferred = choose(episodes([4, 3, 9, 9], [0, 0, 7, 8]), 5, 1)
    assert (preferred, dispreferred) == ([0], [2, 3])


def test_an_episode_at_the_limit_is_unsafe() -> None:
    assert choose(episodes([1, 2], [4.5, 5]), 5, 1, 1) == ([0], [1])


def test_data_without_safe_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^cost_limit: .*2 episodes .*5; they cost 6 to 12\.5"):
        PreferenceBuffer.from_costs(episodes([1, 2], [12.5, 6]), 5)
    with pytest.raises(ValueError, match=r"^cost_limit: .*2 episodes .*0; they cost 0 to 3"):
        PreferenceBuffer.from_costs(episodes([1, 2], [0, 3]), 0)


def test_data_without_unsafe_episodes_are_refused_unless_top_cost() -> None:
    t = episodes([4, 3, 2, 1], [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"^cost_limit: .*5 .*0 to 3.*unsafe='top_cost'"):
        PreferenceBuffer.from_costs(t, 5, 1, 1)
    assert choose(t, 5, 2, 1, unsafe="top_cost", dispreferred_pool=1) == ([0, 1], [3])
    with pytest.raises(ValueError, match=r"^cost_limit: .*unsafe='top_cost'"):
        PreferenceBuffer.from_costs(episodes([1], [1]), 5, 1, 1, unsafe="top_cost")


def test_dispreferred_sets_that_cost_no_more_give_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"^unsafe='top_cost': .*mean 1.*mean 4"):
        choose(episodes([9, 1], [4, 1]), 5, 1, 1, unsafe="top_cost")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost_limit": -1}, "cost_limit: .*-1"),
        ({"cost_limit": np.nan}, "cost_limit: .*nan"),
        ({"n_preferred": 0}, "n_preferred: .*0"),
        ({"n_dispreferred": -3}, "n_dispreferred: .*-3"),
        ({"n_preferred": 1.5}, r"n_preferred: .*1\.5"),
        ({"n_strata": 0}, "n_strata: .*0"),
        ({"dispreferred_pool": 0}, "dispreferred_pool: .*0"),
        ({"n_dispreferred": 5, "dispreferred_pool": 4}, "n_dispreferred: 5 .*dispreferred_pool=4"),
        ({"unsafe": "worst"}, "unsafe: 'worst' .*over_limit, top_cost"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        PreferenceBuffer.from_costs(episodes([1, 2], [0, 9]), **{"cost_limit": 5, **arguments})


def test_unknown_costs_are_refused_and_the_advice_works() -> None:
    trajectories = episodes([1, 2, 3, 4], [0, np.nan, 9, np.nan])
    with pytest.raises(ValueError, match=r"^trajectories: .*2 of 4 .*episode 1\)"):
        PreferenceBuffer.from_costs(trajectories, 5)
    known = trajectories[~np.isnan(trajectories.episode_costs)]
    assert PreferenceBuffer.from_costs(known, 5, 1, 1).dispreferred.episode_costs.tolist() == [9]


def test_from_costs_needs_trajectories() -> None:
    with pytest.raises(TypeError, match=r"^trajectories: .*str"):
        PreferenceBuffer.from_costs("data.hdf5", 5)  # type: ignore[arg-type]
