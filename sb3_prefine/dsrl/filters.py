"""
DSRL's post-processing of a dataset: the five filters of its ``pre_process_data`` (dsrl 0.1.0), each a function.

They give new ``Trajectories``, leave what they were given as it is, and draw from a seed of their own. DSRL applies
them in one call, in the order :func:`thin`, :func:`add_outliers`, :func:`inpaint`, :func:`drop_best`,
:func:`add_noise`, where inpainting spares the outliers and goes by the costs of the data before thinning. Here the
order is the caller's, and each filter sees what the one before it gave: inpaint before adding outliers to spare them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.dsrl.tasks import Grid, Task, find_task


def thin(trajectories: Trajectories, grid: Grid, seed: int = 0) -> Trajectories:
    """
    Keep a few episodes in each cell of the cost-return plane (DSRL's ``density``).

    The plane is cut into ``cbins`` x ``rbins`` equal cells between the lowest and the highest episode cost and return;
    the highest have a row of cells of their own, as in DSRL where rounding lets them. Of a cell with more than
    ``max_npb`` episodes so many are drawn, without replacement. A cell with ``min_npb`` or fewer is emptied.

    Unlike DSRL, this draws from ``seed`` instead of Python's global random state, keeps the episodes in their order,
    and takes one cell for a dimension in which all episodes are equal, where DSRL divides by zero.

    :param trajectories: episodes of known cost
    :param grid: ``find_task("BallRun").grid(0.5)`` for one of DSRL's own, or a :class:`Grid`
    :param seed: the same seed keeps the same episodes
    :raises ValueError: a cost is unknown, or no cell keeps an episode
    """
    cells: dict[tuple[int, int], list[int]] = {}
    columns = _cells(_known_costs(trajectories), grid.cbins)
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

    They are drawn, without replacement, from the episodes with at least half of the task's highest cost and half of its
    highest reward. Each gets a cost of 0 or more below ``target_cost``: that many of its steps, chosen at random, cost
    1, the others 0. Its rewards are multiplied by 1.5. With ``seed=1234`` the draws are those of a new environment
    of DSRL's, whose generator is fixed.

    :param trajectories: episodes of known cost
    :param task: whose constants to take
    :param outliers_percent: the part of all episodes to change, from 0 to 1 (not a percentage); at least one is
    :param target_cost: the limit κ that the outliers keep to, at least 1
    :param seed: the same seed makes the same outliers
    :raises ValueError: an argument is out of range, a cost is unknown, or too few episodes are costly and good
    """
    task = find_task(task)
    if not 0 <= outliers_percent <= 1:
        raise ValueError(f"outliers_percent={outliers_percent}: give a part of all episodes, from 0 to 1.")
    if not 1 <= target_cost < math.inf:
        raise ValueError(f"target_cost={target_cost}: give a limit of at least 1, below which the outliers' costs lie.")
    costly = _known_costs(trajectories) >= task.max_episode_cost / 2
    candidates = np.flatnonzero(costly & (trajectories.episode_returns >= task.max_episode_reward / 2))
    n_outliers = max(int(len(trajectories) * outliers_percent), 1)
    if len(candidates) < n_outliers:
        raise ValueError(
            f"outliers_percent={outliers_percent}: {n_outliers} of {len(trajectories)} episodes are to become outliers "
            f"and only {len(candidates)} cost at least {task.max_episode_cost / 2:g} and return at least "
            f"{task.max_episode_reward / 2:g}, half of the highest of {task.name}. Lower it, or add such episodes."
        )
    rng = np.random.default_rng(seed)
    outliers = rng.choice(candidates, n_outliers, replace=False)
    new_costs = rng.choice(np.arange(int(target_cost)), n_outliers)
    rewards, costs = trajectories.rewards.copy(), trajectories.costs.copy()
    for outlier, cost in zip(outliers, new_costs, strict=True):
        start, length = trajectories.episode_starts[outlier], trajectories.episode_lengths[outlier]
        if cost > length:
            raise ValueError(
                f"target_cost={target_cost}: episode {outlier} has {length} steps and cannot cost {cost}. Lower it."
            )
        costs[start : start + length] = 0
        costs[start + rng.choice(length, cost, replace=False)] = 1
        rewards[start : start + length] *= 1.5
    return replace(trajectories, rewards=rewards, costs=costs)


def inpaint(trajectories: Trajectories, inpaint_ranges: Sequence[tuple[float, float, float, float]]) -> Trajectories:
    """
    Cut rectangles out of the cost-return plane (DSRL's ``inpaint_ranges``).

    A rectangle is ``(pcmin, pcmax, prmin, prmax)``, all from 0 to 1, edges included: costs between these parts of the
    way from the lowest to the highest cost of all episodes, and returns between these parts of the way from the lowest
    to the highest return of the episodes with such costs. Rectangles are cut one after the other, each from what is
    left; one without episodes cuts nothing. DSRL fails on that, and on rectangles of unlike numbers of episodes.

    :param trajectories: episodes of known cost
    :param inpaint_ranges: the rectangles
    :raises ValueError: a rectangle is not of that form, a cost is unknown, or no episode is left
    """
    costs, returns = _known_costs(trajectories), trajectories.episode_returns
    left = np.arange(len(trajectories))
    for rectangle in inpaint_ranges:
        if np.shape(rectangle) != (4,):
            raise ValueError(f"inpaint_ranges: {rectangle!r}. Give each as (pcmin, pcmax, prmin, prmax).")
        pcmin, pcmax, prmin, prmax = rectangle
        if not (0 <= pcmin <= pcmax <= 1 and 0 <= prmin <= prmax <= 1):
            raise ValueError(f"inpaint_ranges: {rectangle!r}. Give parts from 0 to 1, the lower one first.")
        in_band = _between(costs[left], costs.min(), costs.max(), pcmin, pcmax)
        if in_band.any():
            band = returns[left[in_band]]
            left = left[~(in_band & _between(returns[left], band.min(), band.max(), prmin, prmax))]
        if not len(left):
            raise ValueError(f"inpaint_ranges: none of {len(trajectories)} episodes is left. Cut out smaller ranges.")
    return trajectories[left]


def drop_best(trajectories: Trajectories, epsilon: float, target_cost: float) -> Trajectories:
    """
    Drop the episodes of the highest returns on one side of a limit (DSRL's ``epsilon``).

    ``epsilon`` above 0 makes the data harder to learn from: of the episodes that cost no more than ``target_cost``, it
    drops those that return at most ``epsilon`` less than the best of them. Below 0 it makes them easier: the same with
    ``-epsilon`` among those that cost more. After inpainting, DSRL mixes up the numbers of the episodes here; this does
    not.

    :param trajectories: episodes of known cost
    :param epsilon: a difference of returns, not 0
    :param target_cost: the limit κ
    :raises ValueError: an argument is out of range, a cost is unknown, no episode is on that side of the limit, or none
        is left
    """
    if epsilon == 0 or not math.isfinite(epsilon):
        raise ValueError(
            f"epsilon={epsilon}: give a number above 0 to drop safe episodes, below 0 to drop unsafe ones."
        )
    if not target_cost >= 0:
        raise ValueError(f"target_cost={target_cost}: give a sum of costs, 0 or more.")
    costs, returns = _known_costs(trajectories), trajectories.episode_returns
    side = costs <= target_cost if epsilon > 0 else costs > target_cost
    if not side.any():
        raise ValueError(
            f"target_cost={target_cost}: the {len(costs)} episodes cost {costs.min():g} to {costs.max():g}, none of "
            f"them {'no more' if epsilon > 0 else 'more'}, so none can be dropped."
        )
    kept = ~side | (returns < returns[side].max() - abs(epsilon))
    if not kept.any():
        raise ValueError(f"epsilon={epsilon}: none of {len(costs)} episodes is left. Give one nearer to 0.")
    return trajectories[kept]


def add_noise(trajectories: Trajectories, noise_scale: float, seed: int = 0) -> Trajectories:
    """
    Add Gaussian noise to observations and next observations, each drawn by itself (DSRL's ``noise_scale``).

    The standard deviation is ``noise_scale`` times that of all numbers in the column, over rows and dimensions alike:
    so an observation and the next observation of the row before are no longer the same. With ``seed=1234`` the noise is
    that of a new environment of DSRL's, whose generator is fixed.

    :param trajectories: with observations that are an array of floats
    :param noise_scale: 0 or more
    :param seed: the same seed gives the same noise
    :raises TypeError: the observations are a dict or integers
    :raises ValueError: ``noise_scale`` is out of range
    """
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"noise_scale={noise_scale}: give a factor of 0 or more.")
    rng = np.random.default_rng(seed)
    noisy = []
    for column in (trajectories.observations, trajectories.next_observations):
        if not isinstance(column, np.ndarray) or column.dtype.kind != "f":
            raise TypeError("trajectories: the observations are a dict or integers. Noise needs an array of floats.")
        noisy.append(column + noise_scale * rng.normal(0, column.std(), column.shape))
    return replace(trajectories, observations=noisy[0], next_observations=noisy[1])


def _known_costs(trajectories: Trajectories) -> np.ndarray:
    costs = trajectories.episode_costs
    unknown = np.flatnonzero(np.isnan(costs))
    if len(unknown):
        raise ValueError(
            f"trajectories: the cost of {len(unknown)} of {len(costs)} episodes is unknown (first: episode "
            f"{unknown[0]}). Leave them out: trajectories[~np.isnan(trajectories.episode_costs)]."
        )
    return costs


def _cells(values: np.ndarray, n: int) -> np.ndarray:
    """The number of each value's cell: 0 to ``n - 1``, and ``n`` for the highest value."""
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        return np.zeros(len(values), int)
    cells = ((values - lowest) * n / (highest - lowest)).astype(int)
    return np.where(values == highest, n, np.minimum(cells, n - 1))


def _between(values: np.ndarray, lowest: float, highest: float, low: float, high: float) -> np.ndarray:
    """Whether each value is between the parts ``low`` and ``high`` of the way from ``lowest`` to ``highest``."""
    # In this form both ends are exact.
    edges = [(1 - part) * lowest + part * highest for part in (low, high)]
    return (edges[0] <= values) & (values <= edges[1])
