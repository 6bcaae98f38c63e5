"""
Whether robots stand still in the Goal tasks, where nobody whom they have learnt from does (CarGoal1, PointGoal1).

    python -m benchmarks standing-still

A clone that has come to a halt sees what it never saw in its data, and may stay there until the episode ends: without
goals, and inside a hazard at a cost of 1 a step. BC and PREFINE are trained as in Table 1 and rolled out by their mode.

What came out is in benchmarks/results/standing/, one file a task; a task whose file is there is not done again.
tables_page.py reads it.
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
STILL = 0.05  # metres a second: whoever is slower stands
# An episode ends standing if of so many last steps more than so many are of that kind.
_LAST, _MOST = 300, 0.9


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
    :param tasks: Goal tasks
    :param tier: whose budget and references
    :param seeds: of training, each with a draw of the data of its own
    :param data: the folder with TASK.hdf5, of generate.py
    :param results: the folder for TASK.json
    :param cache: the folder for the references
    :raises ValueError: a task that is not a Goal task
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"tasks: found {name}. Name Goal tasks: {' and '.join(TASKS)}.")
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} is there already; remove it to do it again.")
            continue
        record = {
            **measure(task, tier, seeds, Folders(data, cache)),
            "seeds": seeds,
            "still": STILL,
            "data_sha256": records.checksum(data / f"{task.name}.hdf5"),
            "versions": records.versions(task),
            "date": records.today(),
        }
        records.save(path, record)
        print(f"Wrote {path}.")


def measure(task: dsrl.Task, tier: TierName, seeds: tuple[int, ...], folders: Folders) -> dict[str, Any]:
    """
    :param task: a Goal task
    :param tier: whose budget
    :param seeds: of training
    :param folders: where the data and the references are
    :return: by ``"preferred"``, ``"BC"`` and ``"PREFINE"``: as :func:`standing` gives it, over all seeds
    """
    tabled = TIERS[tier]
    train_reference(task.name, tabled.budget, folders)
    found: dict[str, list[Trajectories]] = {name: [] for name in ("preferred", *METHODS)}
    for seed in tqdm(seeds, desc=task.name, unit="seed"):
        for method in map(Method.parse, METHODS):
            cell = Cell(task.name, method, Selection(tau=tabled.taus[0], draw=seed), seed, tabled.budget)
            setting = prepare(cell, folders)
            model = method.make(setting).learn(method.steps(cell.budget), log_interval=None)
            n_episodes, its_seed = cell.budget.episodes, EVALUATION_SEED + seed
            found[method.name].append(
                collect(model, setting.env_id, n_episodes, deterministic=True, seed=its_seed, progress_bar=False)
            )
        found["preferred"].append(setting.preferences.preferred)
    robot = task.name.removesuffix("Goal1")
    return {name: standing(Trajectories.concatenate(parts), robot) for name, parts in found.items()}


def standing(trajectories: Trajectories, robot: str) -> dict[str, float]:
    """
    :param trajectories: of a Goal task
    :param robot: ``"Point"`` or ``"Car"``
    :return: ``steps``: the share of steps in which it stands; ``episodes``: the share of episodes that end so
    """
    first = SENSORS[robot].velocimeter
    assert isinstance(trajectories.observations, np.ndarray)  # a Dict observation space has more than one
    still = np.linalg.norm(trajectories.observations[:, first : first + 2], axis=1) < STILL
    episodes = np.split(still, trajectories.episode_starts[1:])
    ends = [episode[-_LAST:].mean() > _MOST for episode in episodes]
    return {"steps": round(float(still.mean()), 4), "episodes": round(float(np.mean(ends)), 4)}
