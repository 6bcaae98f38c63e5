"""
Writes benchmarks/when_preferences_help.md and its pictures from the records of three studies.

    python benchmarks/run.py --study preferences --executor joblib
    python benchmarks/run.py --study counterfactuals --executor joblib
    python benchmarks/run.py --study checkpoints --executor joblib
    python benchmarks/preferences_page.py
"""

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import scores
import tyro
from grids import BOUNDED, OWN_FAILURES, STUDIES, TierName
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from methods import REFERENCE
from pages import distinct, table, versions
from scores import Run
from selection import Selection

from sb3_prefine.files import write_atomically

HERE = Path(__file__).parent
PICTURE = Path("images") / "when_preferences_help.png"
PLANE = Path("images") / "preferences_plane.png"
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
    :param page: the page; its pictures go to images/ beside it
    """
    runs = scores.load(results / tier / "preferences")
    if not runs:
        raise SystemExit(f"No records yet. Run: python benchmarks/run.py --tier {tier} --study preferences")
    for path, figure in ((PICTURE, draw(runs)), (PLANE, draw_plane(runs))):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        (page.parent / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page.parent / path, content.getvalue())
    others = (scores.load(results / tier / study) for study in ("counterfactuals", "checkpoints"))
    write_atomically(page, write(runs, *others).encode())
    print(f"Wrote {page} and its pictures.")


def write(runs: Sequence[Run], of_counterfactuals: Sequence[Run], of_checkpoints: Sequence[Run]) -> str:
    """
    The page, as Markdown.

    :param runs: of the study ``preferences``
    :param of_counterfactuals: of the study ``counterfactuals``
    :param of_checkpoints: of the study ``checkpoints``
    """
    sections = [
        _INTRODUCTION,
        _SO_FAR,
        f"![What each has more than {RIVAL}]({PICTURE.as_posix()})",
        f"{_PLANE_TEXT}\n\n![Return against cost]({PLANE.as_posix()})",
        *(_of_task(runs, task) for task in _tasks(runs)),
        _checkpoints(of_checkpoints),
        _counterfactuals(of_counterfactuals),
        _how([*runs, *of_counterfactuals, *of_checkpoints]),
    ]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION = f"""# When does the preference term help?

SFT needs no preferences: it imitates the preferred episodes, from the reference's weights. PREFINE with the paper's
weights is nearly that: at the start 1.5% of its gradient (Safety-Gymnasium) or 9% (Bullet) come from the preference
term. So: with what data is there more to have, and with what weights?

