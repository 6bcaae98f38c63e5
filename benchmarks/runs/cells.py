"""One cell of the grid: a method trained on one choice of a task's data with one seed, and evaluated."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import paper, records
from benchmarks.runs.methods import POLICY, REFERENCE, Budget, Method, Setting
from benchmarks.runs.selection import Selection, choose_sets
from sb3_prefine import PREFINE, Evaluation, Reference, Trajectories, collect, dsrl, evaluate_policy, load_reference
from sb3_prefine.baselines import BC
from sb3_prefine.population.population import Population
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm

Record = dict[str, Any]
# Reference policies: the clone of section 5.1, or RL Zoo's checkpoint of an algorithm for the robot of a velocity task.
ReferenceName = Literal["clone", "ppo", "sac", "a2c"]
# Share of the episodes, those with the highest returns, that π_ref clones. The paper does not give it; with this one
# the reference's cost is high, as in Table 1.
REF_QUANTILE = 0.2
# One reference per task, as in Table 1.
REF_SEED = 0
# Added to the training seed, so that evaluations, curves and data have different episodes.
EVALUATION_SEED, CURVE_SEED, REFERENCE_EPISODES_SEED = 10_000, 20_000, 30_000
# Episodes of the reference, of which those over the limit are dispreferred.
N_REFERENCE_EPISODES = 100


@dataclass(frozen=True)
class Cell:
    """
    One cell of the grid.

    :param task: Name of the task.
    :param method: Method that is trained.
    :param selection: Choice of the preferred and dispreferred episodes.
    :param seed: Seed of training and evaluation.
    :param budget: Gradient steps and episodes.
    :param reference: Kind of the reference policy π_ref.
    """

    task: str
    method: Method
    selection: Selection
    seed: int
    budget: Budget
    reference: ReferenceName = "clone"

    @property
    def path(self) -> Path:
        """Path of the record, relative to the folder of the study."""
        # Windows does not allow colons in file names.
        method = str(self.method).replace(":", ",")
        reference = "" if self.reference == "clone" else f"-{self.reference}"
        return Path(self.task) / f"{method}{reference}-{self.selection.name}-seed{self.seed}.json"


@dataclass(frozen=True)
class Folders:
    """
    Folders of the data and the references.

    :param data: Folder with TASK.hdf5, generated or DSRL's.
    :param cache: Folder for references, which are trained again if they are missing.
    """

    data: Path
    cache: Path


def run_cells(cells: Sequence[Cell], folders: Folders) -> list[Record]:
    """
    Train and evaluate cells of one task: a single one, or several as one :class:`~sb3_prefine.population.Population`.

    :param cells: The cells. Several cells need methods with ``in_populations`` and the same budget.
    :param folders: Folders of the data and the references.
    :return: The record of each cell.
    :raises FileNotFoundError: If the data or the reference do not exist.
    """
    torch.set_num_threads(1)
    task = dsrl.find_task(cells[0].task)
    settings = [prepare(cell, folders) for cell in cells]
    timer = Timer()
    if cells[0].method.name == REFERENCE:
        policies: Sequence[Reference | OfflineAlgorithm] = [setting.reference for setting in settings]
        curves: list[list[Record]] = [[] for _ in cells]
    else:
        with timer.running():
            models = [cell.method.make(setting) for cell, setting in zip(cells, settings, strict=True)]
        curves = _train(cells, models, timer)
        policies = models
    return [
        {
            "task": task.name,
            "method": str(cell.method),
            "reference": cell.reference,
            "seed": cell.seed,
            "selection": asdict(cell.selection),
            "budget": asdict(cell.budget),
            "steps": 0 if cell.method.name == REFERENCE else cell.method.steps(cell.budget),
            "deterministic": _evaluate(policy, cell, cell.budget.episodes, deterministic=True),
            "stochastic": _evaluate(policy, cell, cell.budget.stochastic_episodes, deterministic=False),
            "preferred": _summarize_data(setting.preferences.preferred),
            "dispreferred": _summarize_data(setting.preferences.dispreferred),
            "curve": curve,
            "wall_seconds": round(timer.wall / len(cells), 2),
            "cpu_seconds": round(timer.cpu / len(cells), 2),
            "trained_together": len(cells),
            "settings": setting.paper,
            "policy": POLICY,
            "ref_quantile": REF_QUANTILE,
            "data_sha256": _checksum(folders.data / f"{task.name}.hdf5"),
            "versions": records.versions(task),
            "processor": records.processor(),
            "date": records.today(),
        }
        for cell, setting, policy, curve in zip(cells, settings, policies, curves, strict=True)
    ]


def failure_record(cells: Sequence[Cell], error: Exception) -> Record:
    """Build the record of cells that crashed."""
    return {
        "cells": [str(cell.path) for cell in cells],
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
        "date": records.today(),
    }


class Timer:
    """
    Measures the time of training without evaluation.

    The attribute ``wall`` is the wall-clock time, and ``cpu`` the CPU time of one core, both in seconds.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of a ``with`` block."""
        wall, cpu = time.perf_counter(), records.cpu_seconds()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += records.cpu_seconds() - cpu


def reference_path(task: str, budget: Budget, folders: Folders) -> Path:
    """Path of the reference's checkpoint."""
    return folders.cache / "references" / f"{task}-{POLICY}-{budget.ref_steps}.zip"


