"""The numbers in the text of the page about when preferences help, computed from the runs."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

import numpy as np

from benchmarks import paper
from benchmarks.report.markdown import count, distinct, list_names
from benchmarks.report.names import label_of
from benchmarks.report.preferences_figures import METHODS, RIVAL, mean_point, tasks_of
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection, describe
from benchmarks.runs.studies import BOUNDED_PREFINE, STUDIES, StudyName, TierName
from sb3_prefine import PREFINE, dsrl

# Mean log-probs by task and choice of the data, a number for each draw: see data_distance.py.
Distances: TypeAlias = Mapping[tuple[str, Selection], Sequence[float]]
# A run has collapsed if it earns less than this share of what its preferred episodes earn.
COLLAPSED = 0.5
_BOUND = dict(Method.parse(BOUNDED_PREFINE).options)["log_ratio_bound"]
_FEW = STUDIES["within"].selections[1]


@dataclass(frozen=True)
class Results:
    """
    All records that the page shows.

    :param tier: Tier of the runs.
    :param runs: Runs of each study of the page.
    :param distances: Distances of the preferred episodes from the reference.
    """

    tier: TierName
    runs: Mapping[StudyName, Sequence[Run]]
    distances: Distances

    def __getitem__(self, study: StudyName) -> Sequence[Run]:
        return self.runs.get(study, ())


def is_within_limit(runs: Sequence[Run]) -> bool:
    """Compare the mean cost of runs of one task and method with the limit."""
    return mean_point(runs)[1] <= runs[0].kappa


def has_collapsed(run: Run) -> bool:
    """Compare the mean return of a run with that of its preferred episodes."""
    return _is_collapse(run, run.mean_return)


def _is_collapse(run: Run, mean_return: float) -> bool:
    """Compare a return with that of the run's preferred episodes. A share of a negative return means nothing."""
    return run.record["preferred"]["reward"] > 0 and mean_return < COLLAPSED * run.record["preferred"]["reward"]


def group_cases(runs: Sequence[Run]) -> dict[tuple[str, str, Selection], list[Run]]:
    """Group runs by task, reference and choice of the data."""
    cases: dict[tuple[str, str, Selection], list[Run]] = {}
    for run in runs:
        cases.setdefault((run.task.name, run.reference, run.condition), []).append(run)
    return cases


