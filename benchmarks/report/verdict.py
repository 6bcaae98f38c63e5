"""PREFINE against its goals: safe, with the return of its preferred episodes, and no better rival."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import paper
from benchmarks.report.markdown import CONFIDENCE, list_names, render, table
from benchmarks.report.names import label_of
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run, Summary
from benchmarks.runs.studies import TABLE_METHODS
from sb3_prefine import dsrl

# The paper's abstract: PREFINE reduces constraint violations by over 60%.
WANTED_CUT = 0.6
# A normalised cost from which on a safe policy counts as close to the limit.
CLOSE = 0.95
# Their costs explain a shortfall, beside that of D_p.
_COMPARED = (REFERENCE, "BC", "SFT", "DPO", "PREFINE")


@dataclass(frozen=True)
class TaskResult:
    """
    What PREFINE reaches on one task.

    :param reward: Normalised reward.
    :param cost: Normalised cost.
    :param reference_cost: Normalised mean cost of the reference.
    :param return_ratio: Mean return, divided by that of D_p.
    :param better: Safe rivals with significantly more reward, and how much more.
    """

    reward: Summary
    cost: Summary
    reference_cost: float
    return_ratio: float
    better: list[str]

    @property
    def cut(self) -> float:
        """Share of the reference's cost that PREFINE avoids."""
        return 1 - self.cost.mean / self.reference_cost

    @property
    def shortfall(self) -> str:
        """What falls short of the goals, or an empty string."""
        if self.cost.mean > 1:
            return "not safe"
        if self.reference_cost > 1 and self.cut < WANTED_CUT:
            return f"cost cut by {self.cut:.0%} only"
        return "close to the limit" if self.cost.mean >= CLOSE else ""


def results_of(runs: Sequence[Run]) -> dict[str, TaskResult]:
    """
    Find what PREFINE reaches on each task that PREFINE and the reference have run on.

    :param runs: Runs of Table 1.
    """
    results = {}
    for task in dsrl.PAPER_TASKS:
        found = _by_method(runs, task)
        if "PREFINE" in found and REFERENCE in found:
            ratios = [run.mean_return / run.record["preferred"]["reward"] for run in found["PREFINE"]]
            results[task] = TaskResult(
                scores.reward(found["PREFINE"]),
                scores.cost(found["PREFINE"]),
                scores.cost(found[REFERENCE]).mean,
                float(np.mean(ratios)),
                better_rivals(found),
            )
    return results


def write_verdict(runs: Sequence[Run]) -> str:
    """
    Compare PREFINE with its goals, task by task.

    :param runs: Runs of Table 1.
    """
    results = results_of(runs)
    head = (
        "task",
        "safe: cost",
        "cost cut",
        "return, of D_p's (*the paper's*)",
        "reward",
        "safe rivals with significantly more reward",
    )
    rows = [
        _row(task, results[task]) if task in results else [task, "not run", "", "", "", ""] for task in dsrl.PAPER_TASKS
    ]
    return render(
        "verdict",
        n_safe=sum(result.cost.mean <= 1 for result in results.values()),
        n_tasks=len(results),
        confidence=CONFIDENCE,
        table=table(head, rows),
    )


def _row(task: str, result: TaskResult) -> list[str]:
    cost, reward, before = result.cost, result.reward, result.reference_cost
    return [
        task,
        f"{'yes' if cost.mean <= 1 else 'no'}: {cost.mean:.2f} [{cost.low:.2f}, {cost.high:.2f}]",
        f"{result.cut:.0%}" if before > 1 else f"the reference is safe ({before:.2f})",
        f"{result.return_ratio:.0%} (*{paper.return_ratio(dsrl.find_task(task)):.0%}*)",
        f"{reward.mean:.2f} [{reward.low:.2f}, {reward.high:.2f}]",
        ", ".join(result.better) or "none",
    ]


def better_rivals(found: Mapping[str, list[Run]]) -> list[str]:
    """
    Name the safe rivals whose reward is significantly above PREFINE's, and how much more they earn.

    :param found: The runs of each method, on one task.
    """
    names = []
    for method, runs in found.items():
        if method in ("PREFINE", REFERENCE) or scores.cost(runs).mean > 1:
            continue
        _, low, high = scores.difference(runs, found["PREFINE"], lambda run: run.rewards)
        if low > 0:
            names.append(f"{label_of(method)} (+{low:.2f} to +{high:.2f})")
    return names


