"""The numbers in the texts of the figures, computed from the runs."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from benchmarks.analyses.cost_gap_picture import LABELS, phase_means
from benchmarks.report.markdown import CONFIDENCE, distinct, list_names, render, table
from benchmarks.report.training_time import OWN_STEPS, TASK
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import StudyName

_Runs = Mapping[StudyName, Sequence[Run]]


def no_facts(runs: _Runs) -> dict[str, str]:
    """Compute nothing: the text has no placeholder."""
    return {}


def of_intervals(runs: _Runs) -> dict[str, str]:
    """Compute the values of a text that only names the size of the intervals."""
    return {"confidence": CONFIDENCE}


def of_time(runs: _Runs) -> dict[str, str]:
    """Compute the values of the text of Fig. 4."""
    return {"task": TASK}


def of_weights(runs: _Runs) -> dict[str, str]:
    """Compute the values of the text of Fig. 9: cost and return at the start, and at both ends of the weights."""
    found = runs["weights"]
    options = {run.method: dict(Method.parse(run.method).options) for run in found}
    betas, coefs = ({option[name] for option in options.values()} for name in ("beta", "sft_coef"))
    corners = (min(coefs), max(betas)), (max(coefs), min(betas))
    rows = []
    for task in dict.fromkeys(run.task.name for run in found):
        of_task = scores.select(found, task=task)
        ends = [
            [run for run in of_task if options[run.method] == {"sft_coef": coef, "beta": beta}]
            for coef, beta in corners
        ]
        rows.append(
            [
                task,
                f"{of_task[0].kappa:g}",
                _point(of_task, 0),
                *(_point(end, -1) if end else "not run" for end in ends),
            ]
        )
    head = ["return / cost", "κ", "reference", *(f"λ = {coef:g}, β = {beta:g}" for coef, beta in corners)]
    return {"table": table(head, rows)}


def _point(runs: Sequence[Run], number: int) -> str:
    """Write return and cost of one point of the curves, means over the runs."""
    points = [run.record["curve"][number] for run in runs]
    reward, cost = (np.mean([np.mean(point[key]) for point in points]) for key in ("rewards", "costs"))
    return f"{reward:,.0f} / {cost:,.0f}"


def of_sizes(runs: _Runs) -> dict[str, str]:
    """Compute the values of the text of Fig. 5: the costs of the references."""
    costs = []
    for task in dict.fromkeys(run.task.name for run in runs["sizes"]):
        reference = scores.select(runs.get("table", ()), task=task, method=REFERENCE)
        costs.append(f"{scores.cost(reference).mean:.2f} on {task}" if reference else f"unknown on {task}")
    return {"references": list_names(costs), "confidence": CONFIDENCE}


def of_longer(runs: _Runs) -> dict[str, str]:
    """Compute the values of the text about longer training: its results beside those of Table 1's runs."""
    found, rows, different = runs["longer"], [], []
    for task in dict.fromkeys(run.task.name for run in found):
        for method in dict.fromkeys(run.method for run in scores.select(found, task=task)):
            longer = scores.select(found, task=task, method=method)
            seeds = {run.seed for run in longer}
            usual = [run for run in scores.select(runs.get("table", ()), task=task, method=method) if run.seed in seeds]
            rows.append([task, method, *_steps_and_outcome(usual), *_steps_and_outcome(longer)])
            if usual:
                names = [name for name in ("reward", "cost") if _differs(longer, usual, f"{name}s")]
                different += [f"{list_names(names)} of {method} on {task}"] if names else []
    shares = {
        method: f"{steps / OWN_STEPS[method]:.0%}"
        for method in OWN_STEPS
        for steps in {run.record["steps"] for run in scores.select(found, method=method)}
    }
    head = ["task", "method", "steps", "reward / cost", "steps", "reward / cost"]
    return {
        "seeds": " ".join(f"{seed}" for seed in sorted({run.seed for run in found})),
        "confidence": CONFIDENCE,
        "different": list_names(different, otherwise="nothing"),
        "own_steps": list_names([f"{method} makes {share}" for method, share in shares.items()], "no method makes any"),
        "table": table(head, rows),
    }


def _steps_and_outcome(runs: Sequence[Run]) -> list[str]:
    return [distinct(f"{run.record['steps']:,}" for run in runs), scores.format_outcome(runs)]


def _differs(first: Sequence[Run], second: Sequence[Run], values: str) -> bool:
    """Compare two groups of runs: True if the interval of their difference excludes zero."""
    _, low, high = scores.difference(first, second, attrgetter(values))
    return low > 0 or high < 0


def write_cost_gap(found: Mapping[str, dict[str, Any]]) -> str:
    """
    Write the text of Fig. 2.

    :param found: Records of cost_gap.py, by task.
    """
    changes = []
    for task, record in found.items():
        for of, label in LABELS.items():
            before, *_, late = phase_means(record, of).mean(axis=0)
            changes.append(f"from {before:.1f} to {late:.1f} on {label} of {task}")
    return render("cost_gap", changes=list_names(changes, otherwise="unknown: it was not measured"))
