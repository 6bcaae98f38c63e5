"""Functions on observations: an array, or a dict of arrays for a Dict space."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


def map_arrays(function: Callable[[Any], Any], observations: Any) -> Any:
    """
    Apply a function to observations.

    :param function: The function of one array (or tensor).
    :param observations: One array, or a dict of arrays.
    :return: The result for the array, or a dict of the results for each array.
    """
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def zero_observations(space: spaces.Space, n: int) -> Any:
    """
    Make observations that are all zero.

    :param space: The observation space.
    :param n: Number of observations.
    :return: An array of shape (n, ...), or a dict of such arrays for a Dict space.
    """
    if isinstance(space, spaces.Dict):
        return {key: zero_observations(part, n) for key, part in space.spaces.items()}
    return np.zeros((n, *(space.shape or ())), space.dtype)
