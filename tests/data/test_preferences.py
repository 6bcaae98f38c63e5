"""The two sets: selected as in the paper, split, and checked against the spaces of a policy."""

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
    """Make episodes of two steps with these returns and costs. The first observation identifies an episode."""
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
    """Make two preferred and three dispreferred episodes; the latter have the ``replaced`` columns."""
    shared = {name: column[:1].repeat(4, 0) for name, column in replaced.items() if name in ("observations", "actions")}
    if "observations" in shared:
        shared["next_observations"] = shared["observations"]
        replaced.setdefault("next_observations", replaced["observations"])
    return PreferenceBuffer(episodes([5, 6], [0, 1], **shared), episodes([7, 8, 9], [5, 6, 7], **replaced))


# The buffer


def test_a_set_that_is_not_trajectories_raises_type_error() -> None:
    t = episodes([1], [1])
    with pytest.raises(TypeError, match=r"^preferred: .*list"):
        PreferenceBuffer([t], t)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dispreferred: .*NoneType"):
        PreferenceBuffer(preferred=t, dispreferred=None)  # type: ignore[arg-type]


def test_sets_from_different_environments_are_refused() -> None:
    t = episodes([1, 2], [1, 2])
    wider = episodes([1], [1], observations=np.zeros((2, 4)), next_observations=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"^dispreferred: observations: .*\(4,\).*\(3,\)"):
        PreferenceBuffer(t, wider)
    with pytest.raises(ValueError, match=r"^dispreferred: actions: .*\(\) and dtype int64.*float32"):
        PreferenceBuffer(t, episodes([1], [1], actions=np.zeros(2, int)))


def test_ids_are_copied_and_one_for_each_episode() -> None:
    t = episodes([1, 2], [1, 2])
    ids = np.array([4, 7])
    buffer = PreferenceBuffer(t, t, ids, ids)
    ids[:] = 0
    for kept in (buffer.preferred_ids, buffer.dispreferred_ids):
        assert kept is not None
        assert kept.tolist() == [4, 7]
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 1
    with pytest.raises(ValueError, match=r"^dispreferred_ids: .*\(3,\)"):
        PreferenceBuffer(t, t, None, np.arange(3))


@pytest.mark.parametrize("which", ["preferred", "dispreferred"])
@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("weights", [1, np.nan], "nan for episode 1"),
        ("weights", [np.inf, 1], "inf for episode 0"),
        ("weights", [1, -0.5], "-0.5 for episode 1"),
        ("weights", [0, 0], "all are 0"),
        ("labels", [1, np.nan], "nan for episode 1"),
        ("labels", [1.5, 1], "1.5 for episode 0"),
        ("labels", [1, -0.1], "-0.1 for episode 1"),
        *(
            (what, values, message)
            for what in ("weights", "labels")
            for values, message in (
                ([1.0], "shape (1,)"),
                ([1.0] * 4, "shape (4,)"),
                ([[1.0], [1.0]], "shape (2, 1)"),
                (0.5, "shape ()"),
                (["1.0", "0.5"], "the dtype is <U3"),
                ([None, 1.0], "the dtype is object"),
                ([1j, 1.0], "the dtype is complex128"),
                ([[1.0], [1.0, 2.0]], "not one array ("),
            )
        ),
    ],
)
def test_wrong_weights_and_labels_are_refused(which: str, what: str, values: Any, message: str) -> None:
    t = episodes([1, 2], [1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="^" + re.escape(f"{which}_{what}: {message}")):
            PreferenceBuffer(t, t, **{f"{which}_{what}": values})


def test_weights_and_labels_are_copied() -> None:
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
def test_weights_and_labels_follow_their_episodes(given_values: list[tuple[float, float]], seed: int) -> None:
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
        # Each episode has two steps. Weights that were not given are 1.
        rows = np.concatenate([np.repeat(part.preferred_weights, 2), np.ones(2 * len(part.dispreferred))])
        np.testing.assert_array_equal(part.per_transition("weights"), rows.astype(np.float32))
        some = np.random.default_rng(seed).integers(len(rows), size=7)
        np.testing.assert_array_equal(part.per_transition("weights", some), rows[some].astype(np.float32))
        rows = np.concatenate([np.ones(2 * len(part.preferred)), np.repeat(part.dispreferred_labels, 2)])
        np.testing.assert_array_equal(part.per_transition("labels"), rows.astype(np.float32))
    assert PreferenceBuffer(t, t).per_transition("weights") is None


def test_repr_shows_both_sets() -> None:
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
    assert caught[0].filename.endswith("test_preferences.py")
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


# Holding out


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.01, 0.99), st.integers(0, 50))
def test_split_puts_each_episode_in_one_part(n: int, m: int, fraction: float, seed: int) -> None:
    t = episodes(range(n + m), range(n + m))
    ids = np.arange(n + m)
    buffer = PreferenceBuffer(t[:n], t[n:], ids[:n], ids[n:])
    n_held_out = [int(np.floor(fraction * count + 0.5)) for count in (n, m)]
    if not all(0 < held_out < count for held_out, count in zip(n_held_out, (n, m), strict=True)):
        with pytest.raises(ValueError, match=r"^fraction: "):
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