def write_shortfalls(runs: Sequence[Run]) -> str:
    """
    List the tasks on which PREFINE falls short of its goals.

    :param runs: Runs of Table 1.
    :return: A table with the costs that explain the shortfalls.
    """
    rows = []
    for task, result in results_of(runs).items():
        if result.shortfall:
            found = _by_method(runs, task)
            costs = (f"{scores.cost(found[method]).mean:.2f}" if method in found else "" for method in _COMPARED)
            rows.append([task, result.shortfall, f"{preferred_cost(found['PREFINE']):.2f}", *costs])
    if not rows:
        return "PREFINE reaches its goals on all tasks that it has run on."
    head = ["task", "shortfall", "cost of D_p", *map(label_of, _COMPARED)]
    return render("shortfalls", wanted_cut=f"{WANTED_CUT:.0%}", close=f"{CLOSE:.0%}", table=table(head, rows))


def write_layouts(
    runs: Sequence[Run], luck: Mapping[str, dict[str, Any]], standing: Mapping[str, dict[str, Any]]
) -> str:
    """
    Explain the costs of tasks whose layout differs from episode to episode.

    :param runs: Runs of Table 1.
    :param luck: Records of layout_luck.py, by task.
    :param standing: Records of standing_still.py, by task.
    :return: A text, empty if there are no records.
    """
    parts = []
    if luck:
        costs = {
            task: [scores.summarize([np.array(record[of]["costs"])]) for of in ("of_agent", "of_clone")]
            for task, record in luck.items()
        }
        ratios = [f"{r['others_cost']['mean'] / r['preferred_cost']:.1f} in {task}" for task, r in luck.items()]
        head = ["mean cost", "D_p", "other episodes of its agents", "a careful agent", "its clone"]
        rows = [_luck_row(task, record, *costs[task]) for task, record in luck.items()]
        parts.append(
            render(
                "layout_luck",
                ratios=list_names(ratios),
                n_episodes=list_names(sorted({f"{record['options']['episodes']}" for record in luck.values()})),
                agent_costs=list_names([f"{agent.mean:.0f} in {task}" for task, (agent, _) in costs.items()]),
                clone_costs=list_names([f"{clone.mean:.0f} in {task}" for task, (_, clone) in costs.items()]),
                table=table(head, rows),
            )
        )
    if standing:
        names = [name for name in next(iter(standing.values())) if name in ("preferred", *TABLE_METHODS)]
        head = ["episodes that end standing", *("D_p" if name == "preferred" else name for name in names)]
        rows = [
            [task, *(f"{found[name]['episodes']:.0%}" for name in names)] for task, found in sorted(standing.items())
        ]
        parts.append(
            render("standing_still", highest=_highest_costs(runs, sorted(standing), names), table=table(head, rows))
        )
    return "\n\n".join(parts)


def _luck_row(task: str, record: dict[str, Any], agent: Summary, clone: Summary) -> list[str]:
    others = record["others_cost"]
    intervals = [(others["mean"], others["low"], others["high"]), *((s.mean, s.low, s.high) for s in (agent, clone))]
    cells = (f"{mean:.0f} [{low:.0f}, {high:.0f}]" for mean, low, high in intervals)
    return [task, f"{record['preferred_cost']:.0f}", *cells]


def _highest_costs(runs: Sequence[Run], tasks: Sequence[str], methods: Sequence[str]) -> str:
    """Find the highest cost of an episode of these methods, by task."""
    parts = []
    for task in tasks:
        costs = [run.record[run.actions]["costs"] for run in scores.select(runs, task=task) if run.method in methods]
        if costs:
            parts.append(f"{np.concatenate(costs).max():,.0f} in {task}")
    return list_names(parts, otherwise="unknown")


def preferred_cost(runs: Sequence[Run]) -> float:
    """Compute the normalised cost of D_p, a mean over the runs' draws."""
    return float(np.mean([dsrl.normalized_cost(run.record["preferred"]["cost"], run.kappa) for run in runs]))


def _by_method(runs: Sequence[Run], task: str) -> dict[str, list[Run]]:
    return {method: of for method in TABLE_METHODS if (of := scores.select(runs, task=task, method=method))}
