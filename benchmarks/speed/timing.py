"""Interleaved timing: contenders take turns with a few steps each, so that disturbances affect all of them equally."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm


@dataclass(frozen=True, eq=False)
class Timing:
    """
    Seconds per step of several contenders, measured in turn.

    :param names: Names of the contenders.
    :param wall: (n_rounds, n_contenders) wall-clock time.
    :param cpu: (n_rounds, n_contenders) CPU time of this process on all cores.
    """

    names: tuple[str, ...]
    wall: np.ndarray
    cpu: np.ndarray

    def median(self, name: str) -> float:
        """Get the median wall-clock seconds per step."""
        return float(np.median(self.wall[:, self.names.index(name)]))

    def ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """
        Compare the wall-clock times of two contenders.

        :param name: The contender in the numerator.
        :param base: The contender in the denominator.
        :return: Median over the rounds of the ratio within a round, and its 95% bootstrap interval over the rounds.
        """
        ratios = self.wall[:, self.names.index(name)] / self.wall[:, self.names.index(base)]
        drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
        return float(np.median(ratios)), float(low), float(high)


def measure(contenders: Mapping[str, Callable[[int], None]], steps: int, rounds: int, progress: str) -> Timing:
    """
    Time contenders in turn.

    :param contenders: Training loops by name, each called with the number of steps to make.
    :param steps: Steps of each contender in a round. One more round before the first is a warm-up.
    :param rounds: Number of rounds, each of which starts with another contender.
    :param progress: Description of the progress bar.
    :return: The times.
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
