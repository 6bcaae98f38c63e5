"""
The paper's numbers for its twelve tasks (Tables 1, 2 and 3 as printed), and its selection of the two sets.

PREFINE: Preference-Based Implicit Reward and Cost Fine-Tuning for Safety Alignment (AAMAS 2026 submission 525).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from sb3_prefine import PreferenceBuffer, Trajectories, dsrl


@dataclass(frozen=True)
class SetMeans:
    """
    One column of Table 2 or 3: means over the 100 preferred (D_p) and the 20 dispreferred (D_np) episodes.

    :param preferred_cost: Mean episode cost of D_p.
    :param dispreferred_cost: Mean episode cost of D_np.
    :param preferred_return: Mean episode return of D_p.
    :param dispreferred_return: Mean episode return of D_np.
    """

    preferred_cost: float
    dispreferred_cost: float
    preferred_return: float
    dispreferred_return: float


TABLE_2 = {
    "AntVelocity": SetMeans(26.15, 225.10, 2485.10, 2667.70),
    "HalfCheetahVelocity": SetMeans(23.12, 221.65, 2415.50, 2418.10),
    "HopperVelocity": SetMeans(26.12, 225.35, 1616.55, 1157.23),
    "SwimmerVelocity": SetMeans(24.62, 174.55, 132.4, 102.6),
    "Walker2dVelocity": SetMeans(10.15, 273.35, 2661.96, 2648.11),
    "PointGoal1": SetMeans(9.12, 88.60, 20.30, 16.47),
    "CarGoal1": SetMeans(9.04, 108.25, 27.03, 20.42),
}
TABLE_3 = {
    "BallRun": SetMeans(6.6, 74.8, 275.8, 1021.72),
    "BallCircle": SetMeans(12.54, 79.6, 740.43, 458.36),
    "CarRun": SetMeans(34.84, 34.84, 530.69, 505.06),
    "CarCircle": SetMeans(15.77, 92.4, 361.47, 259.75),
    "DroneRun": SetMeans(11.6, 134.22, 387.23, 481.42),
}
N_PREFERRED, N_DISPREFERRED = 100, 20


@dataclass(frozen=True)
class Score:
    """
    One entry of Table 1: normalised reward and cost over 5 seeds and 3 thresholds.

    :param reward: Mean normalised reward.
    :param cost: Mean normalised cost.
    :param reward_std: Number that the paper prints after ±. NaN for the reference, for which it prints no such number.
    :param cost_std: The same for the cost.
    """

    reward: float
    cost: float
    reward_std: float = math.nan
    cost_std: float = math.nan


TABLE_1 = {
    "AntVelocity": {
        "reference": Score(0.93, 8.04),
        "BC": Score(0.81, 4.23, 0.05, 0.06),
        "PPL": Score(0.90, 0.66, 0.04, 0.02),
        "SafeDICE": Score(0.79, 0.50, 0.04, 0.02),
        "CPQ": Score(0.24, 0.10, 0.05, 0.09),
        "PREFINE": Score(0.93, 0.13, 0.04, 0.03),
    },
    "HalfCheetahVelocity": {
        "reference": Score(0.99, 8.01),
        "BC": Score(0.57, 4.10, 0.01, 0.04),
        "PPL": Score(0.28, 0.00, 0.01, 0.06),
        "SafeDICE": Score(0.70, 0.31, 0.05, 0.04),
        "CPQ": Score(0.19, 0.71, 0.03, 0.03),
        "PREFINE": Score(0.86, 0.15, 0.05, 0.33),
    },
    "HopperVelocity": {
        "reference": Score(0.93, 8.24),
        "BC": Score(0.60, 5.22, 0.00, 0.04),
        "PPL": Score(0.38, 1.19, 0.02, 0.03),
        "SafeDICE": Score(0.51, 2.12, 0.08, 0.03),
        "CPQ": Score(0.16, 2.10, 0.05, 0.08),
        "PREFINE": Score(0.66, 0.33, 0.03, 0.05),
    },
    "SwimmerVelocity": {
        "reference": Score(0.94, 6.34),
        "BC": Score(0.52, 4.83, 0.07, 0.01),
        "PPL": Score(-0.03, 1.25, 0.05, 0.07),
        "SafeDICE": Score(0.50, 0.20, 0.04, 0.07),
        "CPQ": Score(0.14, 2.79, 0.05, 0.07),
        "PREFINE": Score(0.62, 0.36, 0.09, 0.03),
    },
    "Walker2dVelocity": {
        "reference": Score(0.93, 9.81),
        "BC": Score(0.65, 3.21, 0.06, 0.04),
        "PPL": Score(0.61, 0.39, 0.05, 0.01),
        "SafeDICE": Score(0.68, 0.29, 0.03, 0.04),
        "CPQ": Score(0.20, 0.04, 0.08, 0.08),
        "PREFINE": Score(0.75, 0.03, 0.01, 0.04),
    },
    "PointGoal1": {
        "reference": Score(0.64, 2.82),
        "BC": Score(0.22, 0.82, 0.05, 0.05),
        "PPL": Score(0.46, 0.95, 0.01, 0.05),
        "SafeDICE": Score(0.24, 0.26, 0.09, 0.00),
        "CPQ": Score(0.25, 0.20, 0.08, 0.05),
        "PREFINE": Score(0.40, 0.24, 0.03, 0.11),
    },
    "CarGoal1": {
        "reference": Score(0.44, 3.69),
        "BC": Score(0.28, 0.31, 0.06, 0.06),
        "PPL": Score(-0.01, 0.40, 0.05, 0.02),
        "SafeDICE": Score(0.32, 0.44, 0.05, 0.07),
        "CPQ": Score(0.28, 0.20, 0.01, 0.04),
        "PREFINE": Score(0.38, 0.30, 0.01, 0.01),
    },
    "BallRun": {
        "reference": Score(0.95, 3.88),
        "BC": Score(0.32, 0.97, 0.04, 0.04),
        "PPL": Score(0.22, 1.99, 0.06, 0.05),
        "SafeDICE": Score(0.21, 1.71, 0.04, 0.02),
        "CPQ": Score(0.07, 0.28, 0.05, 0.04),
        "PREFINE": Score(0.41, 0.41, 0.08, 0.07),
    },
    "BallCircle": {
        "reference": Score(0.89, 3.73),
        "BC": Score(0.72, 0.70, 0.07, 0.01),
        "PPL": Score(0.65, 1.82, 0.04, 0.05),
        "SafeDICE": Score(0.59, 0.82, 0.09, 0.07),
        "CPQ": Score(0.18, 0.21, 0.04, 0.04),
        "PREFINE": Score(0.71, 0.35, 0.04, 0.10),
    },
    "CarRun": {
        "reference": Score(0.99, 1.89),
        "BC": Score(0.86, 0.11, 0.05, 0.07),
        "PPL": Score(0.71, 0.39, 0.04, 0.08),
        "SafeDICE": Score(0.81, 0.28, 0.05, 0.07),
        "CPQ": Score(-0.18, 0.06, 0.01, 0.06),
        "PREFINE": Score(0.93, 0.38, 0.04, 0.01),
    },
    "CarCircle": {
        "reference": Score(0.97, 4.58),
        "BC": Score(0.77, 1.17, 0.04, 0.02),
        "PPL": Score(0.59, 1.73, 0.05, 0.12),
        "SafeDICE": Score(0.62, 0.91, 0.03, 0.03),
        "CPQ": Score(0.19, 0.33, 0.06, 0.06),
        "PREFINE": Score(0.54, 1.23, 0.04, 0.04),
    },
    "DroneRun": {
        "reference": Score(0.84, 6.77),
        "BC": Score(0.55, 0.01, 0.07, 0.07),
        "PPL": Score(0.54, 0.79, 0.02, 0.05),
        "SafeDICE": Score(0.46, 0.40, 0.05, 0.02),
        "CPQ": Score(0.13, 0.04, 0.06, 0.02),
        "PREFINE": Score(0.57, 0.42, 0.08, 0.06),
    },
}


def return_ratio(task: dsrl.Task) -> float:
    """Divide PREFINE's mean return in Table 1 by the mean return of its preferred episodes in Table 2 or 3."""
    score = TABLE_1[task.name]["PREFINE"].reward
    mean_return = task.min_episode_reward + score * (task.max_episode_reward - task.min_episode_reward)
    return mean_return / {**TABLE_2, **TABLE_3}[task.name].preferred_return


