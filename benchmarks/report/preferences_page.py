"""
Write benchmarks/when_preferences_help.md and its pictures from the records of five studies.

    python -m benchmarks run --study preferences --executor joblib
    python -m benchmarks run --study within --executor joblib
    python -m benchmarks run --study stopping --executor joblib
    python -m benchmarks run --study checkpoints --executor joblib
    python -m benchmarks run --study counterfactuals --executor joblib
    python -m benchmarks preferences-page
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report import preferences_facts as facts
from benchmarks.report import preferences_figures as pictures
from benchmarks.report.drawing import to_png
from benchmarks.report.markdown import CONFIDENCE, distinct, list_names, not_run, render, table, versions
from benchmarks.report.names import label_of
from benchmarks.report.preferences_facts import Results
from benchmarks.report.preferences_figures import METHODS, RIVAL, conditions_of, tasks_of
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection, condition_of, describe
from benchmarks.runs.studies import REFERENCE_FAILURES, STUDIES, TIERS, StudyName, TierName
from sb3_prefine.utils.files import write_atomically

PICTURE, PLANE, STOPPING = (
    Path("images") / f"{name}.png" for name in ("when_preferences_help", "preferences_plane", "stopping")
)
PAGE_STUDIES: tuple[StudyName, ...] = ("preferences", "within", "stopping", "checkpoints", "counterfactuals")


def main(tier: TierName = "small", results: Path = RESULTS, page: Path = HERE / "when_preferences_help.md") -> None:
    """
    Write the page and its pictures.

    :param tier: Tier whose records are read.
    :param results: Folder with TIER/STUDY/TASK.
    :param page: Path of the page. Its pictures go to images/ beside it.
    """
    loaded = load_results(results, tier)
    if not loaded["preferences"]:
        raise SystemExit(
            f"{results / tier / 'preferences'}: found no records. Run: python -m benchmarks run --tier {tier} "
            "--study preferences"
        )
    figures = {
        PICTURE: pictures.draw_differences(loaded["preferences"]),
        PLANE: pictures.draw_plane(loaded["preferences"]),
    }
    if loaded["stopping"]:
        figures[STOPPING] = pictures.draw_stopping(loaded["stopping"])
    for path, figure in figures.items():
        (page.parent / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page.parent / path, to_png(figure))
    write_atomically(page, write(loaded).encode())
    print(f"Wrote {page} and its pictures.")


def load_results(results: Path, tier: TierName) -> Results:
    """
    Read the records.

    :param results: Folder with TIER/STUDY/TASK.
    :param tier: Tier of the runs.
    """
    distances: dict[tuple[str, Selection], list[float]] = {}
    for path in sorted((results / tier / "surprise").glob("*.json")):
        for of in records.load(path)["surprises"]:
            distances.setdefault((path.stem, condition_of(Selection(**of["selection"]))), []).append(of["nats"])
    return Results(tier, {study: scores.load(results / tier / study) for study in PAGE_STUDIES}, distances)


def write(results: Results) -> str:
    """Write the page in Markdown."""
    runs = [run for study in PAGE_STUDIES for run in results[study]]
    found = [run.record for run in runs]
    page = render(
        "preferences_page",
        **facts.introduction(),
        summary=render("preferences_summary", n_seeds=len(TIERS[results.tier].seeds), **facts.summary(results)),
        rival=RIVAL,
        picture=PICTURE.as_posix(),
        plane=PLANE.as_posix(),
        tasks="\n\n".join(_task_section(results["preferences"], task) for task in tasks_of(results["preferences"])),
        within=_within(results),
        stopping=_stopping(results["stopping"]),
        checkpoints=_checkpoints(results["checkpoints"]),
        counterfactuals=_counterfactuals(results["counterfactuals"]),
        commands="\n".join(f"python -m benchmarks run --study {study} --executor joblib" for study in PAGE_STUDIES),
        steps=distinct(f"{record['budget']['steps']:,}" for record in found),
        episodes=distinct(record["budget"]["episodes"] for record in found),
        confidence=CONFIDENCE,
        dates=distinct(record["date"] for record in found),
        processors=distinct(record["processor"] for record in found),
        versions=versions(found),
    )
    return f"{page}\n"


def _task_section(runs: Sequence[Run], task: str) -> str:
    """Write return and cost of each method with each choice of the data."""
    of_task = scores.select(runs, task=task)
    rows = []
    for selection in conditions_of(of_task):
        case = [run for run in of_task if run.condition == selection]
        rows.append([describe(selection), _preferred(case), *_cells(case, METHODS)])
    return render(
        "preferences_task",
        task=task,
        seeds=_seeds(of_task),
        kappa=_kappa(of_task),
        table=table(["preferred episodes", "D_p", *map(label_of, METHODS)], rows),
        collapsed=facts.count_collapsed(of_task),
    )


def _within(results: Results) -> str:
    """Write a table for each choice of the data, with a row for each task."""
    runs, study = results["within"], STUDIES["within"]
    if not runs:
        return not_run("run --study within")
    sections = []
    for selection in study.selections:
        found = [run for run in runs if run.condition == selection]
        rows = []
        for task in tasks_of(found):
            case = scores.select(found, task=task)
            nats = results.distances.get((task, selection))
            distance = "" if nats is None else f"{np.mean(nats):.1f}"
            rows.append([task, f"{case[0].kappa:g}", _preferred(case), distance, *_cells(case, study.methods)])
        head = ["task", "κ", "D_p", "nats", *map(label_of, study.methods)]
        sections.append(f"{describe(selection)}:\n\n{table(head, rows)}\n\n{_differences(found, study.methods)}")
    return render(
        "preferences_within",
        **facts.narrow_limits(results["preferences"]),
        n_draws=distinct(len(nats) for nats in results.distances.values()) or "no",
        seeds=_seeds(runs),
        tau=distinct(f"{run.selection.tau:g}" for run in runs),
        sections="\n\n".join(sections),
        counts=facts.count_within_limit(runs, study.methods),
    )


def _differences(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """Name the tasks on which a method's return differs significantly from the rival's."""
    sentences = []
    for method in methods:
        if method not in (REFERENCE, RIVAL):
            more, less = (list_names(tasks) for tasks in facts.compare_returns(runs, method))
            sentences.append(f"*{label_of(method)}* more on {more}; less on {less}")
    return f"Returns that differ from {RIVAL}'s ({CONFIDENCE} intervals): {'. '.join(sentences)}."


def _stopping(runs: Sequence[Run]) -> str:
    """Write whether fewer steps would be as good."""
    if not runs:
        return not_run("run --study stopping")
    return render(
        "preferences_stopping",
        **facts.early_losses(runs),
        **facts.poorest(runs),
        n_runs=len(runs),
        seeds=_seeds(runs),
        picture=STOPPING.as_posix(),
    )


def _checkpoints(runs: Sequence[Run]) -> str:
    """Write a row for each of RL Zoo's checkpoints and each choice of the data."""
    if not runs:
        return not_run("run --study checkpoints")
    study, rows = STUDIES["checkpoints"], []
    for task, reference, selection in product(tasks_of(runs), study.references, study.selections):
        case = [run for run in scores.select(runs, task=task, reference=reference) if run.condition == selection]
        if case:
            rows.append([task, reference.upper(), describe(selection), _preferred(case), *_cells(case, study.methods)])
    head = ["task", "checkpoint", "preferred episodes", "D_p", *map(label_of, study.methods)]
    return render(
        "preferences_checkpoints",
        unreached=facts.unreached(runs),
        seeds=_seeds(runs),
        kappa=_kappa(runs),
        table=table(head, rows),
    )


