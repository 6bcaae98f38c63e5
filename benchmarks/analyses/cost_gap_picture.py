"""The figure of the cost gap: the gap by thirds of training, and the costs behind it."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_prefine.evaluation.plots import SAFE, UNSAFE

COLORS = {"preferred": SAFE, "dispreferred": UNSAFE}
LABELS = {"preferred": "D_p", "dispreferred": "D_np"}
PHASES = ("before", "early", "mid", "late")


def draw(found: Mapping[str, dict[str, Any]]) -> bytes:
    """
    Draw one row for each task. The error bars reach from the lowest to the highest seed.

    :param found: The records of `cost-gap`, by task.
    :return: The figure as a PNG.
    """
    figure = Figure(figsize=(11, 4 * max(1, len(found))), layout="constrained")
    for row, (name, record) in zip(figure.subplots(max(1, len(found)), 2, squeeze=False), found.items(), strict=False):
        _draw_thirds(row[0], record)
        _draw_costs(row[1], record)
        row[0].set_title(f"{name}: mean absolute gap")
        row[1].set_title(f"{name}: violations an episode")
        for axes in row:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylim(bottom=0)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def phase_means(record: Mapping[str, Any], of: str) -> np.ndarray:
    """
    Compute the gap before training, and its means over the thirds of training.

    :param record: The record of one task.
    :param of: The set: ``"preferred"`` or ``"dispreferred"``.
    :return: (n_seeds, 4) gaps.
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
        axes.axhline(uniform, color=COLORS[of], linestyle=":", linewidth=1, label=f"{LABELS[of]}: random actions")
    axes.set_xticks(places, PHASES)
    axes.set_xlabel(f"thirds of {record['steps']:,} steps")
    axes.legend(frameon=False)


def _draw_costs(axes: Axes, record: Mapping[str, Any]) -> None:
    steps = np.array(record["timesteps"])
    for of, color in COLORS.items():
        sampled = np.array([run[of]["sampled"] for run in record["runs"]])
        recorded = np.mean([run[of]["recorded"] for run in record["runs"]])
        axes.fill_between(steps, sampled.min(axis=0), sampled.max(axis=0), color=color, alpha=0.2, linewidth=0)
        axes.plot(steps, sampled.mean(axis=0), color=color, label=f"sampled at the states of {LABELS[of]}")
        axes.axhline(recorded, color=color, linestyle="--", linewidth=1, label=f"recorded in {LABELS[of]}")
    axes.set_xlabel("gradient steps")
    axes.legend(frameon=False, fontsize=9)
    axes.xaxis.set_major_formatter("{x:,.0f}")
