"""Small sets of runs with known means."""

import re
from dataclasses import asdict

from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection
from tests.benchmarks.runs.test_scores import record

_USUAL = Selection()
# BallRun's limit, and the return of the preferred episodes of the hand-made records.
LIMIT, PREFERRED_RETURN = 20.0, 430.0


def make_runs(
    method: str,
    reward: float,
    cost: float,
    *,
    task: str = "BallRun",
    seeds: tuple[int, ...] = (0, 1, 2),
    selection: Selection = _USUAL,
    **others: object,
) -> list[Run]:
    """One run per seed. Its two episodes lie around the given means."""
    return [
        Run(
            {
                **record(method, (reward - 1, reward + 1), (cost, cost), seed, task),
                "selection": {**asdict(selection), "draw": seed},
                **others,
            }
        )
        for seed in seeds
    ]


def cells_of(page: str, first_cell: str) -> list[list[str]]:
    """The other cells of each table's rows that begin with a cell, in the order of the page."""
    found = re.findall(rf"^\| {re.escape(first_cell)} \|(.*)\|$", page, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in found]