def test_split_depends_on_the_seed_and_needs_no_ids() -> None:
    t = episodes(range(20), range(20))
    buffer = PreferenceBuffer(t[:10], t[10:])
    held_out = [buffer.split(0.5, seed)[1] for seed in range(5)]
    assert all(part.preferred_ids is None and part.dispreferred_ids is None for part in held_out)
    assert len({tuple(part.preferred.episode_returns) for part in held_out}) > 1
    assert len({tuple(part.dispreferred.episode_returns) for part in held_out}) > 1


def test_split_rounds_half_an_episode_up() -> None:
    t = episodes(range(15), range(15))
    train, held_out = PreferenceBuffer(t[:5], t[5:]).split(0.25)
    assert (len(held_out.preferred), len(train.preferred)) == (1, 4)
    assert (len(held_out.dispreferred), len(train.dispreferred)) == (3, 7)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, np.nan])
def test_split_refuses_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"^fraction: .*{fraction}"):
        buffer_of().split(fraction)


def test_split_refuses_a_set_that_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"^fraction: 0\.1 .*0 of the 2 preferred"):
        buffer_of().split(0.1)


# Spaces

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (3,))
ACTION_SPACE = spaces.Box(-1, 1, (2,))


def refused(buffer: PreferenceBuffer, message: str, observation_space: Any = None, action_space: Any = None) -> None:
    with pytest.raises(ValueError, match=message):
        buffer.check_spaces(observation_space or OBSERVATION_SPACE, action_space or ACTION_SPACE)


def test_matching_data_pass() -> None:
    buffer_of().check_spaces(OBSERVATION_SPACE, ACTION_SPACE)


def test_another_shape_is_refused() -> None:
    refused(
        buffer_of(),
        r"^preferred: observations .*\(3,\).*\(5,\)",
        spaces.Box(-1, 1, (5,)),
    )
    refused(buffer_of(), r"^preferred: actions .*\(2,\).*\(1,\)", None, spaces.Box(-1, 1, (1,)))


def test_a_missing_time_feature_is_recognized() -> None:
    env = gym.make("Pendulum-v1")
    wrapped = TimeFeatureWrapper(gym.make("Pendulum-v1"))
    actions = np.zeros((6, 1))
    plain, with_time = buffer_of(actions=actions), buffer_of(actions=actions, observations=np.zeros((6, 4)))
    plain.check_spaces(env.observation_space, env.action_space)
    with_time.check_spaces(wrapped.observation_space, wrapped.action_space)
    refused(
        plain,
        r"^preferred: observations .*\(3,\).*TimeFeatureWrapper",
        wrapped.observation_space,
        env.action_space,
    )
    refused(
        with_time,
        r"^preferred: observations .*\(4,\).*TimeFeatureWrapper",
        env.observation_space,
        env.action_space,
    )


def test_actions_out_of_bounds_are_refused_with_the_worst_row() -> None:
    actions = np.zeros((6, 2))
    actions[[1, 3, 4]] = [[0, 1.25], [-2.5, 3], [1.5, 0]]
    refused(
        buffer_of(actions=actions),
        r"^dispreferred: actions: 3 of 6 rows .*row 3, 3, .*-1 and 1\)",
    )
    low, high = np.array([-3, -1], np.float32), np.array([2, 4], np.float32)
    buffer_of(actions=actions).check_spaces(OBSERVATION_SPACE, spaces.Box(low, high))


