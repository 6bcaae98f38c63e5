"""
Writes benchmarks/when_preferences_help.md and its picture from the records of the study ``preferences``.

    python benchmarks/run.py --study preferences --executor joblib
    python benchmarks/run.py --study counterfactuals --executor joblib
    python benchmarks/preferences_page.py
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scores
from grids import BOUNDED, OWN_FAILURES, STUDIES, TierName
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pages import distinct, table, versions
from scores import Run
from selection import Selection

from sb3_prefine.files import write_atomically

HERE = Path(__file__).parent
PICTURE = Path("images") / "when_preferences_help.png"
LABELS = {BOUNDED: "bounded"}
METHODS = STUDIES["preferences"].methods
RIVAL = "SFT"
CONTENDERS = tuple(method for method in METHODS if method not in (RIVAL, "BC"))


def main(
    tier: TierName = "small", results: Path = HERE / "results", page: Path = HERE / "when_preferences_help.md"
) -> None:
    """
    :param tier: whose records to read
    :param results: the folder with TIER/STUDY/TASK
    :param page: the page; its picture goes to images/ beside it
    """
    runs = scores.load(results / tier / "preferences")
    if not runs:
        raise SystemExit(f"No records yet. Run: python benchmarks/run.py --tier {tier} --study preferences")
    content = io.BytesIO()
    draw(runs).savefig(content, format="png", dpi=110)
    (page.parent / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page.parent / PICTURE, content.getvalue())
    write_atomically(page, write(runs, scores.load(results / tier / "counterfactuals")).encode())
    print(f"Wrote {page} and its picture.")


def write(runs: Sequence[Run], of_counterfactuals: Sequence[Run]) -> str:
    """
    The page, as Markdown.

    :param runs: of the study ``preferences``
    :param of_counterfactuals: of the study ``counterfactuals``
    """
    sections = [
        _INTRODUCTION,
        f"![What each has more than {RIVAL}]({PICTURE.as_posix()})",
        *(_of_task(runs, task) for task in _tasks(runs)),
        _counterfactuals(runs, of_counterfactuals),
        _how([*runs, *of_counterfactuals]),
    ]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION = f"""# When does the preference term help?

SFT needs no preferences: it imitates the preferred episodes, from the reference's weights. PREFINE with the paper's
weights is nearly that: at the start 1.5% of its gradient (Safety-Gymnasium) or 9% (Bullet) come from the preference
term. So: with what data is there more to have, and with what weights?

Below, the data are made harder: fewer preferred episodes; preferred ones that earn less than the reference; mistaken
labels; dispreferred ones from the reference itself. *bounded* is `{BOUNDED}`: a preference term that
outweighs the supervised one, and whose log-ratios cannot run away."""


def _of_task(runs: Sequence[Run], task: str) -> str:
    """Return and cost of everybody under every condition."""
    of_task = scores.of(runs, task=task)
    rows = []
    for selection in conditions(of_task):
        of_condition = [run for run in of_task if condition(run) == selection]
        data = [run.record["preferred"] for run in of_condition]
        rows.append(
            [
                name(selection),
                f"{np.mean([d['reward'] for d in data]):,.0f} / {np.mean([d['cost'] for d in data]):,.0f}",
                *(_raw(scores.of(of_condition, method=method)) for method in METHODS),
            ]
        )
    head = ["preferred episodes", "D_p", *(LABELS.get(method, method) for method in METHODS)]
    return (
        f"## {task}\n\nEpisode return / cost by the mode, means over the seeds; the limit κ is "
        f"{distinct(format(run.kappa, 'g') for run in of_task)}, **bold** is safe.\n\n{table(head, rows)}"
    )


def _counterfactuals(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """How many, and whose: a row each, with one of the policy's own on top."""
    found = [*(run for run in runs if condition(run) == OWN_FAILURES), *others]
    rows = [
        [
            f"{LABELS.get(weights, weights)}: {text}",
            *(_raw(scores.of(found, method=_with(weights, option), task=task)) for task in _tasks(runs)),
        ]
        for weights in ("PREFINE", BOUNDED)
        for option, text in _COUNTERFACTUALS.items()
    ]
    return (
        f"## Counterfactuals\n\nEpisode return / cost with {name(OWN_FAILURES)}, by how many counterfactuals a state "
        f"has and by who draws them.\n\n{table(['', *_tasks(runs)], rows)}"
    )


