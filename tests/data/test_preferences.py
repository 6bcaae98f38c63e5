"""The two sets: chosen as the paper chooses them, refused where they do not fit the policy."""

import pickle
import re
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.wrappers import TimeFeatureWrapper

from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories


def episodes(returns: Any, costs: Any, **replaced: np.ndarray) -> Trajectories:
    """Episodes of two steps with these returns and costs, each recognisable by its first observation."""
    n = len(returns)
    returns, costs = np.asarray(returns, float), np.asarray(costs, float)
    columns: dict[str, np.ndarray] = {
        "observations": np.arange(2 * n * 3).reshape(2 * n, 3).astype(np.float32),
        "next_observations": np.arange(2 * n * 3).reshape(2 * n, 3).astype(np.float32),
        "actions": np.zeros((2 * n, 2)),
        "rewards": np.stack([returns - 1, np.ones(n)], 1).ravel(),
        "costs": np.stack([costs, np.where(np.isnan(costs), np.nan, 0)], 1).ravel(),
        "terminals": np.zeros(2 * n, bool),
        "timeouts": np.tile([False, True], n),
    }
    return Trajectories(**{**columns, **replaced})


def buffer_of(**replaced: np.ndarray) -> PreferenceBuffer:
    """Two preferred and three dispreferred episodes; ``replaced`` columns are those of the dispreferred."""
    shared = {name: column[:1].repeat(4, 0) for name, column in replaced.items() if name in ("observations", "actions")}
    if "observations" in shared:
        shared["next_observations"] = shared["observations"]
        replaced.setdefault("next_observations", replaced["observations"])
    return PreferenceBuffer(episodes([5, 6], [0, 1], **shared), episodes([7, 8, 9], [5, 6, 7], **replaced))


# The buffer


def test_something_else_than_trajectories_is_refused_by_name() -> None:
    t = episodes([1], [1])
    with pytest.raises(TypeError, match=r"preferred: expected Trajectories, got list.*from_hdf5"):
        PreferenceBuffer([t], t)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dispreferred: expected Trajectories, got NoneType"):
        PreferenceBuffer(preferred=t, dispreferred=None)  # type: ignore[arg-type]


def test_sets_from_different_environments_are_refused() -> None:
    t = episodes([1, 2], [1, 2])
    wider = episodes([1], [1], observations=np.zeros((2, 4)), next_observations=np.zeros((2, 4)))
    with pytest.raises(
        ValueError, match=r"observations of preferred have shape \(3,\).*observations of dispreferred have \(4,\)"
    ):
        PreferenceBuffer(t, wider)
    with pytest.raises(
        ValueError, match=r"actions of preferred .* float32, actions of dispreferred have \(\) and int64"
    ):
        PreferenceBuffer(t, episodes([1], [1], actions=np.zeros(2, int)))


def test_there_is_one_id_for_each_episode_and_it_stays() -> None:
    t = episodes([1, 2], [1, 2])
    ids = np.array([4, 7])
    buffer = PreferenceBuffer(t, t, ids, ids)
    ids[:] = 0
    for kept in (buffer.preferred_ids, buffer.dispreferred_ids):
        assert kept is not None
        assert kept.tolist() == [4, 7]
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 1
    with pytest.raises(ValueError, match=r"dispreferred_ids: shape \(3,\) for 2 episodes"):
        PreferenceBuffer(t, t, None, np.arange(3))


