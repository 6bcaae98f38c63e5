"""Whether the rivals that learn from the two sets do better with other learning rates or weights than in Table 1."""

import inspect
from collections.abc import Sequence
from operator import attrgetter

from benchmarks import paper
from benchmarks.report.markdown import CONFIDENCE, distinct, not_run, render, table
from benchmarks.report.names import label_of
from benchmarks.report.verdict import better_rivals
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import STUDIES
from sb3_prefine import dsrl
from sb3_prefine.baselines import CPL, PPL

# As in Table 1.
_USUAL = ("PREFINE", "DPO", "PPL", "CPL")
# So much better than Table 1's PPL that it ran on the other tasks too.
_SLOW_PPL = "PPL:learning_rate=1e-05"
_STUDY = STUDIES["rivals"]


def write_rivals(runs: Sequence[Run]) -> str:
    """
    Write the section of the page.

    :param runs: Runs of Table 1, and of the study ``rivals``.
    """
    swept = [run for run in runs if run.method in _STUDY.methods]
    if not swept:
        return not_run("run --study rivals")
    ran = [task for task in dsrl.PAPER_TASKS if scores.select(swept, task=task)]
    tasks = [task for task in ran if task in (_STUDY.tasks or ran)]
    return render(
        "rivals",
        learning_rate=distinct(f"{paper.settings(dsrl.find_task(task))['learning_rate']:g}" for task in ran),
        ppl_rate=f"{_default(PPL, 'learning_rate'):g}",
        ppl_beta=f"{_default(PPL, 'beta'):g}",
        cpl_rate=f"{_default(CPL, 'learning_rate'):g}",
        confidence=CONFIDENCE,
        better=_name_better(runs, ran),
        seeds=distinct(run.seed for run in swept),
        dates=distinct(run.record["date"] for run in swept),
        summary=_summarize(runs, swept),
        outcomes=_outcomes(runs, tasks, (*_USUAL, *_STUDY.methods)),
        others=_other_tasks(runs, [task for task in ran if task not in tasks]),
    )


def _default(method: type, parameter: str) -> float:
    return float(inspect.signature(method).parameters[parameter].default)


def _name_better(runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """Name the sweeps that are safe and earn significantly more than Table 1's PREFINE, by task."""
    parts = []
    for task in tasks:
        methods = ("PREFINE", *_STUDY.methods)
        found = {method: of for method in methods if (of := scores.select(runs, task=task, method=method))}
        if "PREFINE" in found and (names := better_rivals(found)):
            parts.append(f"{task}: {'; '.join(names)}")
    return ". ".join(parts) or "none"


def _summarize(runs: Sequence[Run], swept: Sequence[Run]) -> str:
    """Write a row for each sweep: on how many tasks it is safe, and earns significantly more or less than others."""
    rows = []
    for method in dict.fromkeys(method for method in _STUDY.methods if scores.select(swept, method=method)):
        usual = Method.parse(method).name
        found = {task: of for task in dsrl.PAPER_TASKS if (of := scores.select(runs, task=task, method=method))}
        safe, usual_safe = (
            sum(scores.cost(of).mean <= 1 for of in groups if of)
            for groups in (found.values(), [scores.select(runs, task=task, method=usual) for task in found])
        )
        compared = (_count_differences(runs, found, rival) for rival in (usual, "PREFINE", "BC"))
        rows.append([label_of(method), f"{safe} of {len(found)}", f"{usual_safe}", *compared])
    head = [
        "tasks",
        "safe",
        "safe with Table 1's weights",
        "more / less reward than with these",
        "than PREFINE",
        "than BC",
    ]
    return table(head, rows)


def _count_differences(runs: Sequence[Run], found: dict[str, list[Run]], rival: str) -> str:
    """Count the tasks on which the reward is significantly above and below that of a rival of Table 1."""
    intervals = [
        scores.difference(of, theirs, attrgetter("rewards"))
        for task, of in found.items()
        if (theirs := scores.select(runs, task=task, method=rival))
    ]
    return f"{sum(low > 0 for _, low, _ in intervals)} / {sum(high < 0 for _, _, high in intervals)}"


def _outcomes(runs: Sequence[Run], tasks: Sequence[str], methods: Sequence[str]) -> str:
    rows = [
        [label_of(method), *(scores.format_outcome(scores.select(runs, task=task, method=method)) for task in tasks)]
        for method in methods
    ]
    return table(["", *tasks], rows)


def _other_tasks(runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """Write a table of the sweep that ran on more tasks than the study has; nothing if none did."""
    if not tasks:
        return ""
    methods = (REFERENCE, "PREFINE", "PPL", _SLOW_PPL)
    rows = [
        [task, *(scores.format_outcome(scores.select(runs, task=task, method=method)) for method in methods)]
        for task in tasks
    ]
    return render(
        "rivals_other_tasks",
        method=label_of(_SLOW_PPL),
        table=table(["task", *map(label_of, methods)], rows),
        command=f"run --study rivals --methods {_SLOW_PPL} --tasks {' '.join(tasks)}",
    )
