"""The figures of the smaller studies: in training, and against λ, β, τ and the number of episodes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.runs import scores
from benchmarks.runs.methods import Method
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection
from sb3_prefine import Evaluation

# The same in all pictures of studies, by label.
COLORS = {
    "PREFINE": "tab:blue",
    "DPO": "tab:orange",
    "SFT": "tab:green",
    "bounded": "tab:red",
    "BC": "tab:gray",
    "SafeDICE": "tab:brown",
    "CPQ": "tab:purple",
}


def curves(runs: Sequence[Run]) -> Figure:
    """Fig. 6, 10, 11, 12: a pair of places a task, three pairs in a row."""
    tasks = list(dict.fromkeys(run.task.name for run in runs))
    n_pairs = min(3, len(tasks))
    n_rows = -(-len(tasks) // n_pairs)
    figure = Figure(figsize=(5 * n_pairs, 2.6 * n_rows), layout="constrained")
    places = figure.subplots(n_rows, 2 * n_pairs, squeeze=False).reshape(-1, 2)
    for pair, task in zip(places, tasks, strict=False):
        found = scores.select(runs, task=task)
        record = found[0].record
        for axes, key, label in zip(pair, ("rewards", "costs"), ("return", "cost"), strict=True):
            for method in dict.fromkeys(run.method for run in found):
                band(axes, scores.select(found, method=method), partial(mean_of, key), method)
            axes.axhline(record["preferred"][key.removesuffix("s")], color="0.3", linestyle=":", linewidth=1)
            axes.set_title(f"{task}: {label}", fontsize=9)
        pair[1].axhline(found[0].kappa, color="0.3", linestyle="--", linewidth=1)
    for pair in places[len(tasks) :]:
        for axes in pair:
            axes.axis("off")
    places[0][0].legend(frameon=False, fontsize=8)
    figure.supxlabel("gradient steps")
    return figure


def weights(runs: Sequence[Run]) -> Figure:
    """Fig. 9: for each task a row of cost, CVaR and return, a place for each β, a line for each λ."""
    options = {run.method: dict(Method.parse(run.method).options) for run in runs}
    betas = sorted({option["beta"] for option in options.values()})
    coefs = sorted({option["sft_coef"] for option in options.values()})
    rows: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("cost", partial(mean_of, "costs")),
        ("CVaR of the cost", _cvar),
        ("return", partial(mean_of, "rewards")),
    ]
    tasks = list(dict.fromkeys(run.task.name for run in runs))
    figure = Figure(figsize=(3.2 * len(betas), 6.6 * len(tasks)), layout="constrained")
    places = figure.subplots(len(rows) * len(tasks), len(betas), sharey="row", sharex=True, squeeze=False)
    for row, (task, (label, value)) in zip(places, product(tasks, rows), strict=True):
        found = scores.select(runs, task=task)
        row[0].set_ylabel(f"{task}\n{label}", fontsize=9)
        for axes, beta in zip(row, betas, strict=True):
            for coef in coefs:
                of = [run for run in found if options[run.method] == {"sft_coef": coef, "beta": beta}]
                if of:
                    band(axes, of, value, f"λ = {coef}")
            if label != "return":
                axes.axhline(found[0].kappa, color="0.3", linestyle="--", linewidth=1)
    for axes, beta in zip(places[0], betas, strict=True):
        axes.set_title(f"β = {beta}")
    places[0][-1].legend(frameon=False, fontsize=8)
    figure.supxlabel("gradient steps")
    return figure


def mean_of(key: str, episodes: dict[str, Any]) -> float:
    """Of the episodes of a point of a curve."""
    return float(np.mean(episodes[key]))


def _cvar(episodes: dict[str, Any]) -> float:
    return Evaluation(*(np.array(episodes[name]) for name in ("rewards", "costs", "lengths"))).cvar_cost(0.1)


def band(axes: Axes, runs: Sequence[Run], value: Callable[[dict[str, Any]], float], label: str) -> None:
    """The mean of the runs' curves, and from the lowest to the highest of them."""
    steps = [point["step"] for point in runs[0].record["curve"]]
    values = np.array([[value(point) for point in run.record["curve"]] for run in runs])
    [line] = axes.plot(steps, values.mean(axis=0), label=label, color=COLORS.get(label))
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)


def sizes(runs: Sequence[Run]) -> Figure:
    """Fig. 5: against |D_p| and |D_np|."""
    usual = Selection()
    of_preferred = [run for run in runs if run.selection.n_dispreferred == usual.n_dispreferred]
    of_dispreferred = [run for run in runs if run.selection.n_preferred == usual.n_preferred]
    figure = Figure(figsize=(11, 6), layout="constrained")
    places = figure.subplots(2, 2, sharey="row")
    for column, found, name, label in (
        (0, of_preferred, "n_preferred", "|D_p|"),
        (1, of_dispreferred, "n_dispreferred", "|D_np|"),
    ):
        for axes in places[:, column]:
            axes.set_xscale("log")
        _against(places[:, column], found, partial(_selected, name), label)
    return figure


def _selected(name: str, run: Run) -> float:
    return getattr(run.selection, name)


def taus(runs: Sequence[Run]) -> Figure:
    """Fig. 7: against τ."""
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    _against(figure.subplots(2, 1), runs, lambda run: run.selection.tau, "τ")
    return figure


def _against(places: Sequence[Axes], runs: Sequence[Run], position: Callable[[Run], float], label: str) -> None:
    """Reward above, cost below; a line a task."""
    ticks = sorted({position(run) for run in runs})
    for axes, values, name in (
        (places[0], scores.reward, "normalised reward"),
        (places[1], scores.cost, "normalised cost"),
    ):
        for task in dict.fromkeys(run.task.name for run in runs):
            of_task = scores.select(runs, task=task)
            at = sorted({position(run) for run in of_task})
            found = [values([run for run in of_task if position(run) == x]) for x in at]
            errors = [[s.mean - s.low for s in found], [s.high - s.mean for s in found]]
            axes.errorbar(at, [s.mean for s in found], errors, marker="o", markersize=4, capsize=2, label=task)
        axes.set_xlabel(label)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_xticks([], minor=True)
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    places[1].axhline(1.0, color="0.3", linestyle="--", linewidth=1)
    places[0].legend(frameon=False, fontsize=7, ncols=2)