@pytest.mark.parametrize("which", ["preferred", "dispreferred"])
@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("weights", [1, np.nan], "nan for episode 1. Give a finite number of 0 or more for each."),
        ("weights", [np.inf, 1], "inf for episode 0. Give a finite number of 0 or more for each."),
        ("weights", [1, -0.5], "-0.5 for episode 1. Give a finite number of 0 or more for each."),
        ("weights", [0, 0], "all are 0, so nothing of the set would count. Give at least one above 0."),
        ("labels", [1, np.nan], "nan for episode 1. Give a probability in [0, 1] for each."),
        ("labels", [1.5, 1], "1.5 for episode 0. Give a probability in [0, 1] for each."),
        ("labels", [1, -0.1], "-0.1 for episode 1. Give a probability in [0, 1] for each."),
        *(
            (what, values, message)
            for what in ("weights", "labels")
            for values, message in (
                ([1.0], "shape (1,) for 2 episodes. Give one for each."),
                ([1.0] * 4, "shape (4,) for 2 episodes. Give one for each."),
                ([[1.0], [1.0]], "shape (2, 1) for 2 episodes."),
                (0.5, "shape () for 2 episodes."),
                (["1.0", "0.5"], "the dtype is <U3. Give an array of numbers."),
                ([None, 1.0], "the dtype is object. Give an array of numbers."),
                ([1j, 1.0], "the dtype is complex128. Give an array of numbers."),
                ([[1.0], [1.0, 2.0]], "not one array ("),
            )
        ),
    ],
)
def test_weights_and_labels_that_are_none_are_refused(which: str, what: str, values: Any, message: str) -> None:
    t = episodes([1, 2], [1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="^" + re.escape(f"{which}_{what}: {message}")):
            PreferenceBuffer(t, t, **{f"{which}_{what}": values})


def test_weights_and_labels_stay_as_they_were_given() -> None:
    t = episodes([1, 2], [1, 2])
    weights, labels = np.array([2, 0]), np.array([True, False])
    buffer = PreferenceBuffer(t, t, preferred_weights=weights, dispreferred_labels=labels)
    weights[:], labels[:] = 9, True
    for kept, expected in ((buffer.preferred_weights, [2.0, 0.0]), (buffer.dispreferred_labels, [1.0, 0.0])):
        assert kept is not None
        assert kept.dtype == np.float64
        assert kept.tolist() == expected
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 1.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), min_size=4, max_size=12), st.integers(0, 20))
def test_weights_and_labels_go_with_their_episodes(given_values: list[tuple[float, float]], seed: int) -> None:
    n = len(given_values)
    t = episodes(range(n), range(n))
    weights, labels = np.array(given_values).T
    weights = weights + 0.5
    buffer = PreferenceBuffer(t, t, preferred_weights=weights, dispreferred_labels=labels)
    for part in buffer.split(0.5, seed):
        for chosen, name, expected in (
            (part.preferred, "preferred_weights", weights),
            (part.dispreferred, "dispreferred_labels", labels),
        ):
            ids = [int(episode.observations[0, 0] / 6) for episode in chosen]
            np.testing.assert_array_equal(getattr(part, name), expected[ids])
        assert part.preferred_labels is None
        assert part.dispreferred_weights is None
        # Two steps an episode; what was not given is 1.
        rows = np.concatenate([np.repeat(part.preferred_weights, 2), np.ones(2 * len(part.dispreferred))])
        np.testing.assert_array_equal(part.per_transition("weights"), rows.astype(np.float32))
        some = np.random.default_rng(seed).integers(len(rows), size=7)
        np.testing.assert_array_equal(part.per_transition("weights", some), rows[some].astype(np.float32))
        rows = np.concatenate([np.ones(2 * len(part.preferred)), np.repeat(part.dispreferred_labels, 2)])
        np.testing.assert_array_equal(part.per_transition("labels"), rows.astype(np.float32))
    assert PreferenceBuffer(t, t).per_transition("weights") is None


def test_the_repr_shows_both_sets() -> None:
    assert repr(PreferenceBuffer(episodes([1, 2], [0, 1]), episodes([5], [9]))) == (
        "PreferenceBuffer("
        "preferred=Trajectories(episodes=2, transitions=4, mean_return=1.50, mean_cost=0.50), "
        "dispreferred=Trajectories(episodes=1, transitions=2, mean_return=5.00, mean_cost=9.00))"
    )


def test_a_buffer_can_be_pickled() -> None:
    buffer = PreferenceBuffer.from_costs(episodes(range(20), range(20)), 10, 3, 4)
    again = pickle.loads(pickle.dumps(buffer))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again.preferred, name), getattr(buffer.preferred, name))
    np.testing.assert_array_equal(again.dispreferred_ids, buffer.dispreferred_ids)


# Choosing by cost


