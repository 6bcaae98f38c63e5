"""A cell of the benchmark: one method, trained on one choice of a task's data with one seed, and evaluated."""

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
from benchmarks.runs.selection import Selection, choose
from sb3_prefine import PREFINE, Evaluation, Reference, Trajectories, collect, dsrl, evaluate_policy, load_reference
from sb3_prefine.baselines import BC
from sb3_prefine.population.population import Population
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm

Record = dict[str, Any]
# What is fine-tuned: the clone of section 5.1, or RL Zoo's checkpoint of an algorithm for the robot of a velocity task.
ReferenceName = Literal["clone", "ppo", "sac", "a2c"]
# Where neither the paper nor DSRL says it: as many episodes as make π_ref's cost high, as in Table 1.
REF_QUANTILE = 0.2
# There is one reference a task, as in Table 1.
REF_SEED = 0
# Added to the seed of the training: evaluated are other episodes than those of the data and of the curves.
EVALUATION_SEED, CURVE_SEED, OWN_SEED = 10_000, 20_000, 30_000
# Episodes of the reference, of which those that break the limit are disliked.
N_OWN_EPISODES = 100


@dataclass(frozen=True)
class Cell:
    """
    :param task: its name
    :param method: what is trained
    :param selection: of which episodes
    :param seed: of training and evaluation
    :param budget: how long
    :param reference: which π_ref
    """

    task: str
    method: Method
    selection: Selection
    seed: int
    budget: Budget
    reference: ReferenceName = "clone"

    @property
    def path(self) -> Path:
        """Of its record, in the folder of the results."""
        # Windows has no colons in names.
        method = str(self.method).replace(":", ",")
        reference = "" if self.reference == "clone" else f"-{self.reference}"
        return Path(self.task) / f"{method}{reference}-{self.selection.name}-seed{self.seed}.json"


@dataclass(frozen=True)
class Folders:
    """
    :param data: with TASK.hdf5, of generate.py or of DSRL
    :param cache: for references, which are no results and are made again where they are missing
    """

    data: Path
    cache: Path


def run(cells: Sequence[Cell], folders: Folders) -> list[Record]:
    """
    Train and evaluate some cells of one task: one alone, or several as one :class:`~sb3_prefine.population.Population`.

    :param cells: several only of methods that are PREFINE with some weights or other, alike in their budget
    :param folders: where the references and the data are
    :return: what came out of each
    :raises FileNotFoundError: the data or the reference are not there
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
            "preferred": _of_data(setting.preferences.preferred),
            "dispreferred": _of_data(setting.preferences.dispreferred),
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


def failure(cells: Sequence[Cell], error: Exception) -> Record:
    """The record of cells that crashed."""
    return {
        "cells": [str(cell.path) for cell in cells],
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
        "date": records.today(),
    }


class Timer:
    """
    What training takes, without evaluation.

    :param wall: seconds on the clock
    :param cpu: seconds of one core
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), records.cpu_seconds()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += records.cpu_seconds() - cpu


def reference_path(task: str, budget: Budget, folders: Folders) -> Path:
    """Of the reference's checkpoint."""
    return folders.cache / "references" / f"{task}-{POLICY}-{budget.ref_steps}.zip"


def train_reference(task: str, budget: Budget, folders: Folders) -> None:
    """
    Clone π_ref from the episodes of highest return, whatever they cost (section 5.1), unless it is there.

    :param task: its name
    :param budget: with the gradient steps
    :param folders: where the data are, and where it goes
    """
    torch.set_num_threads(1)
    path = reference_path(task, budget, folders)
    if path.exists():
        return
    trajectories, env_id = _load(task, folders.data), paper.env_id(dsrl.find_task(task))
    model = BC(POLICY, trajectories, env=env_id, ref_quantile=REF_QUANTILE, seed=REF_SEED, device="cpu")
    model.learn(budget.ref_steps).save(path)


def open_reference(task: str, budget: Budget, folders: Folders) -> Reference:
    """
    Read π_ref.

    :raises FileNotFoundError: it was not trained
    """
    return _open(reference_path(task, budget, folders))


