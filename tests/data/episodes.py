"""Columns and episodes for the tests of this package."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.data.trajectories import Trajectories

OBSERVATIONS = [(np.float32, (3,)), (np.float32, ()), (np.uint8, (2, 2, 1)), (np.int64, ()), (np.int64, (2,))]
ACTIONS = [(np.float32, (2,)), (np.int64, ()), (np.int32, (2,))]


def columns(lengths: list[int], seed: int = 0, observation: Any = OBSERVATIONS[0], action: Any = ACTIONS[0]) -> dict:
    """Make the columns of random episodes with these lengths, which end with a terminal, a timeout, or both."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)

    def values(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        return (100 * rng.random((n, *shape))).astype(dtype)

    ends = np.cumsum(lengths) - 1
    kind = rng.integers(3, size=len(lengths))
    terminals, timeouts = np.zeros(n, bool), np.zeros(n, bool)
    terminals[ends[kind != 0]] = True
    timeouts[ends[kind != 1]] = True
    return {
        "observations": values(*observation),
        "next_observations": values(*observation),
        "actions": values(*action),
        "rewards": rng.normal(size=n).astype(np.float32),
        "costs": rng.integers(2, size=n).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def changed(name: str, row: Any, value: float) -> dict[str, np.ndarray]:
    c = columns([2, 3, 1])
    c[name] = c[name].astype(np.float64)
    c[name][row] = value
    return c


def replaced(name: str, value: Any) -> dict[str, Any]:
    return {**columns([2, 3, 1]), name: value}


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


lengths_of_episodes = st.lists(st.integers(1, 5), min_size=1, max_size=8)
random_columns = st.builds(
    columns,
    lengths=lengths_of_episodes,
    seed=st.integers(0, 2**32),
    observation=st.sampled_from(OBSERVATIONS),
    action=st.sampled_from(ACTIONS),
)


def assert_same(actual: Trajectories, expected: dict[str, np.ndarray]) -> None:
    for name in COLUMNS:
        assert getattr(actual, name).dtype == expected[name].dtype
        np.testing.assert_array_equal(getattr(actual, name), expected[name])
