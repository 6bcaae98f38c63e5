"""Whether the rivals that learn from the two sets would do better with other rates or weights than Table 1's."""

from collections.abc import Sequence

from benchmarks.report.markdown import distinct, table
from benchmarks.report.table_figures import LABELS
from benchmarks.report.verdict import better
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import STUDIES
from sb3_prefine import dsrl

# As in Table 1.
_USUAL = ("PREFINE", "DPO", "PPL", "CPL")
# The one that is better by so much that it ran on the other tasks, too.
_GENTLE = "PPL:learning_rate=1e-05"
_COMMAND = "python -m benchmarks run --study rivals"


def rivals(runs: Sequence[Run]) -> str:
    """
    A section of the page.

    :param runs: of Table 1, and of the study ``rivals``
    """
    title, study = "## Rivals with other learning rates and weights", STUDIES["rivals"]
    ran = [task for task in dsrl.PAPER_TASKS if any(scores.select(runs, task=task, method=m) for m in study.methods)]
    if not ran:
        return f"{title}\n\nNot run yet: `{_COMMAND}`."
    tasks = [task for task in ran if task in (study.tasks or ran)]
    others = [task for task in ran if task not in tasks]
    methods = (*_USUAL, *study.methods)
    parts = [
        title,
        _TEXT,
        f"{_summary(runs, ran, study.methods)} {_when(runs, study.methods)}",
        table(["", *tasks], [[_name(method), *(_outcome(runs, task, method) for task in tasks)] for method in methods]),
        f"`{_COMMAND}`",
    ]
    if others:
        methods = (REFERENCE, "PREFINE", "PPL", _GENTLE)
        rows = [[task, *(_outcome(runs, task, method) for method in methods)] for task in others]
        parts += [
            f"{_name(_GENTLE)}, on the other tasks:",
            table(["task", *map(_name, methods)], rows),
            f"`{_COMMAND} --methods {_GENTLE} --tasks {' '.join(others)}`",
        ]
    return "\n\n".join(parts)


_TEXT = """\
In Table 1 the learning rate of DPO and PPL is PREFINE's, 3e-4, and CPL's that of its paper, 1e-4; β of PPL, for which
there is no paper's, is PREFINE's for Safety-Gymnasium. Here are others: they were looked at by their test episodes, so
what is best among them is flattered. *PPL* wants a smaller rate rather than another β: then it is safe on 8 of 12
tasks, with more reward than before, but on most of them less than PREFINE. *DPO* keeps HalfCheetah's gait at such a
rate; PREFINE and DPO hardly mind it otherwise. *CPL* wants its paper's cloning term, and is near BC with it, though not
on HalfCheetah. Normalised reward / normalised cost as in Table 1, with its steps; **bold** is safe."""


def _outcome(runs: Sequence[Run], task: str, method: str) -> str:
    return scores.format_outcome(scores.select(runs, task=task, method=method))


def _name(method: str) -> str:
    """With its weights in letters."""
    parsed = Method.parse(method)
    options = [f"{_LETTERS.get(key, key)} = {value:g}" for key, value in parsed.options]
    return ", ".join([LABELS.get(parsed.name, parsed.name), *options])


def _when(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """Seeds and dates of what Table 1 has not."""
    found = [run for run in runs if run.method in methods]
    return f"Seeds {distinct(run.seed for run in found)}; {distinct(run.record['date'] for run in found)}."


_LETTERS = {"beta": "β", "bias": "λ", "bc_coef": "cloning", "learning_rate": "rate"}


def _summary(runs: Sequence[Run], tasks: Sequence[str], methods: Sequence[str]) -> str:
    """Which of them are safe and earn more than PREFINE by more than chance."""
    parts = []
    for task in tasks:
        found = {
            method: of for method in ("PREFINE", *methods) if (of := scores.select(runs, task=task, method=method))
        }
        if "PREFINE" in found and (names := better({_name(method): of for method, of in found.items()})):
            parts.append(f"{task}: {'; '.join(names)}")
    if not parts:
        return "None is safe and earns significantly more than Table 1's PREFINE."
    return f"Safe, with significantly more reward than Table 1's PREFINE: {'. '.join(parts)}."