def choose(t: Trajectories, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
    """The ids that ``from_costs`` chooses, after a look at whether its episodes are those."""
    buffer = PreferenceBuffer.from_costs(t, *args, **kwargs)
    assert buffer.preferred_ids is not None
    assert buffer.dispreferred_ids is not None
    for chosen, ids in ((buffer.preferred, buffer.preferred_ids), (buffer.dispreferred, buffer.dispreferred_ids)):
        assert [episode.observations[0, 0] / 6 for episode in chosen] == ids.tolist()
    return buffer.preferred_ids.tolist(), buffer.dispreferred_ids.tolist()


def rank(values: list[int], candidates: list[int]) -> list[int]:
    """The candidates from the highest value to the lowest; the first of a tie comes first."""
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
    """``total`` dealt out in turns to ``parts`` players."""
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
def test_the_selection_is_what_the_paper_says(
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
        with pytest.raises(ValueError, match=f"cost_limit={cost_limit}: none of the {len(data)} episodes"):
            PreferenceBuffer.from_costs(*arguments, **options)
        return

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preferred, dispreferred = choose(*arguments, **options)
        assert (preferred, dispreferred) == choose(*arguments, **options)
    told = " ".join(str(warning.message) for warning in caught)

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
    assert ("n_preferred=" in told) == (n_expected < n_preferred)

    candidates = over if unsafe == "over_limit" else [i for i in everything if i not in preferred]
    pool = rank(costs, candidates)[:pool_size]
    assert len(dispreferred) == len(set(dispreferred)) == min(n_dispreferred, len(pool))
    assert dispreferred == sorted(dispreferred)
    assert set(dispreferred) <= set(pool)
    assert ("n_dispreferred=" in told) == (len(dispreferred) < n_dispreferred)
    assert not set(preferred) & set(dispreferred)
    is_costlier = np.mean([costs[i] for i in dispreferred]) > np.mean([costs[i] for i in preferred])
    assert ("cost no more" in told) == (not is_costlier)


def test_the_numbers_of_the_paper_are_the_defaults() -> None:
    """1,000 episodes, half of them safe: 100 of the better 250, 10 from each 25; 20 of the 100 costliest."""
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


def test_every_episode_of_a_stratum_and_of_the_pool_is_drawn_equally_often() -> None:
    """24 safe episodes in 3 strata of 4, 2 drawn from each; 3 drawn from a pool of 5: 1/2 and 3/5 of the time."""
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


def test_the_size_and_the_strata_of_one_set_leave_the_other_as_it_is() -> None:
    t = episodes(range(200), np.random.default_rng(0).permutation(200))
    first = choose(t, 100, 10, 5, 3)
    assert choose(t, 100, 20, 5, 3, n_strata=7)[1] == first[1]
    assert choose(t, 100, 10, 8, 3)[0] == first[0]
    assert choose(t, 100, 10, 5, 4)[0] != first[0]
    assert choose(t, 100, 10, 5, 4)[1] != first[1]


def test_fewer_safe_episodes_than_asked_for_are_all_taken_with_a_warning() -> None:
    t = episodes([4, 3, 2, 1, 0, 9, 9], [0, 0, 0, 0, 0, 7, 8])
    with pytest.warns(UserWarning, match=r"n_preferred=100: only 3 episodes are in the better half") as caught:
        preferred, dispreferred = choose(t, 5, 100, 2)
    assert caught[0].filename.endswith("test_preferences.py")
    assert (preferred, dispreferred) == ([0, 1, 2], [5, 6])


def test_fewer_unsafe_episodes_than_asked_for_are_all_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"n_dispreferred=20: only 2 episodes can be dispreferred"):
        preferred, dispreferred = choose(episodes([4, 3, 9, 9], [0, 0, 7, 8]), 5, 1)
    assert (preferred, dispreferred) == ([0], [2, 3])


def test_an_episode_at_the_limit_is_unsafe() -> None:
    assert choose(episodes([1, 2], [4.5, 5]), 5, 1, 1) == ([0], [1])


def test_no_safe_episode_is_refused_with_the_costs_found() -> None:
    with pytest.raises(
        ValueError, match=r"^cost_limit=5: none of the 2 episodes costs less; they cost 6 to 12\.5\. Ra"
    ):
        PreferenceBuffer.from_costs(episodes([1, 2], [12.5, 6]), 5)
    with pytest.raises(ValueError, match=r"^cost_limit=0: none of the 2 episodes costs less; they cost 0 to 3"):
        PreferenceBuffer.from_costs(episodes([1, 2], [0, 3]), 0)


def test_no_unsafe_episode_is_refused_with_the_way_out() -> None:
    t = episodes([4, 3, 2, 1], [0, 1, 2, 3])
    with pytest.raises(
        ValueError, match=r"^cost_limit=5: none of the 4 episodes, which cost 0 to 3, .*pass unsafe='top_cost'"
    ):
        PreferenceBuffer.from_costs(t, 5, 1, 1)
    assert choose(t, 5, 2, 1, unsafe="top_cost", dispreferred_pool=1) == ([0, 1], [3])
    with pytest.raises(ValueError, match="Every episode was chosen as preferred"):
        PreferenceBuffer.from_costs(episodes([1], [1]), 5, 1, 1, unsafe="top_cost")


def test_dispreferred_episodes_that_cost_no_more_than_the_preferred_are_reported() -> None:
    with pytest.warns(UserWarning, match=r"cost no more \(mean 1\) than the preferred ones \(mean 4\)"):
        choose(episodes([9, 1], [4, 1]), 5, 1, 1, unsafe="top_cost")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost_limit": -1}, "cost_limit=-1: give a sum of costs"),
        ({"cost_limit": np.nan}, "cost_limit=nan"),
        ({"n_preferred": 0}, "n_preferred=0: give a whole number"),
        ({"n_dispreferred": -3}, "n_dispreferred=-3: give a whole number"),
        ({"n_preferred": 1.5}, "n_preferred=1.5: give a whole number"),
        ({"n_strata": 0}, "n_strata=0"),
        ({"dispreferred_pool": 0}, "dispreferred_pool=0"),
        ({"n_dispreferred": 5, "dispreferred_pool": 4}, "n_dispreferred=5: more than dispreferred_pool=4"),
        ({"unsafe": "worst"}, "unsafe='worst': give one of 'over_limit', 'top_cost'"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        PreferenceBuffer.from_costs(episodes([1, 2], [0, 9]), **{"cost_limit": 5, **arguments})


def test_unknown_costs_are_refused_and_the_advice_works() -> None:
    trajectories = episodes([1, 2, 3, 4], [0, np.nan, 9, np.nan])
    with pytest.raises(ValueError, match=r"the cost of 2 of 4 episodes is unknown \(first: episode 1\)"):
        PreferenceBuffer.from_costs(trajectories, 5)
    known = trajectories[~np.isnan(trajectories.episode_costs)]
    assert PreferenceBuffer.from_costs(known, 5, 1, 1).dispreferred.episode_costs.tolist() == [9]


def test_only_trajectories_can_be_chosen_from() -> None:
    with pytest.raises(TypeError, match="trajectories: expected Trajectories, got str"):
        PreferenceBuffer.from_costs("data.hdf5", 5)  # type: ignore[arg-type]


# Holding out


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.01, 0.99), st.integers(0, 50))
def test_a_split_deals_out_every_episode_once(n: int, m: int, fraction: float, seed: int) -> None:
    t = episodes(range(n + m), range(n + m))
    ids = np.arange(n + m)
    buffer = PreferenceBuffer(t[:n], t[n:], ids[:n], ids[n:])
    n_held_out = [int(np.floor(fraction * count + 0.5)) for count in (n, m)]
    if not all(0 < held_out < count for held_out, count in zip(n_held_out, (n, m), strict=True)):
        with pytest.raises(ValueError, match=r"At least one has to be held out and one has to stay"):
            buffer.split(fraction, seed)
        return
    train, rest = buffer.split(fraction, seed)
    assert [len(rest.preferred), len(rest.dispreferred)] == n_held_out
    for name, whole in (("preferred", ids[:n]), ("dispreferred", ids[n:])):
        parts = []
        for part in (train, rest):
            part_ids = getattr(part, f"{name}_ids")
            assert [e.observations[0, 0] / 6 for e in getattr(part, name)] == part_ids.tolist() == sorted(part_ids)
            parts.append(part_ids)
        assert sorted(np.concatenate(parts)) == whole.tolist()
    again = buffer.split(fraction, seed)
    np.testing.assert_array_equal(again[1].preferred_ids, rest.preferred_ids)
    np.testing.assert_array_equal(again[1].dispreferred_ids, rest.dispreferred_ids)


