"""The reward/cost plane: one point per episode."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_prefine.evaluation.palette import LIMIT_COLOR, LIMIT_LINESTYLE, PREFERRED, Style, cycle_style
from sb3_prefine.utils.files import write_atomically

# Area of the first and of the last series' markers, in points squared.
_LARGEST, _SMALLEST = 130.0, 35.0
# Characters that fit beside each other in the legend.
_LEGEND_WIDTH = 80


@dataclass(frozen=True)
class PlotSeries:
    """
    The episodes of one policy or data set.

    :param label: Name in the legend.
    :param rewards: Episode returns, (n_episodes,).
    :param costs: Episode costs, (n_episodes,).
    :param style: Colour and marker; None takes the palette's style for the series' place in the picture.
    """

    label: str
    rewards: np.ndarray
    costs: np.ndarray
    style: Style | None = None


def draw_plane(
    path: Path, series: Sequence[PlotSeries], cost_limit: float, title: str, cost_label: str = "episode cost"
) -> Path:
    """
    Draw episode returns against episode costs, and the limit.

    The cost axis is linear below the limit's order of magnitude and logarithmic above it, so costs of 0 and of 1,000
    are both visible. Markers are hollow, and smaller from series to series, so equal points do not hide each other.

    :param path: Path of the PNG. It appears whole or not at all.
    :param series: What to draw; later series lie on top.
    :param cost_limit: Highest cost of a safe episode.
    :param title: Title of the picture.
    :param cost_label: Label of the cost axis.
    :return: The path of the PNG.
    :raises ValueError: If a series has episodes of unknown cost.
    :raises ImportError: If matplotlib is missing.
    """
    for each in series:
        if np.isnan(each.costs).any():
            raise ValueError(f"{path}: {each.label} has episodes of unknown cost. Leave these episodes out.")
    try:
        # Optional, and slow to import.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A picture needs matplotlib. Run: pip install "sb3-prefine[demo]"') from error

    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(0, cost_limit, color=PREFERRED.color, alpha=0.12, linewidth=0)
    axes.axhline(
        cost_limit, color=LIMIT_COLOR, linestyle=LIMIT_LINESTYLE, linewidth=1, label=f"cost limit: {cost_limit:g}"
    )
    for number, (each, size) in enumerate(zip(series, np.linspace(_LARGEST, _SMALLEST, len(series)), strict=True)):
        style = each.style or cycle_style(number)
        axes.scatter(
            each.rewards,
            each.costs,
            s=size,
            marker=style.marker,
            facecolors="none",
            edgecolors=style.color,
            linewidths=1.3,
            label=each.label,
        )
    linear = 10.0 ** math.floor(math.log10(cost_limit)) if cost_limit > 0 else 1.0
    top = max(1.5 * max(each.costs.max() for each in series), 2 * cost_limit, 2 * linear)
    axes.set_yscale("symlog", linthresh=linear)
    axes.set_ylim(-0.1 * linear, top)
    ticks = [0.0, *(linear * 10.0**k for k in range(1 + math.floor(math.log10(top / linear))))]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.set_xlabel("episode return")
    axes.set_ylabel(cost_label)
    axes.set_title(title)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    labels = axes.get_legend_handles_labels()[1]
    n_columns = max(1, min(len(labels), _LEGEND_WIDTH // (max(map(len, labels)) + 6)))
    figure.legend(loc="outside lower center", ncols=n_columns, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return path
