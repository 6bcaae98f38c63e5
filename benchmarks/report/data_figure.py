"""The picture of data.md: the reward/cost plane of every task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import paper
from benchmarks.report.drawing import draw_limit, flat, legend_above, new_figure
from sb3_prefine import dsrl
from sb3_prefine.evaluation.palette import BACKGROUND, DISPREFERRED, PREFERRED


def draw_data(data: Mapping[str, dict[str, Any]]) -> Figure:
    """
    Draw one point per episode, both sets, τ, and the means of the paper's sets.

    :param data: The records of ``generate``, by the name of their task.
    :return: A figure with axes for each of the twelve tasks.
    """
    figure = new_figure(10.0)
    grid = flat(figure.subplots(4, 3))
    for axes, name in zip(grid, dsrl.PAPER_TASKS, strict=True):
        axes.set_title(name)
        if name in data:
            _draw_episodes(axes, name, data[name])
        else:
            axes.text(0.5, 0.5, "missing", ha="center", transform=axes.transAxes)
            axes.set_xticks([])
            axes.set_yticks([])
    legend_above(figure, grid, n_columns=3)
    figure.supxlabel("episode return", fontsize=9)
    figure.supylabel("episode cost", fontsize=9)
    return figure


def _draw_episodes(axes: Axes, name: str, record: dict[str, Any]) -> None:
    returns, costs = np.array(record["returns"]), np.array(record["costs"])
    printed = (paper.TABLE_2 | paper.TABLE_3)[name]
    draw_limit(axes, record["cost_limit"], label="threshold τ")
    axes.scatter(returns, costs, s=7, color=BACKGROUND, linewidths=0, label="other episodes")
    for of, label, style, mean in (
        ("preferred", "D_p", PREFERRED, (printed.preferred_return, printed.preferred_cost)),
        ("dispreferred", "D_np", DISPREFERRED, (printed.dispreferred_return, printed.dispreferred_cost)),
    ):
        ids = record[of]
        axes.scatter(returns[ids], costs[ids], s=20, color=style.color, marker=style.marker, linewidths=0, label=label)
        # A dark edge, so that the diamond stands out from the points of its colour.
        axes.scatter(
            *mean, s=70, marker="D", facecolors=style.color, edgecolors="black", linewidths=1.4, label=f"{label}: paper"
        )
    axes.set_ylim(bottom=-0.03 * max(costs.max(), printed.dispreferred_cost))
