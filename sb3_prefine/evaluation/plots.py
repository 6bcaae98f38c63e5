"""The reward/cost plane: one point an episode."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_prefine.utils.files import write_atomically

SAFE, UNSAFE = "#2e7d32", "#c62828"


@dataclass(frozen=True)
class PlotSeries:
    """
    The episodes of one policy or data set.

    :param label: in the legend
    :param rewards: (n_episodes,) episode returns
    :param costs: (n_episodes,) episode costs
    :param color: matplotlib's name of a colour; None takes the next of its cycle
    :param marker: matplotlib's
    """

    label: str
    rewards: np.ndarray
    costs: np.ndarray
    color: str | None = None
    marker: str = "o"


def draw_plane(
    path: Path, clouds: Sequence[PlotSeries], cost_limit: float, title: str, cost_label: str = "episode cost"
) -> Path:
    """
    Draw episode returns against episode costs, and the limit. The cost axis is linear below the limit's order of
    magnitude and logarithmic above it: costs of 0 and of 1,000 are both seen.

    :param path: of the PNG; it appears whole or not at all
    :param clouds: what to draw, the later over the earlier
    :param cost_limit: the most that an episode may cost
    :param title: above the picture
    :param cost_label: what the cost is
    :return: the path
    :raises ValueError: a cost is unknown
    :raises ImportError: matplotlib is missing
    """
    for cloud in clouds:
        if np.isnan(cloud.costs).any():
            raise ValueError(f"{path} was not drawn: {cloud.label} has episodes of unknown cost.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A picture needs matplotlib. Run: pip install "sb3-prefine[demo]"') from error

    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(0, cost_limit, color=SAFE, alpha=0.08)
    axes.axhline(cost_limit, color=SAFE, linewidth=1, linestyle="--")
    for cloud in clouds:
        axes.scatter(
            cloud.rewards,
            cloud.costs,
            s=46,
            marker=cloud.marker,
            color=cloud.color,
            alpha=0.75,
            linewidths=1.4,
            label=cloud.label,
        )
    linear = 10.0 ** math.floor(math.log10(cost_limit)) if cost_limit > 0 else 1.0
    top = max(1.5 * max(cloud.costs.max() for cloud in clouds), 2 * cost_limit, 2 * linear)
    axes.set_yscale("symlog", linthresh=linear)
    axes.set_ylim(-0.1 * linear, top)
    ticks = [0.0, *(linear * 10.0**k for k in range(1 + math.floor(math.log10(top / linear))))]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.annotate(
        f"limit {cost_limit:g}",
        (0.99, cost_limit),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=9,
    )
    axes.set_xlabel("episode return")
    axes.set_ylabel(cost_label)
    axes.set_title(title)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    # As many side by side as the picture is wide, about 80 letters.
    longest = max(len(cloud.label) for cloud in clouds)
    figure.legend(loc="outside lower center", ncols=max(1, min(len(clouds), 80 // (longest + 6))), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return path
