"""The figure of the overlap: the embedded states of both sets of every task."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sb3_prefine import dsrl
from sb3_prefine.evaluation.plots import SAFE, UNSAFE

COLORS = {"preferred": SAFE, "dispreferred": UNSAFE}
LABELS = {"preferred": "states of D_p", "dispreferred": "states of D_np"}


def draw(found: Mapping[str, dict[str, Any]]) -> bytes:
    """
    Draw one panel for each of the twelve tasks, with a point for each state, and the Jaccard similarity.

    :param found: The records of `overlap`, by task.
    :return: The figure as a PNG.
    """
    figure = Figure(figsize=(12, 14), layout="constrained")
    for axes, name in zip(figure.subplots(4, 3).flat, dsrl.PAPER_TASKS, strict=True):
        axes.spines[:].set_visible(False)
        # The axes of an embedding have no meaning.
        axes.set_xticks([])
        axes.set_yticks([])
        if name in found:
            _draw_states(axes, name, found[name])
        else:
            axes.set_title(name)
            axes.text(0.5, 0.5, "missing", ha="center", transform=axes.transAxes)
    handles = [Line2D([], [], color=COLORS[of], marker="o", linestyle="", label=LABELS[of]) for of in LABELS]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel(
        "UMAP of both sets. Jaccard similarity of the occupied cells [of states dealt to two sets at random]"
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    return content.getvalue()


def _draw_states(axes: Axes, name: str, record: Mapping[str, Any]) -> None:
    points = [np.column_stack((record["points"][of]["x"], record["points"][of]["y"])) for of in COLORS]
    colors = np.repeat(list(COLORS.values()), [len(part) for part in points])
    # In random order, so that neither set covers the other.
    order = np.random.default_rng(0).permutation(len(colors))
    mixed = np.concatenate(points)[order]
    axes.scatter(mixed[:, 0], mixed[:, 1], s=4, c=colors[order].tolist(), linewidths=0)
    axes.set_title(f"{name}: {record['jaccard']:.2f} [{record['shuffled']:.2f}]")
