"""What all pictures of the benchmark share: their size, fonts, lines, legends and file format."""

import io
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike

from sb3_prefine.evaluation.palette import DATA_COLOR, DATA_LINESTYLE, LIMIT_COLOR, LIMIT_LINESTYLE, Style

# A README is about 830 pixels wide: at 9 inches its 9-point letters are 11 pixels high.
WIDTH = 9.0
matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.dpi": 150,
    }
)


def new_figure(height: float) -> Figure:
    """
    Make an empty figure of the width of all pictures.

    :param height: Height in inches.
    """
    return Figure(figsize=(WIDTH, height), layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Render a figure."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def scatter_hollow(axes: Axes, x: ArrayLike, y: ArrayLike, size: float, style: Style, label: str | None) -> None:
    """
    Draw hollow points, which hide no others.

    :param axes: Where to draw.
    :param x: Returns.
    :param y: Costs.
    :param size: Area of the markers in points squared.
    :param style: Colour and marker.
    :param label: Name in the legend.
    """
    axes.scatter(
        x, y, s=size, marker=style.marker, facecolors="none", edgecolors=style.color, linewidths=1.3, label=label
    )


def draw_limit(axes: Axes, cost: float, label: str = "limit κ") -> None:
    """
    Draw the limit on the cost, which is on the y-axis.

    :param axes: Axes whose y-axis is a cost.
    :param cost: Height of the line.
    :param label: Name in the legend.
    """
    axes.axhline(cost, color=LIMIT_COLOR, linestyle=LIMIT_LINESTYLE, linewidth=1, label=label)


def draw_data_mean(axes: Axes, value: float, label: str = "mean of D_p") -> None:
    """
    Draw a mean of the data, which is on the y-axis.

    :param axes: Axes whose y-axis is a return or a cost.
    :param value: Height of the line.
    :param label: Name in the legend.
    """
    axes.axhline(value, color=DATA_COLOR, linestyle=DATA_LINESTYLE, linewidth=1.2, label=label)


def legend_above(figure: FigureBase, axes: Iterable[Axes], n_columns: int = 6) -> None:
    """
    Explain each label of some axes once, above all of them, where the legend hides nothing.

    :param figure: The figure of the axes.
    :param axes: Axes with labelled lines or points.
    :param n_columns: Highest number of labels beside each other.
    """
    found: dict[str, Any] = {}
    for each in axes:
        handles, labels = each.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    if found:
        n_columns = min(n_columns, len(found))
        figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=n_columns)


def short_count(n: float) -> str:
    """Write a count in few characters: 500, 5k, 1M."""
    return f"{n / 1e6:g}M" if n >= 1e6 else f"{n / 1e3:g}k" if n >= 1e3 else f"{n:g}"


def dodge(number: int, n: int, step: float) -> float:
    """
    Shift points of equal position apart, so that none hides another.

    :param number: Number of the series, from 0.
    :param n: Number of series.
    :param step: Distance between two neighbours.
    :return: The shift of this series; the shifts of all series are symmetric around 0.
    """
    return float(step * (number - (n - 1) / 2))


def flat(axes: Any) -> list[Axes]:
    """List the axes of ``Figure.subplots``, whatever the shape of its array."""
    return list(np.ravel(axes))
