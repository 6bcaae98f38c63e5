"""How pages and pictures name a method, and how pictures show it."""

from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.studies import BOUNDED_PREFINE
from sb3_prefine.evaluation.palette import STYLES, Style

_LABELS = {REFERENCE: "π_ref", BOUNDED_PREFINE: "bounded"}
_LETTERS = {"beta": "β", "bias": "λ", "sft_coef": "λ", "bc_coef": "cloning", "learning_rate": "rate"}


def label_of(method: str) -> str:
    """
    Name a method with its options in letters: ``PPL, β = 1``.

    :param method: Method as ``--methods`` names it.
    """
    if method in _LABELS:
        return _LABELS[method]
    name, options = Method.parse(method).name, Method.parse(method).options
    if _is_bounded(method):
        name, options = _LABELS[BOUNDED_PREFINE], options[len(Method.parse(BOUNDED_PREFINE).options) :]
    values = (value if isinstance(value, str) else f"{value:g}" for _, value in options)
    return ", ".join([name, *(f"{_LETTERS.get(key, key)} = {v}" for (key, _), v in zip(options, values, strict=True))])


def style_of(method: str) -> Style:
    """
    Look up the colour and marker of a method. Its options do not change them, but for the bounded PREFINE.

    :param method: Method as ``--methods`` names it.
    """
    return STYLES["bounded" if _is_bounded(method) else Method.parse(method).name]


def _is_bounded(method: str) -> bool:
    return f"{method},".startswith(f"{BOUNDED_PREFINE},")