def _counterfactuals(runs: Sequence[Run]) -> str:
    """Write a row for each method and kind of counterfactuals."""
    if not runs:
        return not_run("run --study counterfactuals")
    tasks = tasks_of(runs)
    rows = [["D_p", *(_preferred(scores.select(runs, task=task)) for task in tasks)]]
    for method in STUDIES["counterfactuals"].methods:
        cells = (_outcome(scores.select(runs, method=method, task=task)) for task in tasks)
        rows.append([label_of(method), *cells])
    return render(
        "preferences_counterfactuals",
        data=describe(REFERENCE_FAILURES),
        tau=distinct(f"{run.selection.tau:g}" for run in runs),
        seeds=_seeds(runs),
        table=table(["", *tasks], rows),
    )


def _cells(case: Sequence[Run], methods: Sequence[str]) -> list[str]:
    return [_outcome(scores.select(case, method=method)) for method in methods]


def _outcome(runs: Sequence[Run]) -> str:
    """Write return / cost, in bold if they are within the limit."""
    if not runs:
        return "not run"
    text = facts.format_point(runs)
    return f"**{text}**" if facts.is_within_limit(runs) else text


def _preferred(runs: Sequence[Run]) -> str:
    """Write return and cost of the preferred episodes."""
    data = [run.record["preferred"] for run in runs]
    return f"{np.mean([d['reward'] for d in data]):,.0f} / {np.mean([d['cost'] for d in data]):,.0f}"


def _seeds(runs: Sequence[Run]) -> str:
    """List the seeds: studies run seed by seed, so not all of them have all seeds."""
    return distinct(run.seed for run in runs)


def _kappa(runs: Sequence[Run]) -> str:
    return distinct(f"{run.kappa:g}" for run in runs)
