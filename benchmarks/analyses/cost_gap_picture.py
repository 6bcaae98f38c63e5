"""The picture of cost_gap.py: the gap by thirds of training, and the costs that it is computed from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.report.drawing import legend_above, new_figure, short_count, to_png
from sb3_prefine.evaluation.palette import DISPREFERRED, PREFERRED

COLORS = {"preferred": PREFERRED.color, "dispreferred": DISPREFERRED.color}
LABELS = {"preferred": "D_p", "dispreferred": "D_np"}
PHASES = ("before", "early", "mid", "late")


def draw(found: Mapping[str, dict[str, Any]]) -> bytes:
    """
    Draw a row for each task. The lines on the bars go from the lowest to the highest seed.

    :param found: The records of cost_gap.py, by the name of their task.
    :return: A PNG.
    """
    n_rows = max(1, len(found))
    figure = new_figure(0.8 + 2.6 * n_rows)
    # One legend for each column.
    parts = figure.subfigures(1, 2)
    assert isinstance(parts, np.ndarray)
    for part, draw_axes, title in (
        (parts[0], _draw_thirds, "mean absolute gap"),
        (parts[1], _draw_costs, "violations per episode"),
    ):
        grid = part.subplots(n_rows, 1, squeeze=False)[:, 0]
        for axes, (name, record) in zip(grid, found.items(), strict=False):
            draw_axes(axes, record)
            axes.set_title(f"{name}: {title}")
            axes.set_ylim(bottom=0)
        legend_above(part, grid, n_columns=2)
    return to_png(figure)


def phase_means(record: Mapping[str, Any], of: str) -> np.ndarray:
    """
    Compute the gap before training, and its means over the thirds of training.

    :param record: The record of one task.
    :param of: The set, ``"preferred"`` or ``"dispreferred"``.
    :return: Gaps, (n_seeds, 4).
    """
    gaps = np.array([run[of]["gap"] for run in record["runs"]])
    # The k-th third has the measurements after (k - 1) / 3 and up to k / 3 of the steps.
    thirds = np.ceil(3 * np.array(record["timesteps"]) / record["steps"]).astype(int)
    return np.column_stack([gaps[:, thirds == third].mean(axis=1) for third in range(4)])


def _draw_thirds(axes: Axes, record: Mapping[str, Any]) -> None:
    places, width = np.arange(len(PHASES)), 0.38
    for side, of in zip((-0.5, 0.5), COLORS, strict=True):
        means = phase_means(record, of)
        middle = means.mean(axis=0)
        spread = np.stack((middle - means.min(axis=0), means.max(axis=0) - middle))
        axes.bar(places + side * width, middle, width, yerr=spread, color=COLORS[of], label=LABELS[of], capsize=3)
        uniform = np.mean([run[of]["uniform"]["gap"] for run in record["runs"]])
        axes.axhline(uniform, color=COLORS[of], linestyle=":", linewidth=1.6, label=f"{LABELS[of]}: random actions")
    axes.set_xticks(places, PHASES)
    axes.set_xlabel(f"thirds of {record['steps']:,} steps")


def _draw_costs(axes: Axes, record: Mapping[str, Any]) -> None:
    steps = np.array(record["timesteps"])
    for of, style in (("preferred", PREFERRED), ("dispreferred", DISPREFERRED)):
        sampled = np.array([run[of]["sampled"] for run in record["runs"]])
        recorded = np.mean([run[of]["recorded"] for run in record["runs"]])
        axes.fill_between(steps, sampled.min(axis=0), sampled.max(axis=0), color=style.color, alpha=0.2, linewidth=0)
        axes.plot(
            steps,
            sampled.mean(axis=0),
            color=style.color,
            marker=style.marker,
            markersize=5,
            markerfacecolor="none",
            label=f"sampled at states of {LABELS[of]}",
        )
        axes.axhline(recorded, color=style.color, linestyle="--", linewidth=1.2, label=f"recorded in {LABELS[of]}")
    axes.set_xlabel("gradient steps")
    axes.xaxis.set_major_formatter(lambda step, _: short_count(step))
