"""How long training takes: the numbers of Fig. 4, all from one processor."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import TIERS

# The task of the paper's Fig. 4.
TASK = "Walker2dVelocity"
_PAPER = TIERS["paper"].budget
# Gradient steps in the methods' own papers. PREFINE's paper trains all other methods as long as PREFINE.
OWN_STEPS = {"SafeDICE": sum(_PAPER.safedice_steps), "CPQ": _PAPER.cpq_steps}


@dataclass(frozen=True)
class TrainingTime:
    """
    Training time of one method.

    :param steps: Gradient steps of a run with this tier's budget.
    :param seconds: Seconds of one core that such a run takes; a mean over runs.
    :param own_steps: Gradient steps in the method's own paper.
    :param processor: Processor of the runs.
    """

    steps: int
    seconds: float
    own_steps: int
    processor: str

    @property
    def milliseconds(self) -> float:
        """Milliseconds per gradient step."""
        return 1e3 * self.seconds / self.steps

    @property
    def own_hours(self) -> float:
        """Hours that the steps of the method's own paper would take."""
        return self.milliseconds * self.own_steps / 3.6e6


def training_times(runs: Sequence[Run], methods: Sequence[str]) -> dict[str, TrainingTime]:
    """
    Find the training time of each method on :data:`TASK`.

    All times are from one processor, the one that trained the most methods: processors differ more than methods do.

    :param runs: Runs of any task.
    :param methods: Methods to look for.
    :return: The training time by method, for methods with runs on that processor.
    """
    trained = [run for run in scores.select(runs, task=TASK) if run.method in methods and run.record["steps"]]
    pairs = {(run.record["processor"], run.method) for run in trained}
    if not pairs:
        return {}
    # Sorted, so that a tie has the same winner each time.
    [(processor, _)] = Counter(sorted(processor for processor, _ in pairs)).most_common(1)
    found = {}
    for method in methods:
        of_method = [
            run.record for run in scores.select(trained, method=method) if run.record["processor"] == processor
        ]
        if of_method:
            seconds = float(np.mean([record["cpu_seconds"] for record in of_method]))
            own_steps = OWN_STEPS.get(method, _PAPER.steps)
            found[method] = TrainingTime(of_method[0]["steps"], seconds, own_steps, processor)
    return found
