"""
DSRL's post-processing of a dataset: the five filters of ``pre_process_data`` (dsrl 0.1.0), each as a function.

Each filter returns new ``Trajectories`` and takes its own seed. DSRL applies the filters in one call, in the order
:func:`thin`, :func:`add_outliers`, :func:`inpaint`, :func:`drop_best`, :func:`add_noise`; its inpainting spares the
outliers and uses the costs of the data before thinning. Here the caller chooses the order, and each filter sees the
result of the one before: inpaint before adding outliers to spare them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sb3_prefine.data.selection import known_costs
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.dsrl.tasks import Grid, Task, find_task
from sb3_prefine.utils.validation import require


def thin(trajectories: Trajectories, grid: Grid, seed: int = 0) -> Trajectories:
    """
    Keep a few episodes in each cell of a grid over costs and returns (DSRL's ``density``).

    The grid has ``cbins`` x ``rbins`` equal cells between the lowest and the highest episode cost and return. The
    highest values have their own row of cells, as in DSRL where rounding allows it. If a cell has more than ``max_npb``
    episodes, ``max_npb`` of them are drawn without replacement. If it has ``min_npb`` or fewer, all are removed.

    Unlike DSRL, this draws from ``seed`` instead of Python's global random state, keeps the order of the episodes, and
    uses one cell for a dimension in which all episodes are equal, where DSRL divides by zero.

    :param trajectories: Episodes of known cost.
    :param grid: ``find_task("BallRun").grid(0.5)`` for one of DSRL's own grids, or a :class:`Grid`.
    :param seed: Seed of the draws.
    :return: The episodes that were kept, in their order.
    :raises ValueError: If a cost is unknown, or no cell keeps an episode.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    columns = _cells(known_costs(trajectories), grid.cbins)
    rows = _cells(trajectories.episode_returns, grid.rbins)
    for episode, cell in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        cells.setdefault(cell, []).append(episode)
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    for episodes in cells.values():
        if len(episodes) > grid.max_npb:
            kept.extend(rng.choice(episodes, grid.max_npb, replace=False))
        elif len(episodes) > grid.min_npb:
            kept.extend(episodes)
    if not kept:
        raise ValueError(
            f"grid: each of the {len(cells)} cells with episodes holds {grid.min_npb} (min_npb) or fewer, so nothing "
            f"is left of {len(trajectories)} episodes. Lower min_npb, or take fewer cbins and rbins."
        )
    return trajectories[np.sort(kept)]


def add_outliers(
    trajectories: Trajectories,
    task: str | Task,
    outliers_percent: float,
    target_cost: float,
    seed: int = 0,
) -> Trajectories:
    """
    Make costly episodes look safe and good (DSRL's ``outliers_percent``).

    Outliers are drawn without replacement from the episodes with at least half of the task's highest cost and half of
    its highest return. Each outlier gets a whole-number cost from 0 to below ``target_cost``: this number of its steps,
    chosen at random, cost 1, the others 0. Its rewards are multiplied by 1.5. With ``seed=1234`` the draws are those of
    a new environment of DSRL, whose generator has a fixed seed.

    :param trajectories: Episodes of known cost.
    :param task: A name of the task whose constants are used, as in :func:`find_task`.
    :param outliers_percent: Fraction of all episodes to change, from 0 to 1 (not a percentage). At least one episode
        is changed.
    :param target_cost: The limit κ that the outliers keep, at least 1.
    :param seed: Seed of the draws.
    :return: The episodes with the outliers among them.
    :raises ValueError: If an argument is out of range, a cost is unknown, or too few episodes are costly and good.
    """
    task = find_task(task)
    require(0 <= outliers_percent <= 1, "outliers_percent", outliers_percent, "a fraction of all episodes in [0, 1]")
    require(1 <= target_cost < math.inf, "target_cost", target_cost, "a finite limit on the outliers' costs, >= 1")
    costly = known_costs(trajectories) >= task.max_episode_cost / 2
    candidates = np.flatnonzero(costly & (trajectories.episode_returns >= task.max_episode_reward / 2))
    n_outliers = max(int(len(trajectories) * outliers_percent), 1)
    if len(candidates) < n_outliers:
        raise ValueError(
            f"outliers_percent: {outliers_percent} makes {n_outliers} of {len(trajectories)} episodes outliers, and "
            f"only {len(candidates)} cost at least {task.max_episode_cost / 2:g} and return at least "
            f"{task.max_episode_reward / 2:g}, half of the highest values of {task.name}. Lower it, or add such "
            "episodes."
        )
    rng = np.random.default_rng(seed)
    outliers = rng.choice(candidates, n_outliers, replace=False)
    new_costs = rng.choice(np.arange(int(target_cost)), n_outliers)
    rewards, costs = trajectories.rewards.copy(), trajectories.costs.copy()
    for outlier, cost in zip(outliers, new_costs, strict=True):
        start, length = trajectories.episode_starts[outlier], trajectories.episode_lengths[outlier]
        if cost > length:
            raise ValueError(
                f"target_cost: with {target_cost}, episode {outlier} of {length} steps would cost {cost}. Lower it."
            )
        costs[start : start + length] = 0
        costs[start + rng.choice(length, cost, replace=False)] = 1
        rewards[start : start + length] *= 1.5
    return replace(trajectories, rewards=rewards, costs=costs)


def inpaint(trajectories: Trajectories, inpaint_ranges: Sequence[tuple[float, float, float, float]]) -> Trajectories:
    """
    Remove the episodes in rectangles of costs and returns (DSRL's ``inpaint_ranges``).

    A rectangle is ``(pcmin, pcmax, prmin, prmax)``, four fractions from 0 to 1. The costs of the removed episodes are
    between the fractions ``pcmin`` and ``pcmax`` of the range of costs of all episodes. Their returns are between the
    fractions ``prmin`` and ``prmax`` of the range of returns among the remaining episodes with such costs. Edges are
    included. Rectangles are removed one after the other, each from the remaining episodes; a rectangle without episodes
    removes nothing. DSRL fails on that, and on rectangles with different numbers of episodes.

    :param trajectories: Episodes of known cost.
    :param inpaint_ranges: The rectangles.
    :return: The remaining episodes.
    :raises ValueError: If a rectangle does not have that form, a cost is unknown, or no episode remains.
    """
    costs, returns = known_costs(trajectories), trajectories.episode_returns
    remaining = np.arange(len(trajectories))
    for rectangle in inpaint_ranges:
        if np.shape(rectangle) != (4,):
            raise ValueError(f"inpaint_ranges: {rectangle!r}. Give each as (pcmin, pcmax, prmin, prmax).")
        pcmin, pcmax, prmin, prmax = rectangle
        if not (0 <= pcmin <= pcmax <= 1 and 0 <= prmin <= prmax <= 1):
            raise ValueError(f"inpaint_ranges: {rectangle!r}. Give fractions from 0 to 1, the lower one first.")
        in_band = _between(costs[remaining], costs.min(), costs.max(), pcmin, pcmax)
        if in_band.any():
            band = returns[remaining[in_band]]
            remaining = remaining[~(in_band & _between(returns[remaining], band.min(), band.max(), prmin, prmax))]
        if not len(remaining):
            raise ValueError(
                f"inpaint_ranges: after {rectangle!r} none of {len(trajectories)} episodes remains. Give smaller "
                "ranges."
            )
    return trajectories[remaining]


def drop_best(trajectories: Trajectories, epsilon: float, target_cost: float) -> Trajectories:
    """
    Drop the episodes with the highest returns on one side of a limit (DSRL's ``epsilon``).

    An ``epsilon`` above 0 makes the data harder to learn from: among the episodes that cost ``target_cost`` or less, it
    drops those whose return is at most ``epsilon`` below the best one. An ``epsilon`` below 0 makes the data easier: it
    does the same with ``-epsilon`` among the episodes that cost more. After inpainting, DSRL confuses the indices of
    the episodes here; this function does not.

    :param trajectories: Episodes of known cost.
    :param epsilon: A difference of returns, not 0.
    :param target_cost: The limit κ.
    :return: The remaining episodes.
    :raises ValueError: If an argument is out of range, a cost is unknown, no episode is on that side of the limit, or
        no episode remains.
    """
    expected = "a number above 0 to drop safe episodes, or below 0 to drop unsafe ones"
    require(epsilon != 0 and math.isfinite(epsilon), "epsilon", epsilon, expected)
    require(target_cost >= 0, "target_cost", target_cost, "a sum of costs >= 0")
    costs, returns = known_costs(trajectories), trajectories.episode_returns
    side = costs <= target_cost if epsilon > 0 else costs > target_cost
    if not side.any():
        raise ValueError(
            f"target_cost: none of the {len(costs)} episodes, which cost {costs.min():g} to {costs.max():g}, costs "
            f"{'at most' if epsilon > 0 else 'more than'} {target_cost:g}, so none can be dropped. Give a limit "
            "between their costs."
        )
    kept = ~side | (returns < returns[side].max() - abs(epsilon))
    if not kept.any():
        raise ValueError(f"epsilon: {epsilon} drops all of the {len(costs)} episodes. Give a number closer to 0.")
    return trajectories[kept]


def add_noise(trajectories: Trajectories, noise_scale: float, seed: int = 0) -> Trajectories:
    """
    Add Gaussian noise to observations and next observations (DSRL's ``noise_scale``).

    The standard deviation of the noise is ``noise_scale`` times that of all numbers in the column, over rows and
    dimensions. The two columns get separate noise, so an observation no longer equals the next observation of the row
    before. With ``seed=1234`` the noise is that of a new environment of DSRL, whose generator has a fixed seed.

    :param trajectories: Episodes whose observations are an array of floats.
    :param noise_scale: Scale of the noise, 0 or more.
    :param seed: Seed of the noise.
    :return: The episodes with noise.
    :raises TypeError: If the observations are a dict or integers.
    :raises ValueError: If ``noise_scale`` is out of range.
    """
    require(0 <= noise_scale < math.inf, "noise_scale", noise_scale, "a finite factor >= 0")
    rng = np.random.default_rng(seed)
    noisy = []
    for column in (trajectories.observations, trajectories.next_observations):
        if not isinstance(column, np.ndarray) or column.dtype.kind != "f":
            raise TypeError("trajectories: the observations are a dict or integers. Give an array of floats.")
        noisy.append(column + noise_scale * rng.normal(0, column.std(), column.shape))
    return replace(trajectories, observations=noisy[0], next_observations=noisy[1])


def _cells(values: np.ndarray, n: int) -> np.ndarray:
    """Return the index of each value's cell: 0 to ``n - 1``, and ``n`` for the highest value."""
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        return np.zeros(len(values), int)
    cells = ((values - lowest) * n / (highest - lowest)).astype(int)
    return np.where(values == highest, n, np.minimum(cells, n - 1))


def _between(values: np.ndarray, lowest: float, highest: float, low: float, high: float) -> np.ndarray:
    """Return True where a value is between two fractions of the range from ``lowest`` to ``highest``."""
    # This formula is exact for the fractions 0 and 1.
    edges = [(1 - fraction) * lowest + fraction * highest for fraction in (low, high)]
    return (edges[0] <= values) & (values <= edges[1])
