"""Scores of the benchmark, normalised as in DSRL, from the records of `run`."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import records
from benchmarks.runs.selection import Selection, condition_of
from sb3_prefine import dsrl

# Every interval is a 95% percentile bootstrap with a fixed seed and this many resamples.
N_RESAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class Run:
    """
    A finished cell.

    :param record: The record that `run` wrote.
    :param actions: Whether the evaluation with deterministic or with stochastic actions counts.
    """

    record: dict[str, Any]
    actions: Literal["deterministic", "stochastic"] = "deterministic"

    @cached_property
    def task(self) -> dsrl.Task:
        return dsrl.find_task(self.record["task"])

    @property
    def method(self) -> str:
        """The method, as ``--methods`` names it."""
        return self.record["method"]

    @property
    def reference(self) -> str:
        """The kind of reference. The first records do not have it, because all of them were clones."""
        return self.record.get("reference", "clone")

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @cached_property
    def selection(self) -> Selection:
        return Selection(**self.record["selection"])

    @property
    def condition(self) -> Selection:
        """The choice of data without threshold and draw."""
        return condition_of(self.selection)

    @property
    def kappa(self) -> float:
        """The cost limit of the evaluation, the middle one of DSRL's three."""
        return self.record["settings"]["eval_cost_limit"]

    @cached_property
    def rewards(self) -> np.ndarray:
        """(n_episodes,) normalised returns."""
        return self.rewards_of(self.record[self.actions])

    @cached_property
    def costs(self) -> np.ndarray:
        """(n_episodes,) normalised costs."""
        return self.costs_of(self.record[self.actions])

    @property
    def mean_return(self) -> float:
        """The mean return of the episodes, not normalised."""
        return float(np.mean(self.record[self.actions]["rewards"]))

    def rewards_of(self, episodes: dict[str, list[float]]) -> np.ndarray:
        """Normalise the returns of one of the record's evaluations."""
        return dsrl.normalized_reward(self.task, episodes["rewards"])

    def costs_of(self, episodes: dict[str, list[float]]) -> np.ndarray:
        """Normalise the costs of one of the record's evaluations."""
        return dsrl.normalized_cost(episodes["costs"], self.kappa)


@dataclass(frozen=True)
class Summary:
    """
    Summary of several runs of one method.

    :param mean: Mean over the runs.
    :param std: Standard deviation over the runs; NaN for a single run.
    :param low: Lower end of the mean's 95% interval, by drawing runs and their episodes with replacement.
    :param high: Upper end of the interval.
    """

    mean: float
    std: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if math.isnan(self.std) else f"{self.mean:.2f} ± {self.std:.2f}"


def load(folder: Path) -> list[Run]:
    """Load all runs of a study, in the order of their file names."""
    return [Run(records.load(path)) for path in sorted(folder.glob("*/*.json"))]


def stochastic(runs: Iterable[Run]) -> list[Run]:
    """Score runs with stochastic actions. Runs without such an evaluation are left out."""
    return [replace(run, actions="stochastic") for run in runs if run.record["stochastic"]]


def select(runs: Iterable[Run], **values: Any) -> list[Run]:
    """Select runs by the values of their properties, such as ``task`` (its name) or ``method``."""
    return [run for run in runs if all(_value(run, name) == value for name, value in values.items())]


def reward(runs: Sequence[Run]) -> Summary:
    """Summarise the normalised rewards of some runs."""
    return summarize([run.rewards for run in runs])


def cost(runs: Sequence[Run]) -> Summary:
    """Summarise the normalised costs of some runs."""
    return summarize([run.costs for run in runs])


def format_outcome(runs: Sequence[Run]) -> str:
    """Format reward / cost, in bold if the cost is within the limit."""
    if not runs:
        return "not run"
    rewards, costs = reward(runs), cost(runs)
    return f"**{rewards} / {costs}**" if costs.mean <= 1 else f"{rewards} / {costs}"


def summarize(episodes: Sequence[np.ndarray]) -> Summary:
    """
    Summarise a value over runs.

    :param episodes: The values of each run's episodes.
    :return: The summary.
    """
    means = np.array([values.mean() for values in episodes])
    low, high = np.percentile(resampled_means(episodes), (2.5, 97.5))
    std = float(means.std()) if len(means) > 1 else math.nan
    return Summary(float(means.mean()), std, float(low), float(high))


def difference(
    first: Sequence[Run], second: Sequence[Run], value: Callable[[Run], np.ndarray]
) -> tuple[float, float, float]:
    """
    Compute the mean difference of two methods over the seeds and choices of data that both have.

    Runs of the same seed were trained on the same episodes and evaluated with the same environment seeds. The bootstrap
    therefore draws seeds for both methods together, and then the episodes of each run.

    :param first: Runs of the first method.
    :param second: Runs of the second method.
    :param value: Function that returns the values of a run's episodes.
    :return: First minus second, and the two ends of its 95% interval.
    :raises ValueError: If the methods have no seed and choice of data in common.
    """
    partners = {(run.seed, run.selection): run for run in second}
    pairs = [(run, partners[key]) for run in first if (key := (run.seed, run.selection)) in partners]
    if not pairs:
        raise ValueError("first, second: found no common seed and choice of data. Run both with the same seeds.")
    generator = np.random.default_rng(0)
    drawn = _draw_runs(len(pairs), generator)
    firsts, seconds = ([value(run) for run in side] for side in zip(*pairs, strict=True))
    differences = _means(firsts, drawn, generator) - _means(seconds, drawn, generator)
    low, high = np.percentile(differences, (2.5, 97.5))
    mean = np.mean([one.mean() - other.mean() for one, other in zip(firsts, seconds, strict=True)])
    return float(mean), float(low), float(high)


def resampled_means(episodes: Sequence[np.ndarray]) -> np.ndarray:
    """(n_resamples,) bootstrap means: runs and then their episodes are drawn with replacement."""
    generator = np.random.default_rng(0)
    return _means(episodes, _draw_runs(len(episodes), generator), generator)


def _draw_runs(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n, n_resamples) numbers of runs drawn with replacement."""
    return generator.integers(n, size=(n, N_RESAMPLES))


def _means(episodes: Sequence[np.ndarray], drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n_resamples,) means over the drawn runs, each with its episodes drawn with replacement."""
    lengths = np.array([len(values) for values in episodes])
    filled = np.zeros((len(episodes), lengths.max()))
    for row, values in zip(filled, episodes, strict=True):
        row[: len(values)] = values
    means = np.zeros(N_RESAMPLES)
    for chosen in drawn[:, :, None]:
        places = (generator.random((N_RESAMPLES, filled.shape[1])) * lengths[chosen]).astype(int)
        counted = np.arange(filled.shape[1]) < lengths[chosen]
        means += (filled[chosen, places] * counted).sum(axis=1) / lengths[chosen[:, 0]]
    return means / len(drawn)


def matrix(runs: Iterable[Run], tasks: Sequence[str], method: str, value: Callable[[Run], float]) -> np.ndarray:
    """
    Arrange values as rliable takes them.

    :param runs: Runs of any methods and tasks.
    :param tasks: Tasks, one for each column.
    :param method: Method whose runs are taken.
    :param value: Function that returns the value of a run.
    :return: (n_runs, n_tasks) values, where n_runs is the smallest number of runs of a task.
    """
    columns = [[value(run) for run in select(runs, task=task, method=method)] for task in tasks]
    n_runs = min(map(len, columns))
    return np.array([column[:n_runs] for column in columns]).T


def _value(run: Run, name: str) -> Any:
    value = getattr(run, name)
    return value.name if isinstance(value, dsrl.Task) else value