def count_within_limit(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """Count the cases of a task and a choice of the data in which each method is within the limit."""
    counts = []
    for method in methods:
        cases = group_cases(scores.select(runs, method=method)).values()
        counts.append(f"{label_of(method)} {sum(map(is_within_limit, cases))} of {len(cases)}")
    return list_names(counts)


def count_collapsed(runs: Sequence[Run], methods: Sequence[str] = METHODS) -> str:
    """Count the collapsed runs of each method."""
    counts = []
    for method in methods:
        found = scores.select(runs, method=method)
        counts.append(f"{label_of(method)} {sum(map(has_collapsed, found))} of {len(found)}")
    return ", ".join(counts)


def compare_returns(runs: Sequence[Run], method: str) -> tuple[list[str], list[str]]:
    """
    Find the tasks on which a method's return differs significantly from the rival's.

    :param runs: Runs of one choice of the data.
    :param method: Method to compare with :data:`RIVAL`.
    :return: The tasks with a higher and with a lower return. Those over the limit are marked.
    """
    more, less = [], []
    for task in tasks_of(runs):
        ours, theirs = (scores.select(runs, task=task, method=m) for m in (method, RIVAL))
        if ours and theirs:
            _, low, high = scores.difference(ours, theirs, attrgetter("rewards"))
            name = task if is_within_limit(ours) else f"{task}{OVER_LIMIT}"
            more += [name] if low > 0 else []
            less += [name] if high < 0 else []
    return more, less


OVER_LIMIT = " (over the limit)"


def introduction() -> dict[str, object]:
    """Compute the values of the introduction: the weights, and the share of the preference term in the gradient."""
    suites = [paper.settings(dsrl.find_task(next(iter(tasks)))) for tasks in (paper.TABLE_2, paper.TABLE_3)]
    (beta, coef), (bullet_beta, bullet_coef) = ((s["beta"], s["sft_coef"]) for s in suites)
    defaults = inspect.signature(PREFINE).parameters
    return {
        "share": f"{_gradient_share(beta, coef):.1%}",
        "bullet_share": f"{_gradient_share(bullet_beta, bullet_coef):.1%}",
        "beta": f"{beta:g}",
        "coef": f"{coef:g}",
        "bullet_beta": f"{bullet_beta:g}",
        "bullet_coef": f"{bullet_coef:g}",
        "default_beta": f"{defaults['beta'].default:g}",
        "default_coef": f"{defaults['sft_coef'].default:g}",
        "bounded": BOUNDED_PREFINE,
    }


def _gradient_share(beta: float, coef: float) -> float:
    """
    Compute the preference term's share in the gradient of a preferred action's log-prob, at the start of training.

    All log-ratios are 0 then, and the derivative of -log σ(β x) is -β / 2 at x = 0 (Eq. 9).
    """
    return beta / 2 / (beta / 2 + coef)


def summary(results: Results) -> dict[str, object]:
    """Compute the values of the summary."""
    within, preferences = results["within"], results["preferences"]
    methods = [method for method in STUDIES["within"].methods if method != REFERENCE]
    few = [run for run in within if run.condition == _FEW]
    more, less = compare_returns(few, BOUNDED_PREFINE)
    dpo = scores.select(preferences, method="DPO")
    options = ", ".join(f"{key}={value}" for key, value in Method.parse(BOUNDED_PREFINE).options)
    return {
        "within_counts": count_within_limit(within, methods),
        **_broken_by_bounded(results),
        "bound": f"{_BOUND:g}",
        "n_many": Selection().n_preferred,
        "many": _outcomes_by_task([run for run in preferences if run.condition == Selection()]),
        "collapsed": _collapsed_by_task(preferences),
        "few": describe(_FEW),
        "n_few_tasks": count(len(tasks_of(few)), "task"),
        "n_more": len([task for task in more if not task.endswith(OVER_LIMIT)]),
        "n_less": len([task for task in less if not task.endswith(OVER_LIMIT)]),
        "few_collapsed": _collapsed_tasks(scores.select(few, method="PREFINE")),
        **early_losses(results["stopping"]),
        **_flipped(preferences),
        "dpo_collapsed": f"{sum(map(has_collapsed, dpo))} of {len(dpo)}",
        "options": options,
    }


def _broken_by_bounded(results: Results) -> dict[str, object]:
    """Find where the bounded PREFINE breaks the limit, and what else holds there."""
    within, bounded = results["within"], scores.select(results["within"], method=BOUNDED_PREFINE)
    broken, far, between = [], [], []
    for (task, reference, condition), runs in group_cases(bounded).items():
        if is_within_limit(runs):
            continue
        broken.append(task)
        if np.mean(results.distances.get((task, condition), [0.0])) > _BOUND:
            far.append(task)
        case = [run for run in scores.select(within, task=task, reference=reference) if run.condition == condition]
        ends = [scores.select(case, method=method) for method in (RIVAL, REFERENCE)]
        if all(ends) and _lies_between(mean_point(runs), *map(mean_point, ends)):
            between.append(task)
    alone = []
    for (task, reference, _), case in group_cases(results["checkpoints"]).items():
        ours, *others = (scores.select(case, method=method) for method in (BOUNDED_PREFINE, RIVAL, "PREFINE"))
        if ours and all(others) and not is_within_limit(ours) and all(map(is_within_limit, others)):
            alone.append(f"{task} ({reference.upper()})")
    names = {"broken": broken, "broken_checkpoints": alone, "far": far, "between": between}
    return {name: list_names(sorted(set(tasks)), otherwise="no task") for name, tasks in names.items()}


def _lies_between(point: tuple[float, float], low: tuple[float, float], high: tuple[float, float]) -> bool:
    return all(a < x < b for x, a, b in zip(point, low, high, strict=True))


def _outcomes_by_task(runs: Sequence[Run]) -> str:
    """Write return / cost of the three methods that the page compares, by task."""
    parts = []
    for task in tasks_of(runs):
        points = [
            f"{label_of(method)} {format_point(found)}"
            for method in (RIVAL, "PREFINE", BOUNDED_PREFINE)
            if (found := scores.select(runs, task=task, method=method))
        ]
        parts.append(f"{', '.join(points)} on {task}")
    return "; ".join(parts) or "not run"


def format_point(runs: Sequence[Run]) -> str:
    """Write return / cost, means over the seeds."""
    reward, cost = mean_point(runs)
    return f"{reward:,.0f} / {cost:,.0f}"


def _collapsed_by_task(runs: Sequence[Run]) -> str:
    """Count the collapsed runs of each method, on the tasks that have some."""
    parts = [
        f"{count_collapsed(of_task)} on {task}"
        for task in tasks_of(runs)
        if any(map(has_collapsed, of_task := scores.select(runs, task=task)))
    ]
    return "; ".join(parts) or "none"


def _collapsed_tasks(runs: Sequence[Run]) -> str:
    """Name the tasks with collapsed runs of one method, and count them."""
    parts = []
    for task in tasks_of(runs):
        found = scores.select(runs, task=task)
        if n := sum(map(has_collapsed, found)):
            parts.append(f"{n} of {count(len(found), 'run')} on {task}")
    return list_names(parts, otherwise="no run")


def early_losses(runs: Sequence[Run]) -> dict[str, object]:
    """
    Find out when runs collapse, from their curves.

    :param runs: Runs of the study ``stopping``.
    """
    steps = sorted({point["step"] for run in runs for point in run.record["curve"] if point["step"] > 0})
    ended = [run for run in runs if _collapsed_at(run, -1)]
    first = [run for run in runs if _collapsed_at(run, 1)]
    return {
        "first_step": f"{steps[0]:,}" if steps else "no",
        "last_step": f"{steps[-1]:,}" if steps else "no",
        "n_ended": len(ended),
        "n_first": len([run for run in ended if _collapsed_at(run, 1)]),
        "n_recovered": len([run for run in first if not _collapsed_at(run, -1)]),
    }


def _collapsed_at(run: Run, number: int) -> bool:
    """Compare the return of one point of the curve with that of the preferred episodes; point 0 is the reference."""
    return _is_collapse(run, float(np.mean(run.record["curve"][number]["rewards"])))


def poorest(runs: Sequence[Run]) -> dict[str, object]:
    """
    Find the poorest preferred episodes on the tasks with collapsed runs, and count the runs that collapsed with them.

    :param runs: Runs of the study ``stopping``.
    """
    tasks = {run.task.name for run in runs if _collapsed_at(run, -1)}
    found = [run for run in runs if run.task.name in tasks]
    if not found:
        return {"poorest": "No run ends below half of the return of its preferred episodes."}
    lowest = min(run.record["preferred"]["reward"] for run in found)
    those = [run for run in found if run.record["preferred"]["reward"] == lowest]
    return {
        "poorest": (
            f"The poorest preferred episodes of these tasks earn {lowest:,.0f} ({those[0].task.name}, seed "
            f"{those[0].seed}); {sum(_collapsed_at(run, -1) for run in those)} of {count(len(those), 'run')} with them "
            "end so."
        )
    }


def _flipped(runs: Sequence[Run]) -> dict[str, object]:
    """Write the costs with the smallest share of mistaken labels, in multiples of the limit."""
    shares = sorted({run.condition.flipped for run in runs if run.condition.flipped})
    found = [run for run in runs if shares and run.condition.flipped == shares[0]]
    parts = []
    for task in tasks_of(found):
        multiples = [
            f"{label_of(method)} {mean_point(of)[1] / of[0].kappa:.1f}"
            for method in METHODS
            if (of := scores.select(found, task=task, method=method))
        ]
        parts.append(f"{', '.join(multiples)} on {task}")
    return {"flipped": f"{shares[0]:.0%}" if shares else "0%", "flipped_costs": "; ".join(parts) or "not run"}


def narrow_limits(runs: Sequence[Run]) -> dict[str, object]:
    """
    Find the tasks whose limit is below the threshold on the data.

    :param runs: Runs of the study ``preferences``.
    """
    limits = {run.task.name: run.kappa for run in runs if run.kappa < run.selection.tau}
    return {
        "usual_tau": distinct(f"{run.selection.tau:g}" for run in runs),
        "narrow": list_names([f"{task} ({kappa:g})" for task, kappa in limits.items()]),
    }


def unreached(runs: Sequence[Run]) -> str:
    """
    Name the checkpoints from which no method gets within the limit with any choice of the data.

    :param runs: Runs of the study ``checkpoints``.
    """
    trained = [run for run in runs if run.method != REFERENCE]
    found: dict[str, list[bool]] = {}
    for (task, reference, _), case in group_cases(trained).items():
        methods = dict.fromkeys(run.method for run in case)
        kept = any(is_within_limit(scores.select(case, method=method)) for method in methods)
        found.setdefault(f"{task}'s {reference.upper()} agent", []).append(kept)
    return list_names([name for name, kept in found.items() if not any(kept)], otherwise="no agent")