def test_another_seed_splits_otherwise_and_ids_are_not_needed() -> None:
    t = episodes(range(20), range(20))
    buffer = PreferenceBuffer(t[:10], t[10:])
    held_out = [buffer.split(0.5, seed)[1] for seed in range(5)]
    assert all(part.preferred_ids is None and part.dispreferred_ids is None for part in held_out)
    assert len({tuple(part.preferred.episode_returns) for part in held_out}) > 1
    assert len({tuple(part.dispreferred.episode_returns) for part in held_out}) > 1


def test_half_an_episode_is_held_out_as_a_whole_one() -> None:
    t = episodes(range(15), range(15))
    train, held_out = PreferenceBuffer(t[:5], t[5:]).split(0.25)
    assert (len(held_out.preferred), len(train.preferred)) == (1, 4)
    assert (len(held_out.dispreferred), len(train.dispreferred)) == (3, 7)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, np.nan])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"^fraction={fraction}: give the part to hold out"):
        buffer_of().split(fraction)


def test_a_set_too_small_to_split_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^fraction=0.1: would hold out 0 of the 2 preferred episodes. .* choose another fraction"
    ):
        buffer_of().split(0.1)


# Spaces

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (3,))
ACTION_SPACE = spaces.Box(-1, 1, (2,))