def prepare(cell: Cell, folders: Folders) -> Setting:
    """
    What a cell's method is given.

    :raises FileNotFoundError: the data or the reference are not there
    """
    task = dsrl.find_task(cell.task)
    trajectories = _load(task.name, folders.data)
    source = _source(cell, folders)
    own = _own_episodes(task.name, source) if cell.selection.dispreferred == "reference" else None
    settings = paper.settings(task)
    return Setting(
        env_id=paper.env_id(task),
        reference=_open(source),
        preferences=choose(task, trajectories, cell.selection, own),
        trajectories=trajectories,
        cost_limit=settings["eval_cost_limit"],
        paper=settings,
        seed=cell.seed,
        budget=cell.budget,
    )


def _train(cells: Sequence[Cell], models: Sequence[OfflineAlgorithm], timer: Timer) -> list[list[Record]]:
    """
    Train the models, and evaluate them in between where the budget asks for curves.

    :return: the curve of each
    """
    n_steps, n_points = cells[0].method.steps(cells[0].budget), cells[0].budget.curve_points
    curves: list[list[Record]] = [[] for _ in models]
    together = [model for model in models if isinstance(model, PREFINE)]
    learner = Population(together) if len(models) > 1 else models[0]
    stops = [round(n_steps * point / max(1, n_points)) for point in range(n_points)] + [n_steps]
    done = 0
    for stop in stops:
        if stop > done:
            with timer.running():
                learner.learn(stop - done, log_interval=None, reset_num_timesteps=False)
            done = stop
        if n_points:
            for cell, model, curve in zip(cells, models, curves, strict=True):
                curve.append({"step": stop, **_on_curve(model, cell)})
    return curves


def _on_curve(model: OfflineAlgorithm, cell: Cell) -> Record:
    seed = CURVE_SEED + cell.seed
    return _episodes(evaluate_policy(model, _env_id(cell), cell.budget.curve_episodes, seed=seed))


def _evaluate(policy: Reference | OfflineAlgorithm, cell: Cell, n_episodes: int, deterministic: bool) -> Record | None:
    if n_episodes == 0:
        return None
    seed = EVALUATION_SEED + cell.seed
    return _episodes(evaluate_policy(policy, _env_id(cell), n_episodes, deterministic=deterministic, seed=seed))


def _env_id(cell: Cell) -> str:
    return paper.env_id(dsrl.find_task(cell.task))


def _episodes(evaluation: Evaluation) -> Record:
    """Return, cost and length of each episode."""
    return {
        "rewards": evaluation.episode_rewards.round(3).tolist(),
        "costs": evaluation.episode_costs.tolist(),
        "lengths": evaluation.episode_lengths.tolist(),
    }


def _of_data(trajectories: Trajectories) -> Record:
    """How many episodes there are, and their means."""
    return {
        "episodes": len(trajectories),
        "reward": round(float(trajectories.episode_returns.mean()), 3),
        "cost": round(float(trajectories.episode_costs.mean()), 3),
    }


# The cells of a task come one after the other: each process reads its data once.
@lru_cache(maxsize=1)
def _load(task: str, folder: Path) -> Trajectories:
    return dsrl.load(task, folder / f"{task}.hdf5")


@lru_cache(maxsize=1)
def _checksum(path: Path) -> str:
    return records.checksum(path)


def _source(cell: Cell, folders: Folders) -> Path | str:
    """Where its reference is: the checkpoint of a clone, or the name of one of RL Zoo's."""
    if cell.reference == "clone":
        return reference_path(cell.task, cell.budget, folders)
    return f"{cell.reference}/{cell.task.removesuffix('Velocity')}-v3"


@lru_cache(maxsize=1)
def _open(source: Path | str) -> Reference:
    return BC.load(source, device="cpu").to_reference() if isinstance(source, Path) else load_reference(source)


@lru_cache(maxsize=1)
def _own_episodes(task: str, source: Path | str) -> Trajectories:
    """Episodes of the reference, with its noise."""
    env_id = paper.env_id(dsrl.find_task(task))
    return collect(_open(source), env_id, N_OWN_EPISODES, seed=OWN_SEED, progress_bar=False)