@pytest.mark.parametrize(("excess", "fits"), [(0.9e-6, True), (1.2e-6, False)])
def test_actions_may_exceed_their_bounds_by_rounding_only(excess: float, fits: bool) -> None:
    for side in (-1, 1):
        actions = np.zeros((6, 2))
        actions[2, 1] = side * (1 + excess)
        if fits:
            buffer_of(actions=actions).check_spaces(OBSERVATION_SPACE, ACTION_SPACE)
        else:
            refused(buffer_of(actions=actions), "^dispreferred: actions: 1 of 6 rows ")


def test_actions_at_bounds_that_float32_rounds_pass() -> None:
    bound = 1000.00004
    space = spaces.Box(-bound, bound, (2,), np.float64)
    assert float(np.float32(bound)) > bound + 1e-6
    buffer_of(actions=np.full((6, 2), bound)).check_spaces(OBSERVATION_SPACE, space)
    space = spaces.Box(-0.1, 0.1, (2,), np.float64)
    buffer_of(actions=np.full((6, 2), -0.1)).check_spaces(OBSERVATION_SPACE, space)


def test_discrete_actions_must_be_integers_in_the_space() -> None:
    actions = np.array([1, 2, 3, 1, 1, 2])
    buffer = buffer_of(actions=actions)
    buffer.check_spaces(OBSERVATION_SPACE, spaces.Discrete(4))
    buffer.check_spaces(OBSERVATION_SPACE, spaces.Discrete(3, start=1))
    message = r"^dispreferred: actions: 1 of 6 rows .*row 2, 3\)"
    refused(buffer, message, None, spaces.Discrete(3))
    refused(buffer, r"^preferred: actions: 4 of 4 rows ", None, spaces.Discrete(3, start=2))
    refused(
        buffer_of(actions=actions.astype(float)),
        r"^preferred: actions are float32",
        None,
        spaces.Discrete(4),
    )
    refused(
        buffer_of(actions=actions[:, None]),
        r"^preferred: actions .*\(1,\).*\(\)",
        None,
        spaces.Discrete(4),
    )


def test_multi_discrete_and_binary_spaces_are_checked_by_entry() -> None:
    actions = np.array([[1, 0]] * 5 + [[0, 2]], np.uint8)
    buffer = buffer_of(actions=actions, observations=actions)
    three = spaces.MultiDiscrete([2, 3])
    buffer.check_spaces(three, three)
    refused(
        buffer,
        r"^dispreferred: actions: 1 of 6 rows .*row 5, \[0 2\]\)",
        three,
        spaces.MultiBinary(2),
    )
    refused(buffer, r"^dispreferred: observations: 1 of 6 rows", spaces.MultiBinary(2), three)
    refused(buffer, r"^preferred: actions: 4 of 4 rows", three, spaces.MultiDiscrete([2, 3], start=[0, 1]))
    binary = buffer_of(actions=actions == 1)
    binary.check_spaces(OBSERVATION_SPACE, spaces.MultiBinary(2))


def test_next_observations_are_checked() -> None:
    observations, following = np.zeros(6, int), np.zeros(6, int)
    following[5] = 9
    refused(
        buffer_of(observations=observations, next_observations=following),
        r"^dispreferred: next_observations: 1 of 6 rows .*row 5, 9\)",
        spaces.Discrete(4),
    )


def test_images_have_to_be_unscaled_and_channel_first() -> None:
    images = np.zeros((6, 3, 8, 10), np.uint8)
    space = spaces.Box(0, 255, (3, 8, 10), np.uint8)
    buffer_of(observations=images).check_spaces(space, ACTION_SPACE)
    refused(buffer_of(observations=images / 255), "^preferred: observations are float32, .*uint8", space)
    refused(buffer_of(observations=np.moveaxis(images, 1, -1)), r"^preferred: observations .*moveaxis", space)


@pytest.mark.parametrize(
    "space", [spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])}), spaces.Tuple([spaces.Discrete(2)])]
)
def test_unsupported_spaces_raise_type_error(space: spaces.Space) -> None:
    with pytest.raises(TypeError, match=r"^observation_space: Tuple"):
        buffer_of().check_spaces(space, ACTION_SPACE)
    with pytest.raises(TypeError, match=f"^action_space: {type(space).__name__}"):
        buffer_of().check_spaces(OBSERVATION_SPACE, space)
