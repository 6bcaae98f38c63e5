"""Dict observations and action masks: kept in memory and in files, and refused by name if they are wrong."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_prefine.data.columns import OPTIONAL_COLUMNS, flatten, make_column, unflatten
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories

N = 6
DTYPES = [np.float32, np.uint8, np.int64, np.bool_]
names = st.text("ab1.é -_", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))


@st.composite
def parts(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Draw Dict observations of N transitions, with any names, dtypes and shapes."""
    keys = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kinds = st.tuples(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    found = {}
    for key in keys:
        dtype, shape = draw(kinds)
        found[key] = (300 * rng.random((N, *shape)) - 100).astype(dtype)
    return found


# Each mask allows the first action, so that none is empty.
masks = st.integers(1, 5).flatmap(lambda n: hnp.arrays(bool, (N, n)).map(lambda mask: mask | (np.arange(n) == 0)))


def columns(**replaced: Any) -> dict[str, Any]:
    """Two episodes of three steps."""
    return {
        "observations": np.arange(2 * N, dtype=np.float32).reshape(N, 2),
        "next_observations": np.arange(2 * N, dtype=np.float32).reshape(N, 2) + 2,
        "actions": np.zeros(N, np.int64),
        "rewards": np.ones(N, np.float32),
        "costs": np.zeros(N, np.float32),
        "terminals": np.zeros(N, bool),
        "timeouts": np.arange(N) % 3 == 2,
        **replaced,
    }


def camera(**replaced: Any) -> dict[str, Any]:
    return {"camera": np.zeros((N, 1, 4, 4), np.uint8), "speed": np.ones((N, 2), np.float32), **replaced}


def both(observations: Any) -> dict[str, Any]:
    return columns(observations=observations, next_observations=observations)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


# Flat and back


@settings(max_examples=50, deadline=None)
@given(parts(), masks)
def test_unflatten_undoes_flatten(observations, action_masks):
    values = columns(observations=observations, next_observations=observations, action_masks=action_masks)
    flat = flatten(values)
    assert all(isinstance(column, np.ndarray) for column in flat.values())
    assert {name for name in flat if name.startswith("observations/")} == {
        f"observations/{key}" for key in observations
    }
    assert_same(unflatten(flat), values)


def test_flatten_leaves_out_optional_columns_only():
    assert flatten({"action_masks": None, "rewards": None}) == {"rewards": None}
    assert OPTIONAL_COLUMNS == ("action_masks",)


@settings(max_examples=50, deadline=None)
@given(parts(), masks)
def test_trajectories_keep_dict_observations_and_masks(observations, action_masks):
    t = Trajectories(**both(observations), action_masks=action_masks)
    assert_same(t.observations, observations)
    assert_same(t.action_masks, action_masks)
    for again in (pickle.loads(pickle.dumps(t)), t[[0, 1]], t[:1] + t[1:]):
        assert_same(again.observations, observations)
        assert_same(again.next_observations, observations)
        assert_same(again.action_masks, action_masks)
    second = t[1]
    assert_same(second.observations, {key: part[3:] for key, part in observations.items()})
    assert_same(second.action_masks, action_masks[3:])
    first = next(iter(observations))
    for kept in (t.observations[first], t.action_masks):
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = kept[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(parts(), masks)
def test_files_keep_dict_observations_and_masks(tmp_path: Path, observations, action_masks):
    path = tmp_path / "t.hdf5"
    Trajectories(**both(observations), action_masks=action_masks).to_hdf5(path)
    with h5py.File(path) as file:
        assert file["action_masks"].dtype == bool
        assert set(file["observations"]) == set(observations)
    t = Trajectories.from_hdf5(path)
    assert_same(t.observations, observations)
    assert_same(t.next_observations, observations)
    assert_same(t.action_masks, action_masks)


def test_an_unfinished_episode_is_dropped_from_all_columns(tmp_path: Path):
    c = columns(observations=camera(), next_observations=camera(), action_masks=np.ones((N, 2), bool))
    c["timeouts"] = np.arange(N) == 3
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        for name, column in flatten(c).items():
            file[name] = column
    with pytest.warns(UserWarning, match=" 2 transitions"):
        t = Trajectories.from_hdf5(tmp_path / "t.hdf5")
    assert t.observations["camera"].shape == (4, 1, 4, 4)
    assert t.action_masks.shape == (4, 2)


# Wrong observations


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (camera(speed=np.full((N, 2), np.nan)), "observations/speed: 6 of 6 rows "),
        (
            camera(speed=np.where(np.arange(2 * N).reshape(N, 2) == 7, np.inf, 0.0)),
            "observations/speed: 1 of 6 rows ",
        ),
        (
            camera(speed=np.ones((N - 1, 2))),
            "columns: different lengths: observations/camera 6, observations/speed 5",
        ),
        (camera(speed=[["a", "b"]] * N), "observations/speed: the dtype is <U1."),
        (camera(speed=None), "observations/speed: the dtype is object."),
        (camera(speed=1.0), "observations/speed: "),
        (camera(speed=[[1.0], [1.0, 2.0]] * 3), "observations/speed: not one array ("),
        (camera(**{"a/b": np.ones(N)}), "observations: 'a/b' "),
        (camera(**{"": np.ones(N)}), "observations: '' "),
        ({1: np.ones(N)}, "observations: 1 "),
        (camera(inner={"a": np.ones(N)}), "observations: 'inner' "),
        ({}, "observations: an empty dict"),
        (None, "observations: the dtype is object."),
    ],
)
def test_wrong_parts_of_observations_are_refused_by_name(observations, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            Trajectories(**both(observations))


@pytest.mark.parametrize(
    ("following", "message"),
    [
        (
            {"speed": np.ones((N, 2))},
            "next_observations: they are next_observations/speed, but",
        ),
        (
            camera(more=np.ones(N)),
            "next_observations: they are next_observations/camera, next_observations/speed, next_observations/more, ",
        ),
        (np.ones((N, 2)), "next_observations: they are next_observations, but"),
        (
            camera(speed=np.ones((N, 3))),
            "next_observations/speed: the rows have shape (3,)",
        ),
        (
            camera(camera=np.zeros((N, 1, 4, 4))),
            "next_observations/camera: the rows have shape (1, 4, 4)",
        ),
    ],
)
def test_next_observations_with_other_parts_are_refused(following, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Trajectories(**columns(observations=camera(), next_observations=following))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (both({"speed": np.ones((N, 2))}), r"only preferred has .*'observations/camera'\]"),
        (both(camera(more=np.ones(N))), r"only dispreferred has .*'observations/more'\]"),
        (both(camera(speed=np.ones((N, 3)))), r"observations/speed: .*\(3,\).*preferred.*\(2,\)"),
        (both(np.ones((N, 2))), "only dispreferred has"),
        ({**both(camera()), "action_masks": np.ones((N, 2))}, r"only dispreferred has \['action_masks'\]"),
    ],
)
def test_sets_with_different_columns_are_refused(other, message):
    with pytest.raises(ValueError, match=f"^dispreferred: .*{message}"):
        PreferenceBuffer(Trajectories(**both(camera())), Trajectories(**other))