def refused(buffer: PreferenceBuffer, message: str, observation_space: Any = None, action_space: Any = None) -> None:
    with pytest.raises(ValueError, match=message):
        buffer.check_spaces(observation_space or OBSERVATION_SPACE, action_space or ACTION_SPACE)


def test_data_that_fit_the_policy_pass() -> None:
    buffer_of().check_spaces(OBSERVATION_SPACE, ACTION_SPACE)


def test_another_shape_is_refused() -> None:
    refused(
        buffer_of(),
        r"^preferred: observations have shape \(3,\), the policy expects \(5,\). Record them in",
        spaces.Box(-1, 1, (5,)),
    )
    refused(
        buffer_of(), r"^preferred: actions have shape \(2,\), the policy expects \(1,\)", None, spaces.Box(-1, 1, (1,))
    )


def test_a_missing_time_feature_is_recognised() -> None:
    env = gym.make("Pendulum-v1")
    wrapped = TimeFeatureWrapper(gym.make("Pendulum-v1"))
    actions = np.zeros((6, 1))
    plain, with_time = buffer_of(actions=actions), buffer_of(actions=actions, observations=np.zeros((6, 4)))
    plain.check_spaces(env.observation_space, env.action_space)
    with_time.check_spaces(wrapped.observation_space, wrapped.action_space)
    hint = r"TimeFeatureWrapper adds one: collect the data with collect\(reference, env\)"
    refused(plain, r"\(3,\), the policy expects \(4,\). A " + hint, wrapped.observation_space, env.action_space)
    refused(with_time, r"\(4,\), the policy expects \(3,\). A " + hint, env.observation_space, env.action_space)


def test_actions_out_of_bounds_are_refused_with_the_worst() -> None:
    actions = np.zeros((6, 2))
    actions[[1, 3, 4]] = [[0, 1.25], [-2.5, 3], [1.5, 0]]
    refused(
        buffer_of(actions=actions),
        r"^dispreferred: actions: 3 of 6 rows lie outside the action space by more than 1e-06 "
        r"\(worst: row 3, 3, where the bounds are -1 and 1\)\. Clip them if the environment did",
    )
    low, high = np.array([-3, -1], np.float32), np.array([2, 4], np.float32)
    buffer_of(actions=actions).check_spaces(OBSERVATION_SPACE, spaces.Box(low, high))


@pytest.mark.parametrize(("excess", "fits"), [(0.9e-6, True), (1.2e-6, False)])
def test_actions_may_overstep_their_bounds_by_rounding_alone(excess: float, fits: bool) -> None:
    for side in (-1, 1):
        actions = np.zeros((6, 2))
        actions[2, 1] = side * (1 + excess)
        if fits:
            buffer_of(actions=actions).check_spaces(OBSERVATION_SPACE, ACTION_SPACE)
        else:
            refused(buffer_of(actions=actions), "1 of 6 rows lie outside")


