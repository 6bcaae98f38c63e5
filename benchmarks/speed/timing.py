"""Timing side by side: every contender a few steps at a time, in turn, so that what disturbs one disturbs all."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm


@dataclass(frozen=True, eq=False)
class Timing:
    """
    Seconds a step of some contenders, measured in turn.

    :param names: of the contenders
    :param wall: (n_rounds, n_contenders), on the clock
    :param cpu: (n_rounds, n_contenders), of this process on all cores
    """

    names: tuple[str, ...]
    wall: np.ndarray
    cpu: np.ndarray

    def median(self, name: str) -> float:
        """Seconds a step on the clock."""
        return float(np.median(self.wall[:, self.names.index(name)]))

    def ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """
        How many times as long one takes as another: the median over the rounds of the two times of a round, with a 95%
        interval by bootstrap over the rounds.
        """
        ratios = self.wall[:, self.names.index(name)] / self.wall[:, self.names.index(base)]
        drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
        return float(np.median(ratios)), float(low), float(high)


def measure(contenders: Mapping[str, Callable[[int], None]], steps: int, rounds: int, progress: str) -> Timing:
    """
    :param contenders: by name; each makes so many steps
    :param steps: of each contender in a round; one round before the first warms up
    :param rounds: each begins with another contender
    :param progress: what the progress bar says
    """
    names = tuple(contenders)
    wall, cpu = np.zeros((2, rounds, len(names)))
    for run in contenders.values():
        run(steps)
    for i in tqdm(range(rounds), desc=progress, unit="round", leave=False):
        for j in np.roll(np.arange(len(names)), i):
            started = time.perf_counter(), time.process_time()
            contenders[names[j]](steps)
            wall[i, j] = (time.perf_counter() - started[0]) / steps
            cpu[i, j] = (time.process_time() - started[1]) / steps
    return Timing(names, wall, cpu)
