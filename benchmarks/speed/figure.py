"""The figure of speed.md: the time of a step, and how it grows."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_prefine.evaluation.plots import SAFE

COLORS = {"floor": "0.7", "learn": SAFE, "plain": "#c62828"}
LABELS = {"floor": "floor: behaviour cloning", "learn": "PREFINE.learn", "plain": "Algorithm 1 as written"}
TITLES = {
    "batch size": "transitions of each set in a batch",
    "width": "units of both hidden layers",
    "transitions": "transitions in the data",
    "runs": "runs trained together",
}


def draw(step: Mapping[str, Any], growth: Mapping[str, Any]) -> bytes:
    """
    Draw the figure.

    :param step: The record of ``speed step``.
    :param growth: The record of ``speed growth``.
    :return: The figure as a PNG.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    _draw_step(axes.flat[0], step["families"])
    highest = max(max(points.values()) for points in growth["ms"].values())
    for each, name in zip(axes.flat[1:], TITLES, strict=False):
        _draw_growth(each, name, growth["ms"][name], highest)
    handles, labels = axes.flat[1].get_legend_handles_labels()
    axes.flat[5].legend(handles, labels, loc="center", frameon=False)
    axes.flat[5].axis("off")
    for each in axes.flat[:5]:
        each.spines[["top", "right"]].set_visible(False)
        each.set_ylabel("ms a step")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _draw_step(axes: Axes, families: Mapping[str, Any]) -> None:
    width = 0.27
    for i, (name, label) in enumerate(LABELS.items()):
        places = [position + (i - 1) * width for position in range(len(families))]
        heights = [family["ms"][name] for family in families.values()]
        axes.bar(places, heights, width, color=COLORS[name], label=label)
    axes.set_xticks(range(len(families)), list(families))
    axes.set_title("a gradient step")
    axes.margins(y=0.4)
    axes.legend(loc="upper left", frameon=False)


def _draw_growth(axes: Axes, name: str, milliseconds: Mapping[str, float], highest: float) -> None:
    x, y = [int(n) for n in milliseconds], list(milliseconds.values())
    axes.loglog(x, y, "o-", color=SAFE, label="measured")
    # A hidden layer's work grows with the square of its width, and a step's work does not grow with the data.
    power = {"width": 2, "transitions": 0}.get(name, 1)
    # Extrapolated from the largest size, where the overhead of small operations matters least.
    axes.loglog(x, [y[-1] * (n / x[-1]) ** power for n in x], "--", color="0.5", label="ideal: its work alone")
    axes.set_xticks(x, [_short(n) for n in x])
    axes.set_yticks(ticks := [0.3, 1, 3, 10, 30, 100], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    # The same limits in all panels, so that times that do not grow look flat.
    axes.set_ylim(0.5, 1.5 * highest)
    axes.set_xlabel(TITLES[name])


def _short(n: int) -> str:
    return f"{n // 1_000_000}M" if n >= 1_000_000 else f"{n // 1_000}k" if n >= 10_000 else f"{n:,}"