Below, the data are made harder: fewer preferred episodes; preferred ones that earn less than the reference; mistaken
labels; dispreferred ones from the reference itself. *bounded* is `{BOUNDED}`: a preference term that
outweighs the supervised one, and whose log-ratios cannot run away."""


_SO_FAR = """\
**So far**, from what has been run (below; not yet all seeds, so the defaults are still the paper's):

- *Many clean preferred episodes:* nobody needs the preference term. On HalfCheetah SFT, PREFINE and bounded come out
  alike. On BallCircle they lie on one line of return against cost, and the weights choose the place on it.
- *Few of them, on HalfCheetah:* with one episode SFT forgets to run, with ten poor ones the paper's weights do. The
  bounded term keeps the gait both times, far below the limit. With two poor ones, or with ten that are slow (τ = 10),
  nobody does.
- *Poorer ones than the reference:* bounded keeps more of the reference's return on both tasks. On BallCircle it pays
  for that with cost: up to the threshold τ that the labels were made with, which is above the limit κ.
- *Mistaken labels:* the larger the preference term, the more they do. With 10% of them DPO and bounded cost about twice
  the limit on BallCircle; SFT and the paper's weights stay within it.
- *DPO alone* can lose the return altogether: the supervised term is needed, if a small one."""

_PLANE_TEXT = """\
Who earns more mostly costs more, too. So the same policies by their return and cost, a point for each choice of the
data: a method is better than another where its points lie to the upper left of the other's."""


def _of_task(runs: Sequence[Run], task: str) -> str:
    """Return and cost of everybody under every condition."""
    of_task = scores.of(runs, task=task)
    rows = []
    for selection in conditions(of_task):
        of_condition = [run for run in of_task if condition(run) == selection]
        rows.append(
            [
                name(selection),
                _of_data(of_condition),
                *(_raw(scores.of(of_condition, method=method)) for method in METHODS),
            ]
        )
    head = ["preferred episodes", "D_p", *(LABELS.get(method, method) for method in METHODS)]
    return (
        f"## {task}\n\nEpisode return / cost by the mode, means over the seeds; the limit κ is "
        f"{distinct(format(run.kappa, 'g') for run in of_task)}, **bold** is safe.\n\n{table(head, rows)}"
    )


def _checkpoints(runs: Sequence[Run]) -> str:
    """References that somebody else trained: a row for each, and for each choice of the data."""
    if not runs:
        return "## RL Zoo's checkpoints\n\nNot run yet: `python benchmarks/run.py --study checkpoints`."
    study = STUDIES["checkpoints"]
    rows = []
    for task, reference, selection in product(_tasks(runs), study.references, study.selections):
        found = [run for run in scores.of(runs, task=task, reference=reference) if condition(run) == selection]
        if found:
            of_methods = (_raw(scores.of(found, method=method)) for method in study.methods)
            rows.append([task, reference.upper(), name(selection), _of_data(found), *of_methods])
    columns = ["π_ref" if method == REFERENCE else LABELS.get(method, method) for method in study.methods]
    head = ["task", "checkpoint", "preferred episodes", "D_p", *columns]
    return (
        "## RL Zoo's checkpoints\n\nReferences that are far from the data, and earn far more: they were trained for "
        "the return alone. Episode return / cost by the mode, means over the seeds; the limit κ is "
        f"{distinct(format(run.kappa, 'g') for run in runs)}, **bold** is safe.\n\n{table(head, rows)}"
    )


def _counterfactuals(runs: Sequence[Run]) -> str:
    """Clearly safe episodes: a row for each method and kind of counterfactual."""
    if not runs:
        return "## Counterfactuals\n\nNot run yet: `python benchmarks/run.py --study counterfactuals`."
    tasks = _tasks(runs)
    tau = distinct(format(run.selection.tau, "g") for run in runs)
    rows = [["D_p", *(_of_data(scores.of(runs, task=task)) for task in tasks)]]
    for method in STUDIES["counterfactuals"].methods:
        cells = (_raw(scores.of(runs, method=method, task=task)) for task in tasks)
        rows.append([method.replace(BOUNDED, LABELS[BOUNDED]), *cells])
    return (
        f"## Clearly safe episodes, and other counterfactuals\n\nEpisode return / cost with {name(OWN_FAILURES)}, and "
        f"τ = {tau}. PREFINE and *bounded* draw one counterfactual a state from the policy itself, unless it says "
        f"otherwise.\n\n{table(['', *tasks], rows)}"
    )


def _of_data(runs: Sequence[Run]) -> str:
    """Return and cost of the preferred episodes."""
    data = [run.record["preferred"] for run in runs]
    return f"{np.mean([d['reward'] for d in data]):,.0f} / {np.mean([d['cost'] for d in data]):,.0f}"


def _tasks(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.task.name for run in runs))


def _raw(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run"
    cost, reward = _mean_point(runs)
    text = f"{reward:,.0f} / {cost:,.0f}"
    return f"**{text}**" if cost <= runs[0].kappa else text


def _mean_point(runs: Sequence[Run]) -> tuple[float, float]:
    """Cost and return, means over the seeds."""
    cost, reward = (
        np.mean([np.mean(run.record["deterministic"][key]) for run in runs]) for key in ("costs", "rewards")
    )
    return float(cost), float(reward)


def _how(runs: Sequence[Run]) -> str:
    records = [run.record for run in runs]
    return (
        "## Make it again\n\n```bash\npython benchmarks/run.py --study preferences --executor joblib\n"
        "python benchmarks/run.py --study counterfactuals --executor joblib\n"
        "python benchmarks/run.py --study checkpoints --executor joblib\n"
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


def draw_plane(runs: Sequence[Run]) -> Figure:
    """Return against cost: a place a task, a point for each condition and method."""
    tasks = _tasks(runs)
    figure = Figure(figsize=(6 * len(tasks), 4.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        of_task = scores.of(runs, task=task)
        for method in METHODS:
            found = [
                [run for run in scores.of(of_task, method=method) if condition(run) == c] for c in conditions(of_task)
            ]
            points = [_mean_point(of_condition) for of_condition in found if of_condition]
            axes.scatter(*np.reshape(points, (-1, 2)).T, s=22, alpha=0.8, label=LABELS.get(method, method))
        axes.axvline(of_task[0].kappa, color="0.3", linestyle="--", linewidth=1)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("episode cost")
        axes.set_ylabel("episode return")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
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


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