def train_reference(task: str, budget: Budget, folders: Folders) -> None:
    """
    Train π_ref if it does not exist: it clones the episodes with the highest returns at any cost (section 5.1).

    :param task: Name of the task.
    :param budget: Budget with the gradient steps.
    :param folders: Folders of the data and of the references.
    """
    torch.set_num_threads(1)
    path = reference_path(task, budget, folders)
    if path.exists():
        return
    trajectories, env_id = _load_data(task, folders.data), paper.env_id(dsrl.find_task(task))
    model = BC(POLICY, trajectories, env=env_id, ref_quantile=REF_QUANTILE, seed=REF_SEED, device="cpu")
    model.learn(budget.ref_steps).save(path)


def open_reference(task: str, budget: Budget, folders: Folders) -> Reference:
    """
    Load π_ref.

    :param task: Name of the task.
    :param budget: Budget with which it was trained.
    :param folders: Folders of the data and the references.
    :return: The reference.
    :raises FileNotFoundError: If the reference was not trained.
    """
    return _load_reference(reference_path(task, budget, folders))


def prepare(cell: Cell, folders: Folders) -> Setting:
    """
    Load everything that a cell's method is trained with.

    :param cell: The cell.
    :param folders: Folders of the data and the references.
    :return: The inputs of the method.
    :raises FileNotFoundError: If the data or the reference do not exist.
    """
    task = dsrl.find_task(cell.task)
    trajectories = _load_data(task.name, folders.data)
    source = _reference_source(cell, folders)
    episodes = _reference_episodes(task.name, source) if cell.selection.dispreferred == "reference" else None
    settings = paper.settings(task)
    return Setting(
        env_id=paper.env_id(task),
        reference=_load_reference(source),
        preferences=choose_sets(task, trajectories, cell.selection, episodes),
        trajectories=trajectories,
        cost_limit=settings["eval_cost_limit"],
        paper=settings,
        seed=cell.seed,
        budget=cell.budget,
    )


def _train(cells: Sequence[Cell], models: Sequence[OfflineAlgorithm], timer: Timer) -> list[list[Record]]:
    """
    Train the models, and evaluate them in between if the budget asks for curves.

    :return: The curve of each model.
    """
    n_steps, n_points = cells[0].method.steps(cells[0].budget), cells[0].budget.curve_points
    curves: list[list[Record]] = [[] for _ in models]
    members = [model for model in models if isinstance(model, PREFINE)]
    learner = Population(members) if len(models) > 1 else models[0]
    stops = [round(n_steps * point / max(1, n_points)) for point in range(n_points)] + [n_steps]
    done = 0
    for stop in stops:
        if stop > done:
            with timer.running():
                learner.learn(stop - done, log_interval=None, reset_num_timesteps=False)
            done = stop
        if n_points:
            for cell, model, curve in zip(cells, models, curves, strict=True):
                curve.append({"step": stop, **_curve_point(model, cell)})
    return curves


def _curve_point(model: OfflineAlgorithm, cell: Cell) -> Record:
    seed = CURVE_SEED + cell.seed
    return _episode_lists(evaluate_policy(model, _env_id(cell), cell.budget.curve_episodes, seed=seed))


def _evaluate(policy: Reference | OfflineAlgorithm, cell: Cell, n_episodes: int, deterministic: bool) -> Record | None:
    if n_episodes == 0:
        return None
    seed = EVALUATION_SEED + cell.seed
    return _episode_lists(evaluate_policy(policy, _env_id(cell), n_episodes, deterministic=deterministic, seed=seed))


def _env_id(cell: Cell) -> str:
    return paper.env_id(dsrl.find_task(cell.task))


def _episode_lists(evaluation: Evaluation) -> Record:
    """List return, cost and length of each episode."""
    return {
        "rewards": evaluation.episode_rewards.round(3).tolist(),
        "costs": evaluation.episode_costs.tolist(),
        "lengths": evaluation.episode_lengths.tolist(),
    }


def _summarize_data(trajectories: Trajectories) -> Record:
    """Count the episodes, and average their returns and costs."""
    return {
        "episodes": len(trajectories),
        "reward": round(float(trajectories.episode_returns.mean()), 3),
        "cost": round(float(trajectories.episode_costs.mean()), 3),
    }


# The cells of a task follow each other, so each process reads the data of a task once.
@lru_cache(maxsize=1)
def _load_data(task: str, folder: Path) -> Trajectories:
    return dsrl.load(task, folder / f"{task}.hdf5")


@lru_cache(maxsize=1)
def _checksum(path: Path) -> str:
    return records.checksum(path)


def _reference_source(cell: Cell, folders: Folders) -> Path | str:
    """Path of a clone's checkpoint, or name of an agent in RL Zoo."""
    if cell.reference == "clone":
        return reference_path(cell.task, cell.budget, folders)
    return f"{cell.reference}/{cell.task.removesuffix('Velocity')}-v3"


@lru_cache(maxsize=1)
def _load_reference(source: Path | str) -> Reference:
    return BC.load(source, device="cpu").to_reference() if isinstance(source, Path) else load_reference(source)


@lru_cache(maxsize=1)
def _reference_episodes(task: str, source: Path | str) -> Trajectories:
    """Collect episodes of the reference with stochastic actions."""
    env_id = paper.env_id(dsrl.find_task(task))
    return collect(
        _load_reference(source), env_id, N_REFERENCE_EPISODES, seed=REFERENCE_EPISODES_SEED, progress_bar=False
    )
