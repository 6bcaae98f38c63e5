"""The picture of overlap.py: the states of both sets of every task in a plane."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.report.drawing import flat, new_figure, to_png
from sb3_prefine import dsrl
from sb3_prefine.evaluation.palette import DISPREFERRED, PREFERRED

COLORS = {"preferred": PREFERRED.color, "dispreferred": DISPREFERRED.color}
LABELS = {"preferred": "states of D_p", "dispreferred": "states of D_np"}


def draw(found: Mapping[str, dict[str, Any]]) -> bytes:
    """
    Draw one point per state, and write the Jaccard similarity.

    :param found: The records of overlap.py, by the name of their task.
    :return: A PNG, with axes for each of the twelve tasks.
    """
    figure = new_figure(10.5)
    for axes, name in zip(flat(figure.subplots(4, 3)), dsrl.PAPER_TASKS, strict=True):
        axes.spines[:].set_visible(False)
        # The directions of an embedding mean nothing.
        axes.set_xticks([])
        axes.set_yticks([])
        if name in found:
            _draw_states(axes, name, found[name])
        else:
            axes.set_title(name)
            axes.text(0.5, 0.5, "missing", ha="center", transform=axes.transAxes)
    handles = [Line2D([], [], color=COLORS[of], marker="o", linestyle="", label=LABELS[of]) for of in LABELS]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    figure.supxlabel(
        "UMAP of both sets. Jaccard similarity of the occupied cells [of states dealt to two sets at random]",
        fontsize=9,
    )
    return to_png(figure)


def _draw_states(axes: Axes, name: str, record: Mapping[str, Any]) -> None:
    points = [np.column_stack((record["points"][of]["x"], record["points"][of]["y"])) for of in COLORS]
    colors = np.repeat(list(COLORS.values()), [len(part) for part in points])
    # Mixed, so that neither set hides the other.
    order = np.random.default_rng(0).permutation(len(colors))
    mixed = np.concatenate(points)[order]
    axes.scatter(mixed[:, 0], mixed[:, 1], s=4, c=colors[order].tolist(), linewidths=0)
    axes.set_title(f"{name}: {record['jaccard']:.2f} [{record['shuffled']:.2f}]")