_COUNTERFACTUALS = {
    "": "one of the policy's",
    "n_counterfactuals=4": "four of the policy's",
    "counterfactuals=reference": "one of the reference's",
}


def _with(method: str, option: str) -> str:
    if not option:
        return method
    return f"{method}{',' if ':' in method else ':'}{option}"


def _tasks(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.task.name for run in runs))


def _raw(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run"
    means = [
        float(np.mean([np.mean(run.record["deterministic"][key]) for run in runs])) for key in ("rewards", "costs")
    ]
    text = f"{means[0]:,.0f} / {means[1]:,.0f}"
    return f"**{text}**" if means[1] <= runs[0].kappa else text


def _how(runs: Sequence[Run]) -> str:
    records = [run.record for run in runs]
    return (
        "## Make it again\n\n```bash\npython benchmarks/run.py --study preferences --executor joblib\n"
        "python benchmarks/run.py --study counterfactuals --executor joblib\n"
        "python benchmarks/preferences_page.py\n```\n\n"
        f"{distinct(format(r['budget']['steps'], ',') for r in records)} steps, seeds "
        f"{distinct(r['seed'] for r in records)}, each with a draw of its own, "
        f"{distinct(r['budget']['episodes'] for r in records)} episodes a seed. Intervals are 95%, by bootstrap over "
        f"seeds and their episodes. {distinct(r['date'] for r in records)}; "
        f"{distinct(r['processor'] for r in records)}; {versions(records)}."
    )


def conditions(runs: Sequence[Run]) -> list[Selection]:
    """What the data were like, in the order of the study; those that there are runs of."""
    there = {condition(run) for run in runs}
    return [selection for selection in STUDIES["preferences"].selections if selection in there]


def condition(run: Run) -> Selection:
    """Its selection without the draw, which each seed has its own of."""
    usual = Selection()
    found = run.selection
    return Selection(
        usual.tau, usual.draw, found.n_preferred, found.n_dispreferred, found.pool, found.flipped, found.dispreferred
    )


def name(selection: Selection) -> str:
    """In words."""
    source = "the better half of the safe" if selection.pool == "better_half" else "all safe"
    parts = [f"{selection.n_preferred} of {source}"]
    if selection.flipped:
        parts.append(f"{selection.flipped:.0%} flipped")
    if selection.dispreferred == "reference":
        parts.append("D_np of the reference's own")
    return ", ".join(parts)


def draw(runs: Sequence[Run]) -> Figure:
    """What each has more than SFT: reward to the left, cost to the right; a row of places a task."""
    tasks = _tasks(runs)
    found = conditions(runs)
    figure = Figure(figsize=(12, 0.5 + 0.36 * len(found) * len(tasks)), layout="constrained")
    places = figure.subplots(len(tasks), 2, sharey=True, squeeze=False)
    for (left, right), task in zip(places, tasks, strict=True):
        of_task = scores.of(runs, task=task)
        _differences(left, of_task, found, "rewards", f"{task}: normalised reward, minus that of {RIVAL}")
        _differences(right, of_task, found, "costs", f"{task}: normalised cost, minus that of {RIVAL}")
        left.set_yticks(range(len(found)), [name(selection) for selection in found], fontsize=8)
        left.invert_yaxis()
    places[0][0].legend(frameon=False, fontsize=8)
    return figure


def _differences(axes: Axes, runs: Sequence[Run], found: Sequence[Selection], values: str, title: str) -> None:
    for number, method in enumerate(CONTENDERS):
        at, middles, errors = [], [], []
        for row, selection in enumerate(found):
            ours, theirs = (_values(runs, m, selection, values) for m in (method, RIVAL))
            if not ours or not theirs:
                continue
            middle = np.mean([v.mean() for v in ours]) - np.mean([v.mean() for v in theirs])
            low, high = scores.difference(ours, theirs)
            at.append(row + 0.22 * (number - (len(CONTENDERS) - 1) / 2))
            middles.append(middle)
            errors.append((max(0.0, middle - low), max(0.0, high - middle)))
        label = LABELS.get(method, method)
        axes.errorbar(middles, at, xerr=np.array(errors).T, fmt="o", markersize=4, capsize=2, label=label)
    axes.axvline(0.0, color="0.3", linewidth=1)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _values(runs: Sequence[Run], method: str, selection: Selection, values: str) -> list[np.ndarray]:
    return [getattr(run, values) for run in runs if run.method == method and condition(run) == selection]
