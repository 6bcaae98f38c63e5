"""The pictures of the page about when preferences help."""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.drawing import dodge, draw_data_mean, draw_limit, flat, legend_above, new_figure, scatter_hollow
from benchmarks.report.names import label_of, style_of
from benchmarks.report.study_figures import format_steps, mean_of
from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection, describe
from benchmarks.runs.studies import STUDIES

METHODS = STUDIES["preferences"].methods
RIVAL = "SFT"
CONTENDERS = tuple(method for method in METHODS if method not in (RIVAL, "BC"))
# Areas of the first and of the last method's markers, in points squared.
_LARGEST, _SMALLEST = 80.0, 28.0


def draw_differences(runs: Sequence[Run]) -> Figure:
    """Draw the differences to SFT: reward on the left, cost on the right, a row for each task."""
    tasks, found = tasks_of(runs), conditions_of(runs)
    figure = new_figure(1.2 + 0.3 * len(found) * len(tasks))
    grid = figure.subplots(len(tasks), 2, sharey=True, squeeze=False)
    for (left, right), task in zip(grid, tasks, strict=True):
        of_task = scores.select(runs, task=task)
        _draw_differences(left, of_task, found, "rewards", task, "reward")
        _draw_differences(right, of_task, found, "costs", task, "cost")
        left.set_yticks(range(len(found)), [describe(selection) for selection in found], fontsize=8)
    # All axes share it: the first choice of the data is at the top.
    grid[0][0].invert_yaxis()
    legend_above(figure, [grid[0][0]])
    return figure


def draw_plane(runs: Sequence[Run]) -> Figure:
    """Draw return against cost: axes for each task, a point for each choice of the data and method."""
    tasks = tasks_of(runs)
    figure = new_figure(4.2)
    grid = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        of_task = scores.select(runs, task=task)
        for method, size in zip(METHODS, np.linspace(_LARGEST, _SMALLEST, len(METHODS)), strict=True):
            of_method = scores.select(of_task, method=method)
            found = [[run for run in of_method if run.condition == c] for c in conditions_of(of_task)]
            points = [mean_point(of_condition) for of_condition in found if of_condition]
            returns, costs = np.reshape(points, (-1, 2)).T
            # Of different sizes, so that equal points do not hide each other.
            scatter_hollow(axes, returns, costs, float(size), style_of(method), label_of(method))
        draw_limit(axes, of_task[0].kappa)
        axes.set_title(task)
        axes.set_xlabel("episode return")
        axes.set_ylabel("episode cost")
    legend_above(figure, flat(grid))
    return figure


def draw_stopping(runs: Sequence[Run]) -> Figure:
    """Draw return and cost in training: a row for each task, two axes for each choice of the data."""
    tasks, found = tasks_of(runs), list(dict.fromkeys(run.condition for run in runs))
    figure = new_figure(0.7 + 2.3 * len(tasks))
    grid = figure.subplots(len(tasks), 2 * len(found), squeeze=False)
    for row, task in zip(grid, tasks, strict=True):
        for pair, selection in zip(row.reshape(-1, 2), found, strict=True):
            of = [run for run in scores.select(runs, task=task) if run.condition == selection]
            for axes, key, label in zip(pair, ("rewards", "costs"), ("return", "cost"), strict=True):
                for method in dict.fromkeys(run.method for run in of):
                    _draw_lines(axes, scores.select(of, method=method), key, method)
                draw_data_mean(axes, float(np.mean([run.record["preferred"][key.removesuffix("s")] for run in of])))
                axes.set_title(f"{task}: {label}\n{describe(selection)}", fontsize=8)
            draw_limit(pair[1], of[0].kappa)
    legend_above(figure, flat(grid))
    figure.supxlabel("gradient steps", fontsize=9)
    return figure


def _draw_lines(axes: Axes, runs: Sequence[Run], key: str, method: str) -> None:
    """Draw a line for each run: where some keep a skill and others lose it, no run is like their mean."""
    style = style_of(method)
    for number, run in enumerate(runs):
        curve = run.record["curve"]
        axes.plot(
            [point["step"] for point in curve],
            [mean_of(key, point) for point in curve],
            color=style.color,
            marker=style.marker,
            markersize=3.5,
            markerfacecolor="none",
            linewidth=1.0,
            # One entry in the legend.
            label=None if number else label_of(method),
        )
    format_steps(axes)


def conditions_of(runs: Sequence[Run]) -> list[Selection]:
    """List the choices of the data that the runs have, in the order of the study ``preferences``."""
    existing = {run.condition for run in runs}
    return [selection for selection in STUDIES["preferences"].selections if selection in existing]


def mean_point(runs: Sequence[Run]) -> tuple[float, float]:
    """Compute return and cost, means over the seeds."""
    reward, cost = (
        np.mean([np.mean(run.record["deterministic"][key]) for run in runs]) for key in ("rewards", "costs")
    )
    return float(reward), float(cost)


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """List the tasks of the runs, in the order of the runs."""
    return list(dict.fromkeys(run.task.name for run in runs))


def _draw_differences(
    axes: Axes, runs: Sequence[Run], found: Sequence[Selection], values: str, task: str, name: str
) -> None:
    for number, method in enumerate(CONTENDERS):
        at, middles, errors = [], [], []
        for row, selection in enumerate(found):
            of_condition = [run for run in runs if run.condition == selection]
            ours, theirs = (scores.select(of_condition, method=m) for m in (method, RIVAL))
            if not ours or not theirs:
                continue
            middle, low, high = scores.difference(ours, theirs, attrgetter(values))
            at.append(row + dodge(number, len(CONTENDERS), 0.24))
            middles.append(middle)
            errors.append((max(0.0, middle - low), max(0.0, high - middle)))
        style = style_of(method)
        axes.errorbar(
            middles,
            at,
            xerr=np.array(errors).T,
            fmt=style.marker,
            color=style.color,
            markersize=5,
            markerfacecolor="none",
            capsize=2,
            label=label_of(method),
        )
    axes.axvline(0.0, color="0.3", linewidth=1)
    axes.set_title(task)
    axes.set_xlabel(f"normalised {name}, minus that of {RIVAL}")
    axes.locator_params(axis="x", nbins=6)
