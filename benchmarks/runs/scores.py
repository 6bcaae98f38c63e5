"""The scores of the benchmark, normalised as in DSRL, from the records that run.py left."""

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

# Of every interval: 95%, percentile bootstrap, a fixed seed.
N_RESAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class Run:
    """
    One cell.

    :param record: as run.py wrote it
    :param actions: which of its evaluations counts: by the mode of the policy, or by samples
    """

    record: dict[str, Any]
    actions: Literal["deterministic", "stochastic"] = "deterministic"

    @cached_property
    def task(self) -> dsrl.Task:
        return dsrl.find_task(self.record["task"])

    @property
    def method(self) -> str:
        """As ``--methods`` names it."""
        return self.record["method"]

    @property
    def reference(self) -> str:
        """What was fine-tuned. The first records do not say it: there were clones only."""
        return self.record.get("reference", "clone")

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @cached_property
    def selection(self) -> Selection:
        return Selection(**self.record["selection"])

    @property
    def condition(self) -> Selection:
        """What its data are like, whatever the draw."""
        return condition_of(self.selection)

    @property
    def kappa(self) -> float:
        """The limit of the evaluation, the middle one of DSRL's three."""
        return self.record["settings"]["eval_cost_limit"]

    @cached_property
    def rewards(self) -> np.ndarray:
        """(n_episodes,) normalised."""
        return self.rewards_of(self.record[self.actions])

    @cached_property
    def costs(self) -> np.ndarray:
        """(n_episodes,) normalised."""
        return self.costs_of(self.record[self.actions])

    @property
    def mean_return(self) -> float:
        """Of its episodes, not normalised."""
        return float(np.mean(self.record[self.actions]["rewards"]))

    def rewards_of(self, episodes: dict[str, list[float]]) -> np.ndarray:
        """Normalised returns of an evaluation of its record."""
        return dsrl.normalized_reward(self.task, episodes["rewards"])

    def costs_of(self, episodes: dict[str, list[float]]) -> np.ndarray:
        """Normalised costs of an evaluation of its record."""
        return dsrl.normalized_cost(episodes["costs"], self.kappa)


@dataclass(frozen=True)
class Score:
    """
    What several runs of one method have in common.

    :param mean: over the runs
    :param std: the standard deviation over the runs; NaN of a single one
    :param low: of the mean's 95% interval: runs are drawn with replacement, and of each its episodes
    :param high: of the same
    """

    mean: float
    std: float
    low: float
    high: float

    def __str__(self) -> str:
        # Of a single run there is no spread to show.
        return f"{self.mean:.2f}" if math.isnan(self.std) else f"{self.mean:.2f} ± {self.std:.2f}"


def load(folder: Path) -> list[Run]:
    """All runs of a study, in the order of their files' names."""
    return [Run(records.load(path)) for path in sorted(folder.glob("*/*.json"))]


def stochastic(runs: Iterable[Run]) -> list[Run]:
    """The same runs, scored by samples; those that were not are left out."""
    return [replace(run, actions="stochastic") for run in runs if run.record["stochastic"]]


def select(runs: Iterable[Run], **wanted: Any) -> list[Run]:
    """Those of a task (by its name), a method, …"""
    return [run for run in runs if all(_value(run, name) == value for name, value in wanted.items())]


def reward(runs: Sequence[Run]) -> Score:
    """Normalised."""
    return summarize([run.rewards for run in runs])


def cost(runs: Sequence[Run]) -> Score:
    """Normalised."""
    return summarize([run.costs for run in runs])


def format_outcome(runs: Sequence[Run]) -> str:
    """Reward / cost, in bold if that is up to the limit."""
    if not runs:
        return "not run"
    rewards, costs = reward(runs), cost(runs)
    return f"**{rewards} / {costs}**" if costs.mean <= 1 else f"{rewards} / {costs}"


def summarize(episodes: Sequence[np.ndarray]) -> Score:
    """
    :param episodes: of each run, values of its episodes
    """
    means = np.array([values.mean() for values in episodes])
    low, high = np.percentile(resampled_means(episodes), (2.5, 97.5))
    std = float(means.std()) if len(means) > 1 else math.nan
    return Score(float(means.mean()), std, float(low), float(high))


def difference(
    first: Sequence[Run], second: Sequence[Run], value: Callable[[Run], np.ndarray]
) -> tuple[float, float, float]:
    """
    By how much the mean of the first is above that of the second, over the seeds and choices of data that both have.

    Runs of the same seed have learnt from the same episodes and were evaluated in the same worlds, so seeds are drawn
    with replacement for both together, and of each run its episodes.

    :param value: of the episodes of a run
    :return: the difference, and its 95% interval
    :raises ValueError: they have no seed in common
    """
    partners = {(run.seed, run.selection): run for run in second}
    pairs = [(run, partners[key]) for run in first if (key := (run.seed, run.selection)) in partners]
    if not pairs:
        raise ValueError("first, second: they have no seed and choice of data in common.")
    generator = np.random.default_rng(0)
    drawn = _draw_runs(len(pairs), generator)
    ours, theirs = ([value(run) for run in side] for side in zip(*pairs, strict=True))
    differences = _means(ours, drawn, generator) - _means(theirs, drawn, generator)
    low, high = np.percentile(differences, (2.5, 97.5))
    middle = np.mean([one.mean() - other.mean() for one, other in zip(ours, theirs, strict=True)])
    return float(middle), float(low), float(high)


def resampled_means(episodes: Sequence[np.ndarray]) -> np.ndarray:
    """(n_resamples,) means over runs drawn with replacement, of each as many episodes, drawn with replacement."""
    generator = np.random.default_rng(0)
    return _means(episodes, _draw_runs(len(episodes), generator), generator)


def _draw_runs(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n, n_resamples) their numbers."""
    return generator.integers(n, size=(n, N_RESAMPLES))


def _means(episodes: Sequence[np.ndarray], drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n_resamples,) means over the runs that were drawn, of each as many episodes, drawn with replacement."""
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
    (n_runs, n_tasks), as rliable takes it: the first runs of each task, as many as the task with the fewest has.

    :param value: of a run
    """
    columns = [[value(run) for run in select(runs, task=task, method=method)] for task in tasks]
    n_runs = min(map(len, columns))
    return np.array([column[:n_runs] for column in columns]).T


def _value(run: Run, name: str) -> Any:
    value = getattr(run, name)
    return value.name if isinstance(value, dsrl.Task) else value
