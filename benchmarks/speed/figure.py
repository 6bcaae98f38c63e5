"""The picture of speed.md: one gradient step of each contender, and how its time grows."""

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from benchmarks.report.drawing import flat, new_figure, short_count, to_png
from sb3_prefine.evaluation.palette import BACKGROUND, LIMIT_COLOR, PREFINE

COLORS = {"floor": BACKGROUND, "learn": PREFINE.color, "plain": LIMIT_COLOR}
LABELS = {"floor": "floor: behaviour cloning", "learn": "PREFINE.learn", "plain": "Algorithm 1 as written"}
TITLES = {
    "batch size": "transitions of each set in a batch",
    "width": "units of both hidden layers",
    "transitions": "transitions in the data",
    "runs": "runs trained together",
}


def draw(step: Mapping[str, Any], growth: Mapping[str, Any]) -> bytes:
    """
    Draw the bars of one step, and a line for each quantity that grows.

    :param step: The record of ``speed step``.
    :param growth: The record of ``speed growth``.
    :return: A PNG.
    """
    figure = new_figure(5.2)
    axes = flat(figure.subplots(2, 3))
    _draw_step(axes[0], step["families"])
    highest = max(max(points.values()) for points in growth["ms"].values())
    for each, name in zip(axes[1:], TITLES, strict=False):
        _draw_growth(each, name, growth["ms"][name], highest)
    for each in axes[:5]:
        each.set_ylabel("ms per step")
    # The last axes are empty: both legends are there.
    axes[5].set_axis_off()
    first = axes[5].legend(*_handles(axes[0]), loc="upper center")
    axes[5].legend(*_handles(axes[1]), loc="lower center")
    axes[5].add_artist(first)
    return to_png(figure)


def _handles(axes: Axes) -> tuple[list[Artist], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, [str(label) for label in labels]


def _draw_step(axes: Axes, families: Mapping[str, Any]) -> None:
    width = 0.27
    for i, (name, label) in enumerate(LABELS.items()):
        places = [position + (i - 1) * width for position in range(len(families))]
        heights = [family["ms"][name] for family in families.values()]
        axes.bar(places, heights, width, color=COLORS[name], label=label)
    axes.set_xticks(range(len(families)), list(families))
    axes.set_xlabel("policy, one gradient step")


def _draw_growth(axes: Axes, name: str, milliseconds: Mapping[str, float], highest: float) -> None:
    x, y = [int(n) for n in milliseconds], list(milliseconds.values())
    axes.loglog(x, y, color=PREFINE.color, marker=PREFINE.marker, label="PREFINE.learn, measured")
    # The work of a hidden layer grows with the square of its width; that of a step does not grow with the data.
    power = {"width": 2, "transitions": 0}.get(name, 1)
    # From the largest, where small operations do not hide it.
    ideal = [y[-1] * (n / x[-1]) ** power for n in x]
    axes.loglog(x, ideal, linestyle="--", color=LIMIT_COLOR, label="ideal: growth of the work alone")
    axes.set_xticks(x, [short_count(n) if n >= 10_000 else f"{n:,}" for n in x])
    axes.set_yticks(ticks := [0.3, 1, 3, 10, 30, 100], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    # The same for all, so that what does not grow looks flat.
    axes.set_ylim(0.5, 1.5 * highest)
    axes.set_xlabel(TITLES[name])
