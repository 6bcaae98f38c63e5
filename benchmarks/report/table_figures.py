"""The figures of Table 1's runs: who is where, how long it takes, and how many are safe."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerPathCollection
from rliable import library

from benchmarks import paper
from benchmarks.report.training_time import TASK, Pace, paces
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import FAST_METHODS, TABLE_METHODS
from sb3_prefine import dsrl
from sb3_prefine.evaluation.plots import SAFE, UNSAFE
from sb3_prefine.utils.randomness import OwnRandomState

LABELS = {REFERENCE: "π_ref"}
SUITES = {"Safety-Gymnasium": paper.TABLE_2, "Bullet-Safety-Gym": paper.TABLE_3}
# Of a marker, points squared an hour.
_AREA = 180.0
PROFILED = (REFERENCE, *FAST_METHODS)


def scatter(runs: Sequence[Run]) -> Figure:
    """Fig. 3: a place a method and suite, a point a task."""
    methods = [method for method in TABLE_METHODS if scores.select(runs, method=method)]
    figure = Figure(figsize=(2.4 * len(methods), 5.6), layout="constrained")
    places = figure.subplots(2, len(methods), sharey=True, squeeze=False)
    for row, (suite, tasks) in zip(places, SUITES.items(), strict=True):
        row[0].set_ylabel(f"{suite}\nnormalised reward")
        for axes, method in zip(row, methods, strict=True):
            _plane(axes, [found for task in tasks if (found := scores.select(runs, method=method, task=task))])
            axes.set_title(LABELS.get(method, method))
    figure.supxlabel("normalised cost (1 is the limit)")
    return figure


def _plane(axes: Axes, of_tasks: Sequence[list[Run]]) -> None:
    axes.axvline(1.0, color="0.3", linewidth=1, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xscale("symlog", linthresh=1.0)
    for found in of_tasks:
        cost, reward = scores.cost(found), scores.reward(found)
        color = SAFE if cost.mean <= 1 else UNSAFE
        axes.scatter(cost.mean, reward.mean, color=color, s=28)
        axes.annotate(short(found[0].task), (cost.mean, reward.mean), (3, 3), textcoords="offset points", fontsize=7)
    axes.set_xlim(-0.1, 12)
    axes.set_xticks([0, 1, 10], ["0", "1", "10"])
    axes.set_xticks([], minor=True)


def short(task: dsrl.Task) -> str:
    """Its capitals, as the paper abbreviates it: bc is BallCircle."""
    name = task.name.removesuffix("Velocity").removesuffix("1")
    return "".join(letter for letter in name if letter.isupper()).lower()


def time(runs: Sequence[Run]) -> Figure:
    """Fig. 4: reward and cost, the marker as large as the training is long."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(1.0, color="0.3", linewidth=1, linestyle=":")
    for method, pace in pace_of(runs).items():
        found = scores.select(runs, method=method, task=TASK)
        cost, reward = scores.cost(found).mean, scores.reward(found).mean
        label = f"{method}: {pace.seconds:,.0f} s; {pace.own_hours:.1f} h"
        axes.scatter(cost, reward, s=pace.own_hours * _AREA, alpha=0.5, label=label)
    # Beside the plane: those that are alike would write over one another.
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        handler_map={PathCollection: HandlerPathCollection(sizes=[60.0])},
    )
    axes.set_xlabel("normalised cost (1 is the limit)")
    axes.set_ylabel("normalised reward")
    return figure


def pace_of(runs: Sequence[Run]) -> dict[str, Pace]:
    """Of each method that is trained."""
    return paces(runs, TABLE_METHODS)


def profiles(runs: Sequence[Run]) -> Figure:
    """The share of runs above a reward, and below a cost."""
    tasks = [t for t in dsrl.PAPER_TASKS if all(scores.select(runs, task=t, method=m) for m in PROFILED)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    # rliable counts what is above: costs are turned round.
    _profile(left, runs, tasks, lambda run: float(run.rewards.mean()), np.linspace(0, 1.1, 56), "reward of at least")
    _profile(right, runs, tasks, lambda run: -float(run.costs.mean()), -np.linspace(0, 4, 81), "cost of at most")
    right.axvline(1.0, color="0.3", linewidth=1, linestyle=":")
    left.legend(frameon=False, fontsize=8)
    return figure


def _profile(
    axes: Axes,
    runs: Sequence[Run],
    tasks: Sequence[str],
    value: Callable[[Run], float],
    grid: np.ndarray,
    label: str,
) -> None:
    values = {method: scores.matrix(runs, tasks, method, value) for method in PROFILED}
    # Those at the value count, too.
    with OwnRandomState(0):
        shares, bands = library.create_performance_profile(values, np.nextafter(grid, -np.inf), reps=500)
    for method in PROFILED:
        [line] = axes.plot(np.abs(grid), shares[method], label=LABELS.get(method, method))
        axes.fill_between(np.abs(grid), *bands[method], color=line.get_color(), alpha=0.1, linewidth=0)
    axes.set_xlabel(f"normalised {label}")
    axes.set_ylabel("share of runs")
    axes.spines[["top", "right"]].set_visible(False)


def safe(runs: Sequence[Run]) -> Figure:
    """Fig. 8: the share of tasks that are safe."""
    methods = [method for method in TABLE_METHODS if scores.select(runs, method=method)]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    width = 0.4
    for offset, (suite, tasks) in zip((-width / 2, width / 2), SUITES.items(), strict=True):
        shares, labels = [], []
        for method in methods:
            costs = [scores.cost(of).mean for task in tasks if (of := scores.select(runs, method=method, task=task))]
            shares.append(float(np.mean(np.array(costs) <= 1)) if costs else 0.0)
            labels.append(f"{sum(cost <= 1 for cost in costs)}/{len(costs)}")
        bars = axes.bar(np.arange(len(methods)) + offset, shares, width, label=suite)
        axes.bar_label(bars, labels, fontsize=8)
    axes.set_xticks(range(len(methods)), [LABELS.get(method, method) for method in methods])
    axes.set_ylabel("share of tasks")
    axes.set_ylim(0, 1.15)
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