def find_tasks(names: Sequence[str]) -> list[dsrl.Task]:
    """
    Find some of the paper's twelve tasks by name.

    :param names: Names or environment ids, as :func:`sb3_prefine.dsrl.find_task` takes them.
    :return: The tasks, in the same order.
    :raises ValueError: If there are no names, or a task is not one of DSRL's or not one of the paper's.
    """
    if not names:
        raise ValueError(f"tasks: found no names. Name some of {', '.join(dsrl.PAPER_TASKS)}.")
    tasks = [dsrl.find_task(name) for name in names]
    for task in tasks:
        if task.name not in dsrl.PAPER_TASKS:
            raise ValueError(
                f"tasks: found {task.name}, which the paper does not use. Choose some of {', '.join(dsrl.PAPER_TASKS)}."
            )
    return tasks


def env_id(task: dsrl.Task) -> str:
    """Get the id of a task's environment."""
    assert task.env_id is not None  # true for all of the paper's tasks
    return task.env_id


def settings(task: dsrl.Task) -> dict[str, Any]:
    """Read the paper's hyperparameters for a task from RL Zoo's ``prefine.yml``."""
    text = (files("sb3_prefine.zoo") / "hyperparams" / "prefine.yml").read_text()
    return yaml.safe_load(text)[env_id(task)]


def choose_sets(
    task: dsrl.Task,
    trajectories: Trajectories,
    seed: int,
    tau: float | None = None,
    n_preferred: int = N_PREFERRED,
    n_dispreferred: int = N_DISPREFERRED,
) -> PreferenceBuffer:
    """
    Choose preferred and dispreferred episodes as in the paper: ``PreferenceBuffer.from_costs`` with its values.

    :param task: One of the twelve tasks.
    :param trajectories: The task's data.
    :param seed: Seed of the random choices.
    :param tau: Threshold τ on the episode cost. If None, the one in ``prefine.yml``.
    :param n_preferred: Number of preferred episodes.
    :param n_dispreferred: Number of dispreferred episodes.
    :return: The two sets.
    :raises ValueError: If no episode is safe, or no episode is unsafe.
    """
    chosen = settings(task)
    return PreferenceBuffer.from_costs(
        trajectories,
        cost_limit=chosen["cost_limit"] if tau is None else tau,
        n_preferred=n_preferred,
        n_dispreferred=n_dispreferred,
        seed=seed,
        unsafe=chosen.get("unsafe", "over_limit"),
    )
