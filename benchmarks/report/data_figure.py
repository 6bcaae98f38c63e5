"""The picture of data.md: the reward/cost plane of every task."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import paper
from sb3_prefine import dsrl
from sb3_prefine.evaluation.plots import SAFE, UNSAFE


def draw(data: Mapping[str, dict[str, Any]]) -> bytes:
    """
    One point an episode; both sets, τ, and where the paper's sets lie in the mean.

    :param data: the records of generate.py, by the name of their task
    :return: a PNG, with a place for each of the twelve tasks
    """
    figure = Figure(figsize=(12, 13), layout="constrained")
    legend: dict[str, Any] = {}
    for axes, name in zip(figure.subplots(4, 3).flat, dsrl.PAPER_TASKS, strict=True):
        axes.set_title(name)
        axes.spines[["top", "right"]].set_visible(False)
        if name in data:
            _draw_plane(axes, name, data[name])
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        else:
            axes.text(0.5, 0.5, "missing", ha="center", transform=axes.transAxes)
            axes.set_xticks([])
            axes.set_yticks([])
    if legend:
        figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=6, frameon=False)
    figure.supxlabel("episode return")
    figure.supylabel("episode cost")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _draw_plane(axes: Axes, name: str, record: dict[str, Any]) -> None:
    returns, costs = np.array(record["returns"]), np.array(record["costs"])
    theirs = (paper.TABLE_2 | paper.TABLE_3)[name]
    axes.axhline(record["cost_limit"], color="0.3", linewidth=1, linestyle="--", label="τ")
    axes.scatter(returns, costs, s=8, color="0.7", linewidths=0, label="other episodes")
    for of, label, color, marker, mean in (
        ("preferred", "D_p", SAFE, "o", (theirs.preferred_return, theirs.preferred_cost)),
        ("dispreferred", "D_np", UNSAFE, "X", (theirs.dispreferred_return, theirs.dispreferred_cost)),
    ):
        ids = record[of]
        axes.scatter(returns[ids], costs[ids], s=22, color=color, marker=marker, linewidths=0, label=label)
        axes.scatter(
            *mean,
            s=110,
            marker="D",
            facecolors="white",
            edgecolors=color,
            linewidths=1.8,
            label=f"{label}: paper's mean",
        )
    axes.set_ylim(bottom=-0.03 * max(costs.max(), theirs.dispreferred_cost))
