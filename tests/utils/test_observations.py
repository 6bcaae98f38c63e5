"""Observations: an array, or a dict of arrays."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_prefine.utils.observations import map_arrays, zero_observations


def test_function_is_applied_to_the_array_or_to_each_array_of_a_dict():
    assert map_arrays(lambda part: part + 1, np.array([1, 2])).tolist() == [2, 3]
    found = map_arrays(len, {"a": [1, 2], "b": [3]})
    assert found == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3, 2), np.float64),
        spaces.Box(0, 255, (3, 4, 5), np.uint8),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary((2, 3)),
    ],
    ids=str,
)
def test_zeros_have_the_shape_and_dtype_of_the_space(space):
    zeros = zero_observations(space, 5)
    assert zeros.shape == (5, *space.shape)
    assert zeros.dtype == space.dtype
    assert not zeros.any()
    if not isinstance(space, spaces.Discrete):
        assert all(space.contains(row) for row in zeros if space.shape)
    found = zero_observations(spaces.Dict({"a": space, "b": spaces.Discrete(2)}), 3)
    assert {key: part.shape for key, part in found.items()} == {"a": (3, *space.shape), "b": (3,)}
