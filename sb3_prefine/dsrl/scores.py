"""DSRL's normalized scores."""

import math

import numpy as np
from numpy.typing import ArrayLike

from sb3_prefine.dsrl.tasks import Task, find_task
from sb3_prefine.utils.validation import require


def normalized_reward(task: str | Task, episode_returns: ArrayLike) -> np.ndarray:
    """
    Normalize returns: 0 is the lowest return in the task's dataset, 1 the highest.

    :param task: A name of the task, as in :func:`find_task`.
    :param episode_returns: Returns in any shape. The normalized mean is the mean of the normalized returns.
    :return: The normalized returns in the same shape, float64.
    :raises ValueError: If there is no such task.
    """
    task = find_task(task)
    returns = np.asarray(episode_returns, np.float64)
    return (returns - task.min_episode_reward) / (task.max_episode_reward - task.min_episode_reward)


def normalized_cost(episode_costs: ArrayLike, kappa: float) -> np.ndarray:
    """
    Normalize costs: (C + ε) / (κ + ε), with ε = 1 if κ is 0 and ε = 0 otherwise; safe up to 1 (paper, Eq. 10).

    The normalized cost does not depend on the task. DSRL's scores are means over the three κ of ``Task.target_costs``.

    :param episode_costs: Costs C in any shape; NaN if unknown, which gives NaN.
    :param kappa: The limit κ of the evaluation, ``target_cost`` in dsrl. It is not the threshold τ on the data.
    :return: The normalized costs in the same shape, float64.
    :raises ValueError: If ``kappa`` is negative, NaN or infinite.
    """
    require(0 <= kappa < math.inf, "kappa", kappa, "a finite limit on the cost of an episode, >= 0")
    epsilon = 1.0 if kappa == 0 else 0.0
    return (np.asarray(episode_costs, np.float64) + epsilon) / (kappa + epsilon)
