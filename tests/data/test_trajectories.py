"""Whole episodes in columns: values are kept, and wrong columns are refused by name."""

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.data.trajectories import Trajectories
from tests.data.episodes import (
    ACTIONS,
    OBSERVATIONS,
    assert_same,
    changed,
    columns,
    lengths_of_episodes,
    random_columns,
    replaced,
)


def naive_episodes(c: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Split columns into episodes, row by row."""
    episodes: list[dict[str, list]] = []
    is_new = True
    for row in range(len(c["rewards"])):
        if is_new:
            episodes.append({name: [] for name in COLUMNS})
        for name in COLUMNS:
            episodes[-1][name].append(c[name][row])
        is_new = bool(c["terminals"][row] or c["timeouts"][row])
    return [{name: np.stack(rows) for name, rows in episode.items()} for episode in episodes]


def concatenated(episodes: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in COLUMNS}


# Episodes


@given(random_columns)
def test_episodes_equal_those_of_a_row_by_row_loop(c: dict) -> None:
    t = Trajectories(**c)
    assert_same(t, c)
    episodes = naive_episodes(c)
    assert len(t) == len(episodes)
    assert t.n_transitions == len(c["rewards"])
    lengths = [len(episode["rewards"]) for episode in episodes]
    assert t.episode_lengths.tolist() == lengths
    assert t.episode_starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    for episode, expected in zip(t, episodes, strict=True):
        assert_same(episode, expected)


@given(st.data(), lengths_of_episodes)
def test_returns_and_costs_are_sums_in_float64(data: st.DataObject, lengths: list[int]) -> None:
    n = sum(lengths)
    c = columns(lengths)
    c["rewards"] = data.draw(hnp.arrays(np.float32, n, elements=st.floats(-(2.0**99), 2.0**99, width=32)))
    c["costs"] = data.draw(hnp.arrays(np.float32, n, elements=st.floats(0, 2.0**99, width=32)))
    t = Trajectories(**c)
    for episode, episode_return, episode_cost in zip(
        naive_episodes(c), t.episode_returns, t.episode_costs, strict=True
    ):
        scale = sum(abs(float(r)) for r in episode["rewards"])
        assert episode_return == pytest.approx(sum(float(r) for r in episode["rewards"]), rel=0, abs=1e-13 * scale)
        assert episode_cost == pytest.approx(sum(float(r) for r in episode["costs"]), rel=1e-13)
    assert t.episode_returns.dtype == t.episode_costs.dtype == np.float64


def test_a_sum_of_many_small_rewards_is_not_rounded_to_float32() -> None:
    n = 300_000
    c = columns([n])
    c["rewards"] = np.full(n, 0.1, np.float32)
    assert Trajectories(**c).episode_returns[0] == pytest.approx(n * float(np.float32(0.1)), rel=1e-12)


@given(st.data(), random_columns)
def test_indexing_works_as_for_a_list_of_episodes(data: st.DataObject, c: dict) -> None:
    t, episodes = Trajectories(**c), naive_episodes(c)
    n = len(episodes)
    i = data.draw(st.integers(-n, n - 1))
    assert_same(t[i], episodes[i])
    assert_same(t[np.int32(i)], episodes[i])

    ids = data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=10))
    for index in (ids, tuple(ids), np.array(ids)):
        assert_same(t[index], concatenated([episodes[k] for k in ids]))

    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    chosen = concatenated([episode for episode, is_chosen in zip(episodes, mask, strict=True) if is_chosen])
    assert_same(t[mask], chosen)
    assert_same(t[np.array(mask)], chosen)

    part = data.draw(st.slices(n).filter(lambda s: len(episodes[s]) > 0))
    assert_same(t[part], concatenated(episodes[part]))


@pytest.mark.parametrize("index", [3, -4, [0, 3], np.array([-4]), np.array([2**40])])
def test_a_missing_episode_raises_index_error(index: Any) -> None:
    with pytest.raises(IndexError, match=r"^index: .*-?\d+"):
        Trajectories(**columns([2, 1, 4]))[index]


@pytest.mark.parametrize("mask", [[True], [True] * 7, True, np.ones((3, 1), bool)])
def test_a_mask_of_another_length_raises_index_error(mask: Any) -> None:
    with pytest.raises(IndexError, match=r"^index: .*mask.* 3 episodes"):
        Trajectories(**columns([2, 1, 4]))[mask]


@pytest.mark.parametrize("index", [[], slice(2, 2), [False] * 3, np.array([], int)])
def test_choosing_no_episode_is_refused(index: Any) -> None:
    with pytest.raises(ValueError, match=r"^index: .*none of the 3 episodes"):
        Trajectories(**columns([2, 1, 4]))[index]


@pytest.mark.parametrize("index", [1.0, [0.0, 1.0], "0", None])
def test_an_index_that_is_not_an_integer_raises_type_error(index: Any) -> None:
    with pytest.raises(TypeError, match=r"^index: the dtype is "):
        Trajectories(**columns([2, 1, 4]))[index]


def test_a_two_dimensional_index_raises_index_error() -> None:
    with pytest.raises(IndexError, match=r"^index: .*shape \(1, 2\)"):
        Trajectories(**columns([2, 1, 4]))[np.array([[0, 1]])]


@given(st.lists(lengths_of_episodes, min_size=1, max_size=4), st.sampled_from(OBSERVATIONS), st.sampled_from(ACTIONS))
def test_concatenate_keeps_the_order_of_the_rows(sets: list[list[int]], observation: Any, action: Any) -> None:
    parts = [columns(lengths, seed, observation, action) for seed, lengths in enumerate(sets)]
    whole = Trajectories.concatenate(Trajectories(**part) for part in parts)
    assert_same(whole, concatenated(parts))
    assert len(whole) == sum(map(len, sets))


def test_plus_concatenates_two_sets() -> None:
    first, second = columns([2, 3], 0), columns([1], 1)
    assert_same(Trajectories(**first) + Trajectories(**second), concatenated([first, second]))
    with pytest.raises(TypeError, match="unsupported operand"):
        Trajectories(**first) + 1  # type: ignore[operator]


def test_sets_that_cannot_be_concatenated_are_refused() -> None:
    one = Trajectories(**columns([2]))
    with pytest.raises(ValueError, match=r"^sets: "):
        Trajectories.concatenate([])
    with pytest.raises(TypeError, match=r"^sets\[1\]: .*dict"):
        Trajectories.concatenate([one, {}])  # type: ignore[list-item]
    wider = Trajectories(**columns([2], observation=(np.float32, (4,))))
    with pytest.raises(ValueError, match=r"^sets\[2\]: observations: .*\(4,\).*sets\[0\].*\(3,\)"):
        Trajectories.concatenate([one, one, wider])
    discrete = Trajectories(**columns([2], action=(np.int64, (2,))))
    with pytest.raises(ValueError, match=r"^sets\[1\]: actions: .*int64.*float32"):
        one + discrete


def test_repr_shows_counts_and_means() -> None:
    c = columns([2, 1, 1])
    c["rewards"] = np.array([1, 2, 3, 4.5], np.float32)
    c["costs"] = np.array([1, 1, 0, 0], np.float32)
    assert repr(Trajectories(**c)) == "Trajectories(episodes=3, transitions=4, mean_return=3.50, mean_cost=0.67)"
    c["costs"] = np.array([np.nan, np.nan, 1, 0])
    assert "mean_cost=0.50 (known in 2)" in repr(Trajectories(**c))
    c["costs"][:] = np.nan
    assert "mean_cost=unknown" in repr(Trajectories(**c))


# Memory


def test_arrays_are_read_only_and_do_not_share_writable_memory() -> None:
    given_columns = columns([2, 3])
    t = Trajectories(**given_columns)
    kept = {name: getattr(t, name).copy() for name in COLUMNS}
    for column in given_columns.values():
        column[:] = 1
    assert_same(t, kept)
    for part in (t, t[1], t[[1, 0]], t + t, pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        for name in (*COLUMNS, "episode_starts", "episode_lengths", "episode_returns", "episode_costs"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(part, name)[0] = 0
    for name in COLUMNS:
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            getattr(t, name).flags.writeable = True


def test_read_only_arrays_and_consecutive_episodes_share_memory() -> None:
    c = columns([2, 3, 1, 4])
    for column in c.values():
        column.flags.writeable = False
    t = Trajectories(**c)
    for name in COLUMNS:
        assert np.shares_memory(getattr(t, name), c[name])
        assert np.shares_memory(getattr(t[1:3], name), c[name])
        assert np.shares_memory(getattr(t[[2, 3]], name), c[name])
        assert not np.shares_memory(getattr(t[[3, 2]], name), c[name])


def test_a_read_only_view_of_writable_memory_is_copied() -> None:
    c = columns([2, 3])
    view = c["observations"].view()
    view.flags.writeable = False
    t = Trajectories(**{**c, "observations": view})
    c["observations"][:] = -1
    assert (t.observations >= 0).all()


@given(random_columns)
def test_pickling_keeps_every_value(c: dict) -> None:
    assert_same(pickle.loads(pickle.dumps(Trajectories(**c))), c)


# Validation


def test_floats_become_float32_and_integers_keep_their_dtype() -> None:
    c = columns([2, 3], observation=(np.float64, (3,)), action=(np.float16, (2,)))
    c["rewards"] = c["rewards"].astype(np.float64)
    c["costs"] = c["costs"].astype(np.int64)
    t = Trajectories(**c)
    assert {getattr(t, name).dtype for name in COLUMNS[:5]} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(t.observations, c["observations"].astype(np.float32))
    big_endian = Trajectories(**columns([2], observation=(">i4", (3,))))
    assert big_endian.observations.dtype == np.int32
    assert big_endian.observations.dtype.isnative


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8])
def test_n_by_1_columns_and_numeric_flags_are_accepted(dtype: Any) -> None:
    c = columns([2, 3, 1])
    shaped = {name: c[name][:, None] for name in ("rewards", "costs")}
    flags = {name: c[name].astype(dtype)[:, None] for name in ("terminals", "timeouts")}
    assert_same(Trajectories(**{**c, **shaped, **flags}), c)


def test_lists_are_accepted() -> None:
    c = columns([2, 3], observation=(np.float32, ()), action=(np.float32, ()))
    assert_same(Trajectories(**{name: column.tolist() for name, column in c.items()}), c)


def test_nan_in_a_whole_episode_is_an_unknown_cost() -> None:
    c = columns([2, 3, 1])
    c["costs"][2:5] = np.nan
    t = Trajectories(**c)
    assert np.isnan(t.episode_costs).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["observations", "next_observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_rows_that_are_not_finite_are_refused_and_counted(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: 2 of 6 rows .*row 3"):
        Trajectories(**changed(name, [3, 5], value))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed("costs", [1, 4], -1), r"^costs: 2 of 6 rows .*row 1, -1\.0\)"),
        (changed("costs", 4, np.inf), r"^costs: 1 of 6 rows .*row 4, inf\)"),
        (changed("costs", [3, 4], np.nan), r"^costs: 1 of 3 .*episode 1, 2 of its 3 rows\)"),
        (changed("costs", 2, np.nan), r"^costs: 1 of 3 .*episode 1, 1 of its 3 rows\)"),
        (changed("terminals", 2, 0.5), r"^terminals: 1 of 6 rows .*row 2, 0\.5\)"),
        (changed("timeouts", 5, 2), r"^timeouts: 1 of 6 rows .*row 5, 2\.0\)"),
        (changed("timeouts", 5, np.nan), r"^timeouts: 1 of 6 rows .*row 5, nan\)"),
        (replaced("rewards", np.zeros(5)), r"^columns: .*observations 6, .* rewards 5, .*timeouts 6"),
        (replaced("rewards", np.zeros((6, 2))), r"^rewards: .*\(6, 2\)"),
        (replaced("costs", np.zeros((6, 1, 1))), r"^costs: .*\(6, 1, 1\)"),
        (replaced("terminals", False), r"^terminals: .*\(\)"),
        (replaced("actions", 1.0), r"^actions: "),
        (replaced("actions", np.array([None] * 6)), r"^actions: .*object"),
        (replaced("actions", ["left"] * 6), r"^actions: .*<U4"),
        (replaced("actions", np.zeros(6, complex)), r"^actions: .*complex128"),
        (replaced("observations", [[1.0], [1.0, 2.0]]), r"^observations: .*inhomogeneous"),
        (
            replaced("next_observations", np.zeros((6, 4))),
            r"^next_observations: .*\(4,\) and dtype float32.*\(3,\) and float32",
        ),
        (replaced("next_observations", np.zeros((6, 3), int)), r"^next_observations: .*int64.*float32"),
        ({name: column[:0] for name, column in columns([1]).items()}, r"^columns: "),
        ({name: column[:4] for name, column in columns([2, 3]).items()}, r"^timeouts: .* 2 of 4 rows"),
        ({name: column[:2] for name, column in columns([3]).items()}, r"^timeouts: .* 2 of 2 rows"),
    ],
)
def test_wrong_columns_are_refused_by_name(wrong: dict, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            Trajectories(**wrong)
