"""
Measure how often robots stand still in the Goal tasks, although the agents in their data do not (CarGoal1, PointGoal1).

    python -m benchmarks standing-still

A clone that has stopped is in a state that its data do not have, and may stay there until the episode ends: without
reaching goals, and inside a hazard at a cost of 1 per step. BC and PREFINE are trained as in Table 1 and rolled out
with deterministic actions.

The records are benchmarks/results/standing/TASK.json; tasks whose record exists are skipped. `report` shows them.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm.auto import tqdm

from benchmarks import paper, records
from benchmarks.datasets.goal_seeker import SENSORS
from benchmarks.paths import CACHE, DATA, RESULTS
from benchmarks.runs.cells import EVALUATION_SEED, Cell, Folders, prepare, train_reference
from benchmarks.runs.methods import Method
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import TIERS, TierName
from sb3_prefine import Trajectories, collect, dsrl

TASKS = ("PointGoal1", "CarGoal1")
METHODS = ("BC", "PREFINE")
STANDING_SPEED = 0.05  # m/s; slower robots count as standing still
# An episode ends standing still if the robot stands in more than this share of this many last steps.
_N_LAST_STEPS, _MIN_SHARE = 300, 0.9


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = TASKS,
    *,
    tier: TierName = "small",
    seeds: tuple[int, ...] = (0, 1, 2),
    data: Path = DATA,
    results: Path = RESULTS / "standing",
    cache: Path = CACHE,
) -> None:
    """
    Analyse some tasks.

    :param tasks: Goal tasks.
    :param tier: Tier whose budget and references are used.
    :param seeds: Seeds of training, each with its own draw of the two sets.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for TASK.json.
    :param cache: Folder for the references.
    :raises ValueError: If a task is not a Goal task.
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"tasks: found {name}. Choose from the Goal tasks {' and '.join(TASKS)}.")
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} exists already. Remove it to compute it again.")
            continue
        record = {
            **measure(task, tier, seeds, Folders(data, cache)),
            "seeds": seeds,
            "still": STANDING_SPEED,
            "data_sha256": records.checksum(data / f"{task.name}.hdf5"),
            "versions": records.versions(task),
            "date": records.today(),
        }
        records.save(path, record)
        print(f"Wrote {path}.")


def measure(task: dsrl.Task, tier: TierName, seeds: tuple[int, ...], folders: Folders) -> dict[str, Any]:
    """
    Train the methods, and measure how often they stand still.

    :param task: A Goal task.
    :param tier: Tier whose budget is used.
    :param seeds: Seeds of training.
    :param folders: Folders of the data and the references.
    :return: The result of :func:`standing_shares` over all seeds, for ``"preferred"``, ``"BC"`` and ``"PREFINE"``.
    """
    tier_settings = TIERS[tier]
    train_reference(task.name, tier_settings.budget, folders)
    found: dict[str, list[Trajectories]] = {name: [] for name in ("preferred", *METHODS)}
    for seed in tqdm(seeds, desc=task.name, unit="seed"):
        for method in map(Method.parse, METHODS):
            cell = Cell(task.name, method, Selection(tau=tier_settings.taus[0], draw=seed), seed, tier_settings.budget)
            setting = prepare(cell, folders)
            model = method.make(setting).learn(method.steps(cell.budget), log_interval=None)
            n_episodes, evaluation_seed = cell.budget.episodes, EVALUATION_SEED + seed
            found[method.name].append(
                collect(model, setting.env_id, n_episodes, deterministic=True, seed=evaluation_seed, progress_bar=False)
            )
        found["preferred"].append(setting.preferences.preferred)
    robot = task.name.removesuffix("Goal1")
    return {name: standing_shares(Trajectories.concatenate(parts), robot) for name, parts in found.items()}


def standing_shares(trajectories: Trajectories, robot: str) -> dict[str, float]:
    """
    Measure how often a robot stands still.

    :param trajectories: Episodes of a Goal task.
    :param robot: ``"Point"`` or ``"Car"``.
    :return: ``steps``: the share of steps in which the robot stands; ``episodes``: the share of episodes that end so.
    """
    first = SENSORS[robot].velocimeter
    assert isinstance(trajectories.observations, np.ndarray)  # a Dict observation space has more than one
    still = np.linalg.norm(trajectories.observations[:, first : first + 2], axis=1) < STANDING_SPEED
    episodes = np.split(still, trajectories.episode_starts[1:])
    ends = [episode[-_N_LAST_STEPS:].mean() > _MIN_SHARE for episode in episodes]
    return {"steps": round(float(still.mean()), 4), "episodes": round(float(np.mean(ends)), 4)}
