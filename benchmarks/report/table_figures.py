"""The figures of Table 1's runs: return and cost of each method, training times, and shares of safe tasks."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rliable import library

from benchmarks import paper
from benchmarks.report.drawing import draw_limit, legend_above, new_figure, scatter_hollow
from benchmarks.report.names import label_of, style_of
from benchmarks.report.training_time import TASK, TrainingTime, training_times
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import FAST_METHODS, TABLE_METHODS
from sb3_prefine import dsrl
from sb3_prefine.evaluation.palette import BACKGROUND, DISPREFERRED, LIMIT_COLOR, LIMIT_LINESTYLE, PREFERRED
from sb3_prefine.utils.randomness import IsolatedRandomState

SUITES = {"Safety-Gymnasium": paper.TABLE_2, "Bullet-Safety-Gym": paper.TABLE_3}
PROFILED = (REFERENCE, *FAST_METHODS)
_SUITE_MARKERS, _SUITE_COLORS = ("o", "s"), (LIMIT_COLOR, BACKGROUND)
_LIMIT = "limit κ"
# Area of a marker in points squared per hour of training.
_AREA = 180.0
# Places of a task's name beside its point, in points: first the right, then the left, then the corners.
_OFFSETS = [(5, -3), (-15, -3), (6, 6), (-16, 6), (6, -13), (-16, -13), (-5, 9), (-5, -16)]
# About the size of two letters of 8 points.
_LETTERS_SIZE = np.array([12.0, 8.0])


def draw_scatter(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 3: axes for each method, a point for each task."""
    methods = [method for method in TABLE_METHODS if scores.select(runs, method=method)]
    n_rows = -(-len(methods) // 2)
    figure = new_figure(0.8 + 2.1 * n_rows)
    grid = figure.subplots(n_rows, 2, sharex=True, sharey=True, squeeze=False)
    points = {}
    for axes, method in zip(grid.flat, methods, strict=False):
        axes.set_title(label_of(method), fontweight="bold")
        points[axes] = _draw_tasks(axes, scores.select(runs, method=method))
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylim(-0.15, 12)
    grid[0, 0].margins(x=0.08)
    figure.supxlabel("normalised reward", fontsize=9)
    figure.supylabel("normalised cost", fontsize=9)
    handles = [
        *(
            Line2D([], [], color="0.4", marker=m, linestyle="", label=s)
            for s, m in zip(SUITES, _SUITE_MARKERS, strict=True)
        ),
        Line2D([], [], color=PREFERRED.color, marker="o", linestyle="", label="safe"),
        Line2D([], [], color=DISPREFERRED.color, marker="o", markerfacecolor="none", linestyle="", label="not safe"),
        *(line for line in grid[0, 0].lines if line.get_label() == _LIMIT),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    # Names are placed once the layout is known.
    figure.draw_without_rendering()
    for axes, of_axes in points.items():
        _name_points(axes, of_axes)
    return figure


def _draw_tasks(axes: Axes, runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Draw a point per task; return their places by the tasks' short names."""
    axes.set_yscale("symlog", linthresh=1.0, linscale=1.5)
    axes.set_yticks([0, 0.5, 1, 2, 5, 10], ["0", "0.5", "1", "2", "5", "10"])
    axes.set_yticks([], minor=True)
    draw_limit(axes, 1.0, _LIMIT)
    points = {}
    for marker, tasks in zip(_SUITE_MARKERS, SUITES.values(), strict=True):
        for of_task in filter(None, (scores.select(runs, task=task) for task in tasks)):
            reward, cost = scores.reward(of_task).mean, scores.cost(of_task).mean
            color, fill = (PREFERRED.color, PREFERRED.color) if cost <= 1 else (DISPREFERRED.color, "none")
            axes.scatter(reward, cost, s=26, marker=marker, facecolors=fill, edgecolors=color, linewidths=1.3)
            points[short_name(of_task[0].task)] = (reward, cost)
    return points


def _name_points(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Write each name where it hides no other name and no point, as far as there is such a place."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    at = {name: axes.transData.transform(point) * 72 / figure.dpi for name, point in points.items()}
    # A point is taken as a box around it.
    boxes = [place - 3 for place in at.values()]
    sizes = [np.array([6.0, 6.0]) for _ in boxes]
    # From the right: the rightmost points have the most room there.
    for name, place in sorted(at.items(), key=lambda item: -item[1][0]):

        def overlap(offset: tuple[int, int], place: np.ndarray = place) -> float:
            corner = place + offset
            shared = [
                np.clip(np.minimum(corner + _LETTERS_SIZE, box + size) - np.maximum(corner, box), 0, None).prod()
                for box, size in zip(boxes, sizes, strict=True)
            ]
            return float(np.sum(shared))

        offset = min(_OFFSETS, key=overlap)
        boxes.append(place + offset)
        sizes.append(_LETTERS_SIZE)
        # Farther names have a line to their point.
        line = None if offset in _OFFSETS[:2] else {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(name, points[name], offset, textcoords="offset points", fontsize=8, arrowprops=line)


def short_name(task: dsrl.Task) -> str:
    """Abbreviate a task by its capitals, as the paper does: bc is BallCircle."""
    name = task.name.removesuffix("Velocity").removesuffix("1")
    return "".join(letter for letter in name if letter.isupper()).lower()


def draw_times(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 4: reward and cost, with markers as large as the training is long."""
    figure = new_figure(4.2)
    axes = figure.subplots()
    draw_limit(axes, 1.0, _LIMIT)
    for method, time in training_times_of(runs).items():
        found, style = scores.select(runs, method=method, task=TASK), style_of(method)
        reward, cost = scores.reward(found).mean, scores.cost(found).mean
        scatter_hollow(axes, reward, cost, max(25.0, time.own_hours * _AREA), style, None)
        # In the legend all have one size.
        scatter_hollow(axes, [], [], 50.0, style, f"{label_of(method)}: {time.seconds:,.0f} s; {time.own_hours:.1f} h")
    axes.set_xlabel("normalised reward")
    axes.set_ylabel("normalised cost")
    axes.margins(0.1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def training_times_of(runs: Sequence[Run]) -> dict[str, TrainingTime]:
    """Look up the training times of all methods of Table 1 that are trained."""
    return training_times(runs, TABLE_METHODS)


def draw_profiles(runs: Sequence[Run]) -> Figure:
    """Draw the share of runs above each reward, and below each cost."""
    tasks = [t for t in dsrl.PAPER_TASKS if all(scores.select(runs, task=t, method=m) for m in PROFILED)]
    figure = new_figure(3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    # rliable counts values above a threshold: negate costs to count those below it.
    _draw_profile(left, runs, tasks, lambda run: float(run.rewards.mean()), np.linspace(0, 1.1, 56), "reward, at least")
    _draw_profile(right, runs, tasks, lambda run: -float(run.costs.mean()), -np.linspace(0, 4, 81), "cost, at most")
    limit = right.axvline(1.0, color=LIMIT_COLOR, linestyle=LIMIT_LINESTYLE, linewidth=1)
    left.set_ylabel("share of runs")
    handles, labels = left.get_legend_handles_labels()
    figure.legend([*handles, limit], [*labels, _LIMIT], loc="outside upper center", ncols=5)
    return figure


def _draw_profile(
    axes: Axes,
    runs: Sequence[Run],
    tasks: Sequence[str],
    value: Callable[[Run], float],
    grid: np.ndarray,
    label: str,
) -> None:
    values = {method: scores.matrix(runs, tasks, method, value) for method in PROFILED}
    # A step below the threshold, so that values equal to it count too.
    with IsolatedRandomState(0):
        shares, bands = library.create_performance_profile(values, np.nextafter(grid, -np.inf), reps=500)
    for number, method in enumerate(PROFILED):
        style = style_of(method)
        axes.plot(
            np.abs(grid),
            shares[method],
            color=style.color,
            marker=style.marker,
            markersize=5,
            markerfacecolor="none",
            markevery=(number, len(PROFILED) + 2),
            label=label_of(method),
        )
        axes.fill_between(np.abs(grid), *bands[method], color=style.color, alpha=0.08, linewidth=0)
    axes.set_xlabel(f"normalised {label}")


def draw_safe_shares(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 8: the share of tasks that are safe."""
    methods = [method for method in TABLE_METHODS if scores.select(runs, method=method)]
    figure = new_figure(3.4)
    axes = figure.subplots()
    width = 0.4
    for number, (suite, tasks) in enumerate(SUITES.items()):
        shares, labels = [], []
        for method in methods:
            costs = [scores.cost(of).mean for task in tasks if (of := scores.select(runs, method=method, task=task))]
            shares.append(float(np.mean(np.array(costs) <= 1)) if costs else 0.0)
            labels.append(f"{sum(cost <= 1 for cost in costs)}/{len(costs)}")
        places = np.arange(len(methods)) + (number - 0.5) * width
        bars = axes.bar(places, shares, width, label=suite, color=_SUITE_COLORS[number])
        axes.bar_label(bars, labels, fontsize=8)
    axes.set_xticks(range(len(methods)), [label_of(method) for method in methods])
    axes.set_ylabel("share of tasks")
    axes.set_ylim(0, 1.1)
    legend_above(figure, [axes])
    return figure
