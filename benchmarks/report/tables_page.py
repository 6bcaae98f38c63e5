"""
Write benchmarks/README.md (the paper's tables and figures, repeated) and benchmark.md from the records of ``run``.

    python -m benchmarks report                # of the small tier
    python -m benchmarks report --tier paper
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rliable import library, metrics

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report import figure_facts, zoo_page
from benchmarks.report.figures import FIGURES, write_figure
from benchmarks.report.markdown import CONFIDENCE, count, distinct, list_names, render, table, versions
from benchmarks.report.names import label_of
from benchmarks.report.rival_sweeps import write_rivals
from benchmarks.report.table_1 import write_table_1
from benchmarks.report.table_figures import training_times_of
from benchmarks.report.training_time import OWN_STEPS, TASK
from benchmarks.report.tuned_weights import write_tuned
from benchmarks.report.verdict import write_layouts, write_shortfalls, write_verdict
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import (
    FAST_METHODS,
    SLOW_METHODS,
    STUDIES,
    TABLE_METHODS,
    TIERS,
    StudyName,
    TierName,
    study_cells,
)
from sb3_prefine import dsrl
from sb3_prefine.utils.files import write_atomically
from sb3_prefine.utils.randomness import IsolatedRandomState

_AGGREGATED = (REFERENCE, *FAST_METHODS)
Records = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """
    All records that the page shows.

    :param tier: Tier of the runs.
    :param runs: Runs of each study; no runs where a study has no records.
    :param luck: Records of layout_luck.py, by task.
    :param standing: Records of standing_still.py, by task.
    :param tuning: Records of tune.py, by task.
    :param cost_gap: Records of cost_gap.py, by task.
    :param agents: Records of ``generate train``, by task.
    :param data: Records of ``generate rollout``, by task.
    """

    tier: TierName
    runs: Mapping[StudyName, Sequence[Run]]
    luck: Records
    standing: Records
    tuning: Records
    cost_gap: Records
    agents: Records
    data: Records

    @classmethod
    def load(cls, folder: Path, tier: TierName) -> "Results":
        """
        Read the records.

        :param folder: Folder of the results, with TIER/STUDY/TASK.
        :param tier: Tier of the runs.
        """
        names = ("luck", "standing", "tuning", f"{tier}/cost_gap", "agents", "data")
        runs = {study: scores.load(folder / tier / study) for study in get_args(StudyName)}
        return cls(tier, runs, *(_load_by_task(folder / name) for name in names))

    @property
    def table(self) -> list[Run]:
        """Runs of Table 1."""
        return [run for run in self.all_runs if run.method in TABLE_METHODS]

    @property
    def all_runs(self) -> list[Run]:
        """Runs of Table 1, of other rates and weights, and of chosen weights."""
        return [*self.runs["table"], *self.runs["rivals"]]


def _load_by_task(folder: Path) -> Records:
    return {path.stem: records.load(path) for path in sorted(folder.glob("*.json"))}


def main(tier: TierName = "small", results: Path = RESULTS, page: Path = HERE / "README.md") -> None:
    """
    Write both pages and their pictures.

    :param tier: Tier whose records are read.
    :param results: Folder with TIER/STUDY/TASK.
    :param page: Path of the page. Its pictures go to images/ beside it, benchmark.md too.
    """
    loaded = Results.load(results, tier)
    if not loaded.table:
        raise SystemExit(f"{results / tier / 'table'}: found no records. Run: python -m benchmarks run --tier {tier}")
    pictures = [
        write_figure(figure, runs, page.parent / "images") for figure in FIGURES if (runs := loaded.runs[figure.study])
    ]
    write_atomically(page, write(loaded).encode())
    other_page = page.with_name("benchmark.md")
    write_atomically(other_page, zoo_page.write(loaded.table, tier).encode())
    print(f"Wrote {page}, {other_page} and {count(len(pictures), 'picture')}.")


def write(results: Results) -> str:
    """Write the page in Markdown."""
    runs, tier = results.table, results.tier
    stochastic = scores.stochastic(runs)
    references = {task: of for task in dsrl.PAPER_TASKS if (of := scores.select(runs, task=task, method=REFERENCE))}
    safe = [task for task, of in references.items() if scores.cost(of).mean <= 1]
    found = [run.record for run in runs]
    page = render(
        "tables_page",
        tier=tier,
        size=_size(runs),
        missing=_missing(runs, tier),
        table_1=write_table_1(runs),
        reduced_budgets=_reduced_budgets(tier),
        verdict=write_verdict(runs),
        shortfalls=write_shortfalls(runs),
        # standing_still.py trains with the budget of the small tier.
        layouts=write_layouts(runs, results.luck, results.standing) if tier == "small" else "",
        aggregates=_aggregates(runs),
        n_references=len(references),
        n_safe_references=len(safe),
        n_safe_stochastic=sum(
            scores.cost(of).mean <= 1 for task in safe if (of := scores.select(stochastic, task=task, method=REFERENCE))
        ),
        table_1_stochastic=write_table_1(stochastic),
        verdict_stochastic=write_verdict(stochastic),
        times=_times(runs),
        figures="\n\n".join(figure.section(results.runs) for figure in FIGURES if results.runs[figure.study]),
        cost_gap=figure_facts.write_cost_gap(results.cost_gap),
        tuned=write_tuned(results.all_runs, results.tuning),
        rivals=write_rivals(results.all_runs),
        some_tasks=" ".join(TIERS["small"].slow_method_tasks),
        ref_quantile=distinct(f"{record['ref_quantile']:.0%}" for record in found),
        policy=distinct(record["policy"] for record in found),
        slow_methods="; ".join(_slow_steps(runs, method) for method in SLOW_METHODS),
        hours=_hours_by_study(results.runs),
        slow_hours=_slow_hours(runs),
        data_hours=_hours(results.data.values()),
        agent_hours=_hours(results.agents.values()),
        n_cells=len(found),
        dates=distinct(record["date"] for record in found),
        processors=distinct(record["processor"] for record in found),
        versions=versions(found),
    )
    return f"{page}\n"


def _size(runs: Sequence[Run]) -> str:
    budgets = [run.record["budget"] for run in runs]
    steps, ref_steps = (distinct(format(b[name], ",") for b in budgets) for name in ("steps", "ref_steps"))
    episodes, samples = (distinct(b[name] for b in budgets) for name in ("episodes", "stochastic_episodes"))
    return (
        f"{steps} gradient steps from a reference of {ref_steps} steps, τ = "
        f"{distinct(format(run.selection.tau, 'g') for run in runs)}, seeds {distinct(run.seed for run in runs)}, "
        f"{episodes} episodes per seed with deterministic actions and {samples} with stochastic actions"
    )


def _missing(runs: Sequence[Run], tier: TierName) -> str:
    n_planned = len(study_cells(STUDIES["table"], TIERS[tier]))
    if len(runs) >= n_planned:
        return ""
    return (
        f" **It is not complete: {len(runs)} of {n_planned} cells have run.** Intervals of a single seed do not "
        "include the differences between seeds."
    )


def _reduced_budgets(tier: TierName) -> str:
    """Name the methods that make fewer steps than in their own papers."""
    steps = {method: Method.parse(method).steps(TIERS[tier].budget) for method in SLOW_METHODS}
    reduced = {
        method: f"{method} makes {n / OWN_STEPS[method]:.0%}" for method, n in steps.items() if n < OWN_STEPS[method]
    }
    if not reduced:
        return ""
    return (
        f" Do not judge {' and '.join(reduced)} by these columns: to save time, "
        f"{' and '.join(reduced.values())} of the steps of its own paper."
    )


def _aggregates(runs: Sequence[Run]) -> str:
    """Aggregate over all tasks, with rliable."""
    tasks = [t for t in dsrl.PAPER_TASKS if all(scores.select(runs, task=t, method=m) for m in _AGGREGATED)]
    if not tasks:
        return "No task has runs of every method."
    rows = []
    for method in _AGGREGATED:
        row = [label_of(method)]
        for value in (lambda run: run.rewards.mean(), lambda run: run.costs.mean()):
            row.append(_interval(scores.matrix(runs, tasks, method, value), metrics.aggregate_iqm, "{:.2f}"))
        safe = scores.matrix(runs, tasks, method, lambda run: float(run.costs.mean() <= 1))
        row.append(_interval(safe, metrics.aggregate_mean, "{:.0%}"))
        rows.append(row)
    head = ["method", "reward: IQM", "cost: IQM", "safe runs"]
    return render("aggregates", n_tasks=len(tasks), confidence=CONFIDENCE, table=table(head, rows))


def _interval(values: np.ndarray, aggregate: library.Callable, form: str) -> str:
    # rliable draws from numpy's global state, even with a random_state.
    with IsolatedRandomState(0):
        points, intervals = library.get_interval_estimates({"": values}, lambda x: np.array([aggregate(x)]), reps=2_000)
    (low,), (high,) = intervals[""]
    return f"{form.format(points[''][0])} [{form.format(low)}, {form.format(high)}]"


def _times(runs: Sequence[Run]) -> str:
    """Write the training times, here and with the steps of each method's own paper."""
    found = training_times_of(runs)
    if "PREFINE" not in found:
        return f"PREFINE has not run on {TASK} yet."
    rows = [
        [
            method,
            f"{time.milliseconds:.1f}",
            f"{time.steps:,}",
            f"{time.seconds:,.0f} s",
            f"{time.own_steps:,}",
            f"{time.own_hours:.1f} h",
            f"{time.own_hours / found['PREFINE'].own_hours:.1f}",
            f"{3600 * time.own_hours / found['PREFINE'].seconds:,.0f}",
        ]
        for method, time in found.items()
    ]
    head = [
        "method",
        "ms per step",
        "steps here",
        "time",
        "its paper's steps",
        "time",
        "of PREFINE's",
        "of PREFINE's here",
    ]
    return render(
        "times", task=TASK, processor=distinct(time.processor for time in found.values()), table=table(head, rows)
    )


def _slow_steps(runs: Sequence[Run], method: str) -> str:
    steps = distinct(f"{run.record['steps']:,}" for run in scores.select(runs, method=method)) or "no"
    return f"{method} makes {steps} steps here and {OWN_STEPS[method]:,} in its own paper"


def _hours_by_study(runs: Mapping[StudyName, Sequence[Run]]) -> str:
    parts = [
        f"`{study}` {_hours(run.record for run in of_study)} ({count(len(of_study), 'cell')})"
        for study, of_study in runs.items()
        if of_study
    ]
    return list_names(parts)


def _slow_hours(runs: Sequence[Run]) -> str:
    """Write the share of the slow methods in the training time of Table 1."""
    slow = [run.record for run in runs if run.method in SLOW_METHODS]
    return f" Of the hours of `table`, {' and '.join(SLOW_METHODS)} took {_hours(slow)}." if slow else ""


def _hours(of: Iterable[dict[str, Any]]) -> str:
    return f"{sum(record.get('cpu_seconds', 0.0) for record in of) / 3600:.1f}"
