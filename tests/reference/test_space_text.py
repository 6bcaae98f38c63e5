"""Spaces from the text next to their pickle."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.save_util import data_to_json

from sb3_prefine.reference.space_text import read_space

finite = st.floats(-1e6, 1e6, width=32)
bounds = st.lists(st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]), min_size=1, max_size=40)


@settings(deadline=None)
@given(bounds, st.sampled_from([np.float32, np.float64]))
def test_box_is_read_from_its_text(pairs, dtype):
    low, high = np.array(pairs, dtype).T
    space = spaces.Box(low, high, dtype=dtype)
    read = read_space(json.loads(data_to_json({"space": space}))["space"])
    assert read.shape == space.shape
    assert read.dtype == space.dtype
    # The text has eight digits of each number.
    np.testing.assert_allclose(read.low, low, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read.high, high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (17,), np.float64),
        spaces.Box(0, 255, (3, 84, 84), np.uint8),
        spaces.Box(-1.0, 1.0, (2000,), np.float32),
        spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        spaces.Discrete(5),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([3, 2, 40]),
        spaces.MultiDiscrete(range(2, 60)),
        spaces.MultiBinary(4),
        spaces.MultiBinary((2, 3)),
    ],
    ids=str,
)
def test_spaces_are_read_from_their_text(space):
    assert read_space(json.loads(data_to_json({"space": space}))["space"]) == space


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([3, 2], start=[0, 1]),
        spaces.MultiDiscrete([[3, 2], [2, 2]]),
        spaces.MultiDiscrete([2] * 2_000),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict({"a": spaces.MultiBinary(2)}),
        spaces.Dict({"a": spaces.Box(np.linspace(-1, 0, 2_000, dtype=np.float32), 1.0)}),
    ],
    ids=["start", "matrix", "long", "tuple", "dict of bits", "long part of a dict"],
)
def test_space_with_incomplete_text_is_not_guessed(space):
    assert read_space(json.loads(data_to_json({"space": space}))["space"]) is None


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,)), "b": spaces.Discrete(4)}),
        spaces.Dict({"camera": spaces.Box(0, 255, (3, 36, 36), np.uint8), "speed": spaces.Box(-np.inf, np.inf, (1,))}),
        spaces.Dict({"it's": spaces.Discrete(2)}),
        spaces.Dict({"a b, c": spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.5], np.float32))}),
        spaces.Dict({"m": spaces.Box(np.zeros((2, 2), np.float32), np.arange(1, 5, dtype=np.float32).reshape(2, 2))}),
    ],
    ids=str,
)
def test_dict_of_spaces_is_read_unless_a_key_has_a_quote(space):
    read = read_space(json.loads(data_to_json({"space": space}))["space"])
    assert read == (None if "it's" in space.spaces else space)


def test_image_space_without_cached_text_of_its_bounds_is_read():
    """gymnasium caches it when the space is printed. Without it, NumPy's abbreviated text is the only one."""
    field = json.loads(data_to_json({"space": spaces.Box(0, 255, (3, 84, 84), np.uint8)}))["space"]
    assert field["low_repr"] is None
    assert read_space(field) == spaces.Box(0, 255, (3, 84, 84), np.uint8)
    field = json.loads(data_to_json({"space": spaces.Box(0, 1, (3, 84, 84), np.uint8)}))["space"]
    assert read_space(field) is None
