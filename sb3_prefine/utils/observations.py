"""Observations: an array, or a dict of arrays for a Dict space."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


def map_arrays(function: Callable[[Any], Any], observations: Any) -> Any:
    """Apply a function to observations: to the array itself, or to each array of a dict of them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def zeros_of(space: spaces.Space, n: int) -> Any:
    """``n`` observations of a space, all zero; a dict of arrays for a Dict space."""
    if isinstance(space, spaces.Dict):
        return {key: zeros_of(part, n) for key, part in space.spaces.items()}
    return np.zeros((n, *(space.shape or ())), space.dtype)
