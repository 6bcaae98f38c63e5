"""
Colours and markers of all pictures: a method looks the same in each of them.

The common roles have the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can
tell apart. The others were chosen far from these and from each other, also as colour-blind readers see them. A method
has a marker of its own as well, so that a picture can be read without its colours.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """
    How a picture shows one method or one role.

    :param color: The colour, as ``#RRGGBB``.
    :param marker: The marker, by matplotlib's name.
    """

    color: str
    marker: str


PREFERRED = Style("#56B4E9", "P")
DISPREFERRED = Style("#D55E00", "X")
REFERENCE = Style("#000000", "s")
PREFINE = Style("#0072B2", "o")
STYLES = {
    "preferred": PREFERRED,
    "dispreferred": DISPREFERRED,
    "reference": REFERENCE,
    "PREFINE": PREFINE,
    "bounded": Style("#009E73", "D"),
    "SFT": Style("#E69F00", "^"),
    "DPO": Style("#CC79A7", "d"),
    "BC": Style("#4D4D4D", "v"),
    "PPL": Style("#7900F2", "<"),
    "CPL": Style("#CCB266", ">"),
    "CPL-KL": Style("#260099", "h"),
    "SafeDICE": Style("#721C00", "p"),
    "CPQ": Style("#4C004C", "*"),
}
# Lines that are no method's: a limit on the cost, and a mean of the data.
LIMIT_COLOR, LIMIT_LINESTYLE = "#4D4D4D", "--"
DATA_COLOR, DATA_LINESTYLE = "#4D4D4D", ":"
# What lies behind the points: other episodes, and a floor under times.
BACKGROUND = "#C0C0C0"

_CYCLE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_CYCLE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


def cycle_style(number: int) -> Style:
    """
    Give a style to what has no role: tasks, weights, policies of any name.

    :param number: The number of the line or of the points in its picture, from 0. The first 56 styles all differ.
    """
    return Style(_CYCLE_COLORS[number % len(_CYCLE_COLORS)], _CYCLE_MARKERS[number % len(_CYCLE_MARKERS)])
