"""Whether PPL and CPL would do better with other weights than Table 1's."""

from collections.abc import Sequence

import scores
from grids import STUDIES
from methods import Method
from pages import table
from reached import better
from scores import Run

# With Table 1's weights.
_USUAL = ("PREFINE", "PPL", "CPL")
_STUDY = STUDIES["rivals"]


def rivals(runs: Sequence[Run]) -> str:
    """
    A section of the page.

    :param runs: of Table 1, and of the study ``rivals``
    """
    title, command = "## PPL and CPL with other weights", "python benchmarks/run.py --study rivals"
    tasks = [task for task in _STUDY.tasks or () if any(scores.of(runs, task=task, method=m) for m in _STUDY.methods)]
    if not tasks:
        return f"{title}\n\nNot run yet: `{command}`."
    rows = []
    for method in (*_USUAL, *_STUDY.methods):
        found = [scores.of(runs, task=task, method=method) for task in tasks]
        rows.append([_name(method), *(_outcome(of) if of else "not run" for of in found)])
    text = (
        "The paper gives no β for PPL, and Table 1's is PREFINE's for Safety-Gymnasium; CPL's paper has a variant with "
        "a behaviour cloning term and no bias. Normalised reward / normalised cost as in Table 1, with its steps; "
        f"**bold** is safe. {_summary(runs, tasks)}"
    )
    return f"{title}\n\n{text}\n\n{table(['', *tasks], rows)}\n\n`{command}`"


def _outcome(runs: Sequence[Run]) -> str:
    reward, cost = scores.reward(runs), scores.cost(runs)
    return f"**{reward} / {cost}**" if cost.mean <= 1 else f"{reward} / {cost}"


def _name(method: str) -> str:
    """With its weights in letters."""
    parsed = Method.parse(method)
    options = [f"{_LETTERS.get(key, key)} = {value:g}" for key, value in parsed.options]
    return ", ".join([parsed.name, *options])


_LETTERS = {"beta": "β", "bias": "λ", "bc_coef": "cloning"}


def _summary(runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """Which are safe and earn more than PREFINE by more than chance."""
    parts = []
    for task in tasks:
        found = {
            method: of for method in ("PREFINE", *_STUDY.methods) if (of := scores.of(runs, task=task, method=method))
        }
        if "PREFINE" in found and (names := better({_name(method): of for method, of in found.items()})):
            parts.append(f"{task}: {'; '.join(names)}")
    if not parts:
        return "None is safe and earns significantly more than PREFINE."
    return f"Safe, with significantly more reward than PREFINE: {'. '.join(parts)}."
