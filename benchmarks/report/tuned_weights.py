"""Whether λ and β that were chosen on held-out preferences are better than the paper's."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from benchmarks.report.markdown import table
from benchmarks.runs import scores
from benchmarks.runs.methods import Method
from benchmarks.runs.scores import Run


def tuned(runs: Sequence[Run], chosen: Mapping[str, dict[str, Any]]) -> str:
    """
    A section of the page.

    :param runs: of Table 1, and of the weights that were chosen
    :param chosen: by task, as tune.py wrote it
    """
    title = "## λ and β, chosen on held-out preferences"
    if not chosen:
        return f"{title}\n\nNot run yet: `python -m benchmarks tune BallRun`."
    rows = [_row(task, record, runs) for task, record in chosen.items()]
    head = [
        "task",
        "the paper's λ, β",
        "held-out loss",
        "reward / cost",
        "chosen λ, β",
        "held-out loss",
        "reward / cost",
        "difference in reward",
        "in cost",
    ]
    n_trials = max(len(record["trials"]) for record in chosen.values())
    text = (
        f"The best of {n_trials} trials by the loss on a fifth of the preferences that was held out (Eq. 9, with the "
        "paper's weights); no environment was stepped to choose. Then trained as in Table 1; differences are of runs "
        f"of the same seed, with 95% intervals. {_summary(runs, chosen)}"
    )
    return f"{title}\n\n{text}\n\n{table(head, rows)}\n\n`python -m benchmarks tune {' '.join(chosen)}`"


def _summary(runs: Sequence[Run], chosen: Mapping[str, dict[str, Any]]) -> str:
    """On how many tasks the reward differs by more than chance."""
    pairs = [_both(task, record, runs) for task, record in chosen.items()]
    intervals = [scores.difference(other, usual, attrgetter("rewards")) for usual, other in pairs if usual and other]
    more, less = sum(low > 0 for _, low, _ in intervals), sum(high < 0 for _, _, high in intervals)
    return f"With the chosen weights the reward is higher on {more} of {len(intervals)} tasks, and lower on {less}."


def _row(task: str, record: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    usual, other = _both(task, record, runs)
    # The paper's own weights are the first trial.
    losses = record["trials"][0]["held_out_loss"], record["held_out_loss"]
    weights = record["paper"], dict(Method.parse(record["method"]).options)
    cells = [task]
    for found, loss, options in zip((usual, other), losses, weights, strict=True):
        outcome = f"{scores.reward(found)} / {scores.cost(found)}" if found else "not run"
        cells += [f"{options['sft_coef']:g}, {options['beta']:g}", f"{loss:.3f}", outcome]
    return [*cells, *(_difference(other, usual, name) for name in ("rewards", "costs"))]


def _both(task: str, record: dict[str, Any], runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs with the paper's weights, and with the chosen ones."""
    return scores.select(runs, task=task, method="PREFINE"), scores.select(runs, task=task, method=record["method"])


def _difference(first: Sequence[Run], second: Sequence[Run], name: str) -> str:
    if not first or not second:
        return ""
    middle, low, high = scores.difference(first, second, attrgetter(name))
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"