def test_bounds_that_float32_rounds_are_no_trespass() -> None:
    bound = 1000.00004
    space = spaces.Box(-bound, bound, (2,), np.float64)
    assert float(np.float32(bound)) > bound + 1e-6
    buffer_of(actions=np.full((6, 2), bound)).check_spaces(OBSERVATION_SPACE, space)
    space = spaces.Box(-0.1, 0.1, (2,), np.float64)
    buffer_of(actions=np.full((6, 2), -0.1)).check_spaces(OBSERVATION_SPACE, space)


def test_discrete_actions_have_to_be_whole_numbers_of_the_space() -> None:
    actions = np.array([1, 2, 3, 1, 1, 2])
    buffer = buffer_of(actions=actions)
    buffer.check_spaces(OBSERVATION_SPACE, spaces.Discrete(4))
    buffer.check_spaces(OBSERVATION_SPACE, spaces.Discrete(3, start=1))
    message = r"^dispreferred: actions: 1 of 6 rows are not in Discrete\(3\) \(first: row 2, 3\)"
    refused(buffer, message, None, spaces.Discrete(3))
    refused(buffer, r"^preferred: actions: 4 of 4 rows are not in", None, spaces.Discrete(3, start=2))
    refused(
        buffer_of(actions=actions.astype(float)),
        r"actions are float32, but Discrete\(4\) holds",
        None,
        spaces.Discrete(4),
    )
    refused(
        buffer_of(actions=actions[:, None]),
        r"actions have shape \(1,\), the policy expects \(\)\. Give one number for each",
        None,
        spaces.Discrete(4),
    )


def test_multi_discrete_and_binary_spaces_are_checked_entry_by_entry() -> None:
    actions = np.array([[1, 0]] * 5 + [[0, 2]], np.uint8)
    buffer = buffer_of(actions=actions, observations=actions)
    three = spaces.MultiDiscrete([2, 3])
    buffer.check_spaces(three, three)
    refused(
        buffer,
        r"dispreferred: actions: 1 of 6 rows are not in .* \(first: row 5, \[0 2\]\)",
        three,
        spaces.MultiBinary(2),
    )
    refused(buffer, r"dispreferred: observations: 1 of 6 rows", spaces.MultiBinary(2), three)
    refused(buffer, r"preferred: actions: 4 of 4 rows", three, spaces.MultiDiscrete([2, 3], start=[0, 1]))
    binary = buffer_of(actions=actions == 1)
    binary.check_spaces(OBSERVATION_SPACE, spaces.MultiBinary(2))


def test_the_last_observation_of_an_episode_is_checked_too() -> None:
    observations, following = np.zeros(6, int), np.zeros(6, int)
    following[5] = 9
    refused(
        buffer_of(observations=observations, next_observations=following),
        r"^dispreferred: next_observations: 1 of 6 rows are not in Discrete\(4\) \(first: row 5, 9\)",
        spaces.Discrete(4),
    )


def test_images_have_to_be_unscaled_and_channel_first() -> None:
    images = np.zeros((6, 3, 8, 10), np.uint8)
    space = spaces.Box(0, 255, (3, 8, 10), np.uint8)
    buffer_of(observations=images).check_spaces(space, ACTION_SPACE)
    refused(buffer_of(observations=images / 255), "observations are float32, the policy expects uint8", space)
    refused(buffer_of(observations=np.moveaxis(images, 1, -1)), r"channel-first: np.moveaxis\(images, -1, 1\)", space)


@pytest.mark.parametrize(
    "space", [spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])}), spaces.Tuple([spaces.Discrete(2)])]
)
def test_other_spaces_are_a_type_error_in_plain_words(space: spaces.Space) -> None:
    with pytest.raises(TypeError, match=r"observation_space: Tuple is not supported.*a flat Dict of them"):
        buffer_of().check_spaces(space, ACTION_SPACE)
    with pytest.raises(TypeError, match=f"action_space: {type(space).__name__} is not supported"):
        buffer_of().check_spaces(OBSERVATION_SPACE, space)
