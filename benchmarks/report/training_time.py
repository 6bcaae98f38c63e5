"""How long training takes: Fig. 4's numbers, all of one processor."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.runs import scores
from benchmarks.runs.scores import Run

# The paper's Fig. 4 is of this task.
TASK = "Walker2dVelocity"
# What the methods' own papers take; PREFINE's rivals in its paper as many as PREFINE.
OWN_STEPS = {"SafeDICE": 1_100_000, "CPQ": 100_000}
_PAPER_STEPS = 500_000


@dataclass(frozen=True)
class Pace:
    """
    Of a method.

    :param steps: of a run of this budget
    :param seconds: of one core, that such a run takes: a mean
    :param own_steps: of the method's own paper
    :param processor: what computed
    """

    steps: int
    seconds: float
    own_steps: int
    processor: str

    @property
    def milliseconds(self) -> float:
        """A step."""
        return 1e3 * self.seconds / self.steps

    @property
    def own_hours(self) -> float:
        """What the steps of its paper would take."""
        return self.milliseconds * self.own_steps / 3.6e6


def paces(runs: Sequence[Run], methods: Sequence[str]) -> dict[str, Pace]:
    """
    Of each of the methods that was trained on :data:`TASK`, on one processor: the one that trained the most of them.

    Processors differ by more than methods do.
    """
    trained = [run for run in scores.select(runs, task=TASK) if run.method in methods and run.record["steps"]]
    pairs = {(run.record["processor"], run.method) for run in trained}
    if not pairs:
        return {}
    # Sorted: of two with as many methods it is always the same.
    [(processor, _)] = Counter(sorted(processor for processor, _ in pairs)).most_common(1)
    found = {}
    for method in methods:
        of_method = [
            run.record for run in scores.select(trained, method=method) if run.record["processor"] == processor
        ]
        if of_method:
            seconds = float(np.mean([record["cpu_seconds"] for record in of_method]))
            own_steps = OWN_STEPS.get(method, _PAPER_STEPS)
            found[method] = Pace(of_method[0]["steps"], seconds, own_steps, processor)
    return found