def test_only_observations_may_be_a_dict():
    with pytest.raises(ValueError, match=r"^actions: a dict"):
        Trajectories(**columns(actions={"a": np.zeros(N)}))
    with pytest.raises(ValueError, match=r"^rewards: the dtype is object"):
        Trajectories(**columns(rewards=None))


# Wrong masks

ONES = np.ones((N, 3))
ROW_2 = np.arange(N)[:, None] == 2


@pytest.mark.parametrize(
    ("action_masks", "message"),
    [
        (ONES[:, 0], "action_masks: the shape is (6,)."),
        (ONES[:, :, None], "action_masks: the shape is (6, 3, 1)."),
        (True, "action_masks: "),
        (ONES[:5], "columns: different lengths: observations 6, .*action_masks 5"),
        (
            np.where(ROW_2, 2, ONES),
            "action_masks: 1 of 6 rows .*row 2)",
        ),
        (0.5 * ONES, "action_masks: 6 of 6 rows .*row 0)"),
        (np.where(ROW_2, np.nan, ONES), "action_masks: 1 of 6 rows .*row 2)"),
        (-ONES, "action_masks: 6 of 6 rows "),
        (np.where(ROW_2, 0, ONES), "action_masks: 1 of 6 rows allow no action (first: row 2)"),
        (ONES[:, :0], "action_masks: 6 of 6 rows allow no action"),
        ([["yes", "no"]] * N, "action_masks: the dtype is <U3."),
        ([[1], [1, 0]] * 3, "action_masks: not one array ("),
        ({"a": ONES}, "action_masks: a dict"),
    ],
)
def test_wrong_action_masks_are_refused(action_masks, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="^" + re.escape(message).replace(r"\.\*", ".*")):
            Trajectories(**columns(action_masks=action_masks))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_action_masks_of_any_dtype_become_bool(dtype):
    given_masks = np.arange(N)[:, None] >= np.arange(3)
    assert_same(Trajectories(**columns(action_masks=given_masks.astype(dtype))).action_masks, given_masks)


def test_sets_with_different_numbers_of_options_are_refused():
    sets = [Trajectories(**columns(action_masks=np.ones((N, n)))) for n in (3, 4)]
    with pytest.raises(ValueError, match=r"^dispreferred: action_masks: .*\(4,\).*\(3,\)"):
        PreferenceBuffer(*sets)


# Files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("action_masks/flags", "action_masks .*group"),
        ("observations/camera/left", "observations/camera .*group"),
    ],
)
def test_a_group_in_place_of_a_dataset_is_refused(tmp_path: Path, name, message):
    path = tmp_path / "t.hdf5"
    given_columns = flatten(both({"speed": np.ones((N, 2), np.float32)}))
    with h5py.File(path, "w") as file:
        for key, column in {**given_columns, name: np.ones((N, 2))}.items():
            file[key] = column
    with pytest.raises(ValueError, match=rf"t\.hdf5: {message}"):
        Trajectories.from_hdf5(path)


def test_action_masks_of_a_file_are_checked(tmp_path: Path):
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in columns(action_masks=np.where(ROW_2, 0, ONES)).items():
            file[name] = column
    with pytest.raises(ValueError, match=r"t\.hdf5: action_masks: 1 of 6 rows"):
        Trajectories.from_hdf5(path)


# One column


@given(hnp.arrays(np.int64, (N, 2, 3), elements=st.integers(0, 3)))
def test_a_row_with_several_wrong_flags_counts_once(values):
    wrong = np.flatnonzero((values > 1).any(axis=(1, 2)))
    if len(wrong):
        with pytest.raises(ValueError, match=rf"^action_masks: {len(wrong)} of 6 rows .*first: row {wrong[0]}\)"):
            make_column("action_masks", values)
    else:
        assert_same(make_column("action_masks", values), values == 1)
