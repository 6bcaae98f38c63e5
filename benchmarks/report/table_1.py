"""Table 1 of the paper: every method on every task, ours above the paper's."""

from collections.abc import Sequence

import numpy as np

from benchmarks import paper
from benchmarks.report.markdown import distinct, table
from benchmarks.report.names import label_of
from benchmarks.report.verdict import preferred_cost
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import TABLE_METHODS
from sb3_prefine import dsrl

_SUITES = {
    "Safety-Gymnasium": [name for name in dsrl.PAPER_TASKS if name in paper.TABLE_2],
    "Bullet-Safety-Gym": [name for name in dsrl.PAPER_TASKS if name in paper.TABLE_3],
}


def write_table_1(runs: Sequence[Run]) -> str:
    """
    Write a table for each suite, with a line of ours and a line of the paper's in each cell.

    :param runs: Runs of Table 1.
    """
    parts = []
    for suite, tasks in _SUITES.items():
        rows = []
        for task in tasks:
            found = {method: of for method in TABLE_METHODS if (of := scores.select(runs, task=task, method=method))}
            best = find_best_safe({method: of for method, of in found.items() if method != REFERENCE})
            kappa = distinct(f"{run.kappa:g}" for of in found.values() for run in of)
            cells = (_cell(task, method, found.get(method, []), method == best) for method in TABLE_METHODS)
            rows.append([task, kappa, _preferred(found), *cells])
        parts += [f"{suite}:", table(["task", "κ", "D_p", *map(label_of, TABLE_METHODS)], rows)]
    return "\n\n".join(parts)


def find_best_safe(found: dict[str, list[Run]]) -> str | None:
    """
    Find the method with the highest reward among those whose mean cost is within the limit.

    :param found: The runs of each method, on one task.
    """
    safe = [method for method in found if scores.cost(found[method]).mean <= 1]
    return max(safe, key=lambda method: scores.reward(found[method]).mean, default=None)


def _cell(task: str, method: str, runs: Sequence[Run], is_best: bool) -> str:
    ours = scores.format_outcome(runs)
    ours = f"🔵 {ours}" if is_best else ours
    printed = paper.TABLE_1[task].get(method)
    return ours if printed is None else f"{ours}<br>*{printed.reward:.2f} / {printed.cost:.2f}*"


def _preferred(found: dict[str, list[Run]]) -> str:
    """Write reward and cost of D_p, means over the draws."""
    runs = next(iter(found.values()), [])
    if not runs:
        return ""
    rewards = [float(dsrl.normalized_reward(run.task, run.record["preferred"]["reward"])) for run in runs]
    return f"{np.mean(rewards):.2f} / {preferred_cost(runs):.2f}"
