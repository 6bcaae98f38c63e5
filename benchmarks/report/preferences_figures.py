"""The pictures of the page about when preferences help."""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.study_figures import COLORS, mean_of
from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection, describe
from benchmarks.runs.studies import BOUNDED_PREFINE, STUDIES

LABELS = {BOUNDED_PREFINE: "bounded"}
METHODS = STUDIES["preferences"].methods
RIVAL = "SFT"
CONTENDERS = tuple(method for method in METHODS if method not in (RIVAL, "BC"))


def draw(runs: Sequence[Run]) -> Figure:
    """What each has more than SFT: reward to the left, cost to the right; a row of places a task."""
    tasks = tasks_of(runs)
    found = conditions(runs)
    figure = Figure(figsize=(12, 0.5 + 0.36 * len(found) * len(tasks)), layout="constrained")
    places = figure.subplots(len(tasks), 2, sharey=True, squeeze=False)
    for (left, right), task in zip(places, tasks, strict=True):
        of_task = scores.select(runs, task=task)
        _differences(left, of_task, found, "rewards", f"{task}: normalised reward, minus that of {RIVAL}")
        _differences(right, of_task, found, "costs", f"{task}: normalised cost, minus that of {RIVAL}")
        left.set_yticks(range(len(found)), [describe(selection) for selection in found], fontsize=8)
    # All places share it: the first choice is at the top.
    places[0][0].invert_yaxis()
    places[0][0].legend(frameon=False, fontsize=8)
    return figure


def draw_plane(runs: Sequence[Run]) -> Figure:
    """Return against cost: a place a task, a point for each condition and method."""
    tasks = tasks_of(runs)
    figure = Figure(figsize=(6 * len(tasks), 4.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        of_task = scores.select(runs, task=task)
        for method in METHODS:
            found = [
                [run for run in scores.select(of_task, method=method) if run.condition == c]
                for c in conditions(of_task)
            ]
            points = [mean_point(of_condition) for of_condition in found if of_condition]
            label = LABELS.get(method, method)
            axes.scatter(*np.reshape(points, (-1, 2)).T, s=22, alpha=0.8, label=label, color=COLORS[label])
        axes.axvline(of_task[0].kappa, color="0.3", linestyle="--", linewidth=1)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("episode cost")
        axes.set_ylabel("episode return")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def draw_stopping(runs: Sequence[Run]) -> Figure:
    """Return and cost in training: a row a task, a pair of places for each choice of the data."""
    tasks, found = tasks_of(runs), list(dict.fromkeys(run.condition for run in runs))
    figure = Figure(figsize=(7.5 * len(found), 3.2 * len(tasks)), layout="constrained")
    places = figure.subplots(len(tasks), 2 * len(found), squeeze=False)
    for row, task in zip(places, tasks, strict=True):
        for pair, selection in zip(row.reshape(-1, 2), found, strict=True):
            of = [run for run in scores.select(runs, task=task) if run.condition == selection]
            for axes, key, label in zip(pair, ("rewards", "costs"), ("return", "cost"), strict=True):
                for method in dict.fromkeys(run.method for run in of):
                    _lines(axes, scores.select(of, method=method), key, LABELS.get(method, method))
                means = [run.record["preferred"][key.removesuffix("s")] for run in of]
                axes.axhline(float(np.mean(means)), color="0.3", linestyle=":", linewidth=1)
                axes.set_title(f"{task}, {describe(selection)}: {label}", fontsize=8)
            pair[1].axhline(of[0].kappa, color="0.3", linestyle="--", linewidth=1)
    places[0][0].legend(frameon=False, fontsize=8)
    figure.supxlabel("gradient steps")
    return figure


def _lines(axes: Axes, runs: Sequence[Run], key: str, label: str) -> None:
    """A line a run: where some keep a skill and others lose it, no run is like their mean."""
    for number, run in enumerate(runs):
        curve = run.record["curve"]
        values = [mean_of(key, point) for point in curve]
        # One entry in the legend.
        name = label if number == 0 else None
        axes.plot([point["step"] for point in curve], values, color=COLORS[label], alpha=0.8, linewidth=1.2, label=name)
    axes.spines[["top", "right"]].set_visible(False)


def conditions(runs: Sequence[Run]) -> list[Selection]:
    """What the data were like, in the order of the study; those that there are runs of."""
    there = {run.condition for run in runs}
    return [selection for selection in STUDIES["preferences"].selections if selection in there]


def mean_point(runs: Sequence[Run]) -> tuple[float, float]:
    """Cost and return, means over the seeds."""
    cost, reward = (
        np.mean([np.mean(run.record["deterministic"][key]) for run in runs]) for key in ("costs", "rewards")
    )
    return float(cost), float(reward)


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """In the order in which they come."""
    return list(dict.fromkeys(run.task.name for run in runs))


def _differences(axes: Axes, runs: Sequence[Run], found: Sequence[Selection], values: str, title: str) -> None:
    for number, method in enumerate(CONTENDERS):
        at, middles, errors = [], [], []
        for row, selection in enumerate(found):
            of_condition = [run for run in runs if run.condition == selection]
            ours, theirs = (scores.select(of_condition, method=m) for m in (method, RIVAL))
            if not ours or not theirs:
                continue
            middle, low, high = scores.difference(ours, theirs, attrgetter(values))
            at.append(row + 0.22 * (number - (len(CONTENDERS) - 1) / 2))
            middles.append(middle)
            errors.append((max(0.0, middle - low), max(0.0, high - middle)))
        label = LABELS.get(method, method)
        axes.errorbar(
            middles, at, xerr=np.array(errors).T, fmt="o", markersize=4, capsize=2, label=label, color=COLORS[label]
        )
    axes.axvline(0.0, color="0.3", linewidth=1)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
