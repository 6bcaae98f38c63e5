"""The two sets: checked, split, and compared with the spaces of a policy."""

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
from tests.data.episodes import episodes


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
