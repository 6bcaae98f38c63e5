"""Whether λ and β that were chosen on held-out preferences are better than the paper's."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from benchmarks.report.markdown import CONFIDENCE, count, not_run, render, table
from benchmarks.runs import scores
from benchmarks.runs.methods import Method
from benchmarks.runs.scores import Run
from benchmarks.runs.tune import HELD_OUT


def write_tuned(runs: Sequence[Run], chosen: Mapping[str, dict[str, Any]]) -> str:
    """
    Write the section of the page.

    :param runs: Runs of Table 1, and of the weights that were chosen.
    :param chosen: Records of tune.py, by task.
    """
    if not chosen:
        return not_run("tune BallRun")
    pairs = [_both(task, record, runs) for task, record in chosen.items()]
    intervals = [scores.difference(other, usual, attrgetter("rewards")) for usual, other in pairs if usual and other]
    head = [
        "task",
        "the paper's λ, β",
        "held-out loss",
        "reward / cost",
        "chosen λ, β",
        "held-out loss",
        "reward / cost",
        "difference in reward",
        "in cost",
    ]
    return render(
        "tuned",
        n_trials=max(len(record["trials"]) for record in chosen.values()),
        held_out=f"{HELD_OUT:.0%}",
        confidence=CONFIDENCE,
        n_more=sum(low > 0 for _, low, _ in intervals),
        n_less=sum(high < 0 for _, _, high in intervals),
        n_tasks=count(len(intervals), "task"),
        table=table(head, [_row(task, record, runs) for task, record in chosen.items()]),
        command=f"tune {' '.join(chosen)}",
    )


def _row(task: str, record: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    usual, other = _both(task, record, runs)
    # The paper's own weights are the first trial.
    losses = record["trials"][0]["held_out_loss"], record["held_out_loss"]
    weights = record["paper"], dict(Method.parse(record["method"]).options)
    cells = [task]
    for found, loss, options in zip((usual, other), losses, weights, strict=True):
        outcome = f"{scores.reward(found)} / {scores.cost(found)}" if found else "not run"
        cells += [f"{options['sft_coef']:g}, {options['beta']:g}", f"{loss:.3f}", outcome]
    return [*cells, *(_difference(other, usual, name) for name in ("rewards", "costs"))]


def _both(task: str, record: dict[str, Any], runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Select the runs with the paper's weights, and those with the chosen weights."""
    return scores.select(runs, task=task, method="PREFINE"), scores.select(runs, task=task, method=record["method"])


def _difference(first: Sequence[Run], second: Sequence[Run], name: str) -> str:
    if not first or not second:
        return ""
    middle, low, high = scores.difference(first, second, attrgetter(name))
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"
