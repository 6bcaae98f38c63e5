"""
DSRL's 38 tasks: their datasets, constants, scores and filters.

Liu et al., Datasets and Benchmarks for Offline Safe Reinforcement Learning (arXiv 2306.09303). The constants are those
of dsrl 0.1.0; the package itself is not needed. Two limits on the cost of an episode must not be confused: τ chooses
episodes from the data (``PreferenceBuffer.from_costs``), κ judges a policy (:func:`normalized_cost`).
"""

from sb3_prefine.dsrl.datasets import dataset_path, load
from sb3_prefine.dsrl.filters import add_noise, add_outliers, drop_best, inpaint, thin
from sb3_prefine.dsrl.scores import normalized_cost, normalized_reward
from sb3_prefine.dsrl.tasks import PAPER_TASKS, TASKS, Grid, Task, find_task

__all__ = [
    "PAPER_TASKS",
    "TASKS",
    "Grid",
    "Task",
    "add_noise",
    "add_outliers",
    "dataset_path",
    "drop_best",
    "find_task",
    "inpaint",
    "load",
    "normalized_cost",
    "normalized_reward",
    "thin",
]
