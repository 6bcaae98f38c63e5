"""The figures of the smaller studies: training curves, and results against λ, β, τ and the number of episodes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.drawing import (
    dodge,
    draw_data_mean,
    draw_limit,
    flat,
    legend_above,
    new_figure,
    short_count,
)
from benchmarks.report.names import label_of, style_of
from benchmarks.runs import scores
from benchmarks.runs.methods import Method
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection
from sb3_prefine import Evaluation
from sb3_prefine.evaluation.palette import Style, cycle_style

Episodes = dict[str, Any]


def draw_curves(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 6, 10, 11 and 12: return and cost in training, two tasks in a row."""
    tasks = list(dict.fromkeys(run.task.name for run in runs))
    n_pairs = min(2, len(tasks))
    n_rows = -(-len(tasks) // n_pairs)
    figure = new_figure(0.7 + 1.75 * n_rows)
    grid = figure.subplots(n_rows, 2 * n_pairs, squeeze=False).reshape(-1, 2)
    for pair, task in zip(grid, tasks, strict=False):
        found = scores.select(runs, task=task)
        for axes, key, label in zip(pair, ("rewards", "costs"), ("return", "cost"), strict=True):
            for method in dict.fromkeys(run.method for run in found):
                of_method = scores.select(found, method=method)
                draw_band(axes, of_method, partial(mean_of, key), label_of(method), style_of(method))
            draw_data_mean(axes, found[0].record["preferred"][key.removesuffix("s")])
            axes.set_title(f"{task}: {label}")
        draw_limit(pair[1], found[0].kappa)
    for axes in grid[len(tasks) :].flat:
        axes.set_axis_off()
    legend_above(figure, flat(grid))
    figure.supxlabel("gradient steps", fontsize=9)
    return figure


def draw_weights(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 9: for each task rows of cost, CVaR and return, a column for each β, a line for each λ."""
    options = {run.method: dict(Method.parse(run.method).options) for run in runs}
    betas = sorted({option["beta"] for option in options.values()})
    coefs = sorted({option["sft_coef"] for option in options.values()})
    rows: list[tuple[str, Callable[[Episodes], float]]] = [
        ("cost", partial(mean_of, "costs")),
        ("CVaR of the cost", _cvar),
        ("return", partial(mean_of, "rewards")),
    ]
    tasks = list(dict.fromkeys(run.task.name for run in runs))
    figure = new_figure(0.8 + 1.55 * len(rows) * len(tasks))
    grid = figure.subplots(len(rows) * len(tasks), len(betas), sharey="row", sharex=True, squeeze=False)
    for row, (task, (label, value)) in zip(grid, product(tasks, rows), strict=True):
        found = scores.select(runs, task=task)
        row[0].set_ylabel(f"{task}\n{label}")
        for axes, beta in zip(row, betas, strict=True):
            for number, coef in enumerate(coefs):
                of = [run for run in found if options[run.method] == {"sft_coef": coef, "beta": beta}]
                if of:
                    draw_band(axes, of, value, f"λ = {coef}", cycle_style(number))
            if label != "return":
                draw_limit(axes, found[0].kappa)
    for axes, beta in zip(grid[0], betas, strict=True):
        axes.set_title(f"β = {beta}")
    legend_above(figure, flat(grid))
    figure.supxlabel("gradient steps", fontsize=9)
    return figure


def mean_of(key: str, episodes: Episodes) -> float:
    """
    Compute a mean over the episodes of one point of a curve.

    :param key: ``"rewards"`` or ``"costs"``.
    :param episodes: The point, as the record has it.
    """
    return float(np.mean(episodes[key]))


def _cvar(episodes: Episodes) -> float:
    return Evaluation(*(np.array(episodes[name]) for name in ("rewards", "costs", "lengths"))).cvar_cost(0.1)


def draw_band(axes: Axes, runs: Sequence[Run], value: Callable[[Episodes], float], label: str, style: Style) -> None:
    """
    Draw the mean of the runs' curves, and a band from the lowest to the highest of them.

    :param axes: Where to draw.
    :param runs: Runs with the same steps.
    :param value: Computes the value of a point of the curve from its episodes.
    :param label: Name in the legend.
    :param style: Colour and marker.
    """
    steps = [point["step"] for point in runs[0].record["curve"]]
    values = np.array([[value(point) for point in run.record["curve"]] for run in runs])
    axes.plot(
        steps,
        values.mean(axis=0),
        label=label,
        color=style.color,
        marker=style.marker,
        markersize=3.5,
        markerfacecolor="none",
        linewidth=1.2,
    )
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.15, linewidth=0)
    format_steps(axes)


def format_steps(axes: Axes) -> None:
    """Write gradient steps on the x-axis in few characters."""
    axes.xaxis.set_major_formatter(lambda step, _: short_count(step))


def draw_sizes(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 5: results against the sizes of both sets."""
    usual = Selection()
    of_preferred = [run for run in runs if run.selection.n_dispreferred == usual.n_dispreferred]
    of_dispreferred = [run for run in runs if run.selection.n_preferred == usual.n_preferred]
    figure = new_figure(5.4)
    grid = figure.subplots(2, 2, sharey="row")
    for column, found, name, label in (
        (0, of_preferred, "n_preferred", "episodes in D_p"),
        (1, of_dispreferred, "n_dispreferred", "episodes in D_np"),
    ):
        for axes in grid[:, column]:
            axes.set_xscale("log")
        _draw_against(grid[:, column], found, partial(_selected, name), label)
    legend_above(figure, flat(grid))
    return figure


def _selected(name: str, run: Run) -> float:
    return getattr(run.selection, name)


def draw_taus(runs: Sequence[Run]) -> Figure:
    """Draw Fig. 7: results against τ."""
    figure = new_figure(6.4)
    grid = figure.subplots(2, 1, sharex=True)
    _draw_against(grid, runs, lambda run: run.selection.tau, "τ")
    legend_above(figure, flat(grid))
    return figure


def _draw_against(grid: Sequence[Axes], runs: Sequence[Run], position: Callable[[Run], float], label: str) -> None:
    """Draw the reward above and the cost below, a line for each task."""
    ticks = sorted({position(run) for run in runs})
    tasks = list(dict.fromkeys(run.task.name for run in runs))
    for axes, values, name in (
        (grid[0], scores.reward, "normalised reward"),
        (grid[1], scores.cost, "normalised cost"),
    ):
        # Apart by a hundredth of the axis, whether its scale is logarithmic or not.
        is_log = axes.get_xscale() == "log"
        width = np.log(ticks[-1] / ticks[0]) if is_log else ticks[-1] - ticks[0]
        for number, task in enumerate(tasks):
            of_task = scores.select(runs, task=task)
            at = sorted({position(run) for run in of_task})
            shift = dodge(number, len(tasks), 0.012 * float(width))
            shifted = [x * np.exp(shift) if is_log else x + shift for x in at]
            found = [values([run for run in of_task if position(run) == x]) for x in at]
            errors = [[s.mean - s.low for s in found], [s.high - s.mean for s in found]]
            style = cycle_style(number)
            axes.errorbar(
                shifted,
                [s.mean for s in found],
                errors,
                color=style.color,
                marker=style.marker,
                markersize=5,
                markerfacecolor="none",
                linewidth=1.1,
                capsize=2,
                label=task,
            )
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_xticks([], minor=True)
        axes.set_ylabel(name)
    grid[1].set_xlabel(label)
    draw_limit(grid[1], 1.0)
