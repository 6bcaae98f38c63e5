"""
What the paper says of its twelve tasks: Tables 1, 2 and 3 as they are printed, and how it chooses the two sets.

PREFINE: Preference-Based Implicit Reward and Cost Fine-Tuning for Safety Alignment (AAMAS 2026 submission 525).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from sb3_prefine import PreferenceBuffer, Trajectories, dsrl


@dataclass(frozen=True)
class Sets:
    """
    A column of Table 2 or 3: the means over the 100 preferred and the 20 dispreferred episodes.

    :param preferred_cost: mean episode cost of D_p
    :param dispreferred_cost: of D_np
    :param preferred_return: mean episode return of D_p
    :param dispreferred_return: of D_np
    """

    preferred_cost: float
    dispreferred_cost: float
    preferred_return: float
    dispreferred_return: float


TABLE_2 = {
    "AntVelocity": Sets(26.15, 225.10, 2485.10, 2667.70),
    "HalfCheetahVelocity": Sets(23.12, 221.65, 2415.50, 2418.10),
    "HopperVelocity": Sets(26.12, 225.35, 1616.55, 1157.23),
    "SwimmerVelocity": Sets(24.62, 174.55, 132.4, 102.6),
    "Walker2dVelocity": Sets(10.15, 273.35, 2661.96, 2648.11),
    "PointGoal1": Sets(9.12, 88.60, 20.30, 16.47),
    "CarGoal1": Sets(9.04, 108.25, 27.03, 20.42),
}
TABLE_3 = {
    "BallRun": Sets(6.6, 74.8, 275.8, 1021.72),
    "BallCircle": Sets(12.54, 79.6, 740.43, 458.36),
    "CarRun": Sets(34.84, 34.84, 530.69, 505.06),
    "CarCircle": Sets(15.77, 92.4, 361.47, 259.75),
    "DroneRun": Sets(11.6, 134.22, 387.23, 481.42),
}
N_PREFERRED, N_DISPREFERRED = 100, 20


@dataclass(frozen=True)
class Scores:
    """
    Of a row of Table 1: normalised, means over 5 seeds and 3 thresholds. The reference has no spread there.

    :param reference: reward and cost of π_ref
    :param prefine_reward: mean and spread
    :param prefine_cost: mean and spread
    """

    reference: tuple[float, float]
    prefine_reward: tuple[float, float]
    prefine_cost: tuple[float, float]


TABLE_1 = {
    "AntVelocity": Scores((0.93, 8.04), (0.93, 0.04), (0.13, 0.03)),
    "HalfCheetahVelocity": Scores((0.99, 8.01), (0.86, 0.05), (0.15, 0.33)),
    "HopperVelocity": Scores((0.93, 8.24), (0.66, 0.03), (0.33, 0.05)),
    "SwimmerVelocity": Scores((0.94, 6.34), (0.62, 0.09), (0.36, 0.03)),
    "Walker2dVelocity": Scores((0.93, 9.81), (0.75, 0.01), (0.03, 0.04)),
    "PointGoal1": Scores((0.64, 2.82), (0.40, 0.03), (0.24, 0.11)),
    "CarGoal1": Scores((0.44, 3.69), (0.38, 0.01), (0.30, 0.01)),
    "BallRun": Scores((0.95, 3.88), (0.41, 0.08), (0.41, 0.07)),
    "BallCircle": Scores((0.89, 3.73), (0.71, 0.04), (0.35, 0.10)),
    "CarRun": Scores((0.99, 1.89), (0.93, 0.04), (0.38, 0.01)),
    "CarCircle": Scores((0.97, 4.58), (0.54, 0.04), (1.23, 0.04)),
    "DroneRun": Scores((0.84, 6.77), (0.57, 0.08), (0.42, 0.06)),
}


def find_tasks(names: Sequence[str]) -> list[dsrl.Task]:
    """
    Some of the twelve, each as :func:`sb3_prefine.dsrl.find_task` finds it.

    :raises ValueError: there are none, DSRL has no such task, or the paper has not
    """
    if not names:
        raise ValueError(f"tasks: there is none. Name some of {', '.join(dsrl.PAPER_TASKS)}.")
    tasks = [dsrl.find_task(name) for name in names]
    for task in tasks:
        if task.name not in dsrl.PAPER_TASKS:
            raise ValueError(f"tasks: {task.name} is not one of the paper's twelve: {', '.join(dsrl.PAPER_TASKS)}.")
    return tasks


def env_id(task: dsrl.Task) -> str:
    """Of the environment of one of the twelve, which all have one."""
    assert task.env_id is not None
    return task.env_id


def settings(task: dsrl.Task) -> dict[str, Any]:
    """The paper's values for a task, from RL Zoo's ``prefine.yml``."""
    text = (files("sb3_prefine.zoo") / "hyperparams" / "prefine.yml").read_text()
    return yaml.safe_load(text)[env_id(task)]


def choose(task: dsrl.Task, trajectories: Trajectories, seed: int) -> PreferenceBuffer:
    """
    The paper's selection from a task's data: ``PreferenceBuffer.from_costs`` with its values.

    :raises ValueError: no episode is safe, or none is unsafe
    """
    chosen = settings(task)
    return PreferenceBuffer.from_costs(
        trajectories,
        cost_limit=chosen["cost_limit"],
        n_preferred=chosen["n_preferred"],
        n_dispreferred=chosen["n_dispreferred"],
        seed=seed,
        unsafe=chosen.get("unsafe", "over_limit"),
    )
