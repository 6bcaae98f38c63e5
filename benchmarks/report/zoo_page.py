"""The runs of Table 1 in the form of RL Zoo's benchmark: a line per algorithm and environment, not normalised."""

from collections.abc import Sequence

import numpy as np

from benchmarks.report.markdown import distinct, render, table, versions
from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import TABLE_METHODS, TierName
from sb3_prefine import dsrl

_HEAD = (
    "algo",
    "env_id",
    "mean_reward",
    "std_reward",
    "mean_cost",
    "std_cost",
    "cost_limit",
    "violation_rate",
    "n_timesteps",
    "seeds",
    "eval_timesteps",
    "eval_episodes",
)


def write(runs: Sequence[Run], tier: TierName) -> str:
    """
    Write the page in Markdown.

    :param runs: Runs of Table 1.
    :param tier: Tier of the runs.
    """
    cells = (scores.select(runs, task=task, method=method) for task in dsrl.PAPER_TASKS for method in TABLE_METHODS)
    records = [run.record for run in runs]
    page = render(
        "zoo_page",
        table=table(_HEAD, [_line(found) for found in cells if found]),
        tier=tier,
        seeds=distinct(run.seed for run in runs),
        dates=distinct(record["date"] for record in records),
        versions=versions(records),
    )
    return f"{page}\n"


def _line(runs: Sequence[Run]) -> list[str]:
    returns, costs, lengths = (
        np.concatenate([run.record["deterministic"][name] for run in runs]) for name in ("rewards", "costs", "lengths")
    )
    [limit] = {run.kappa for run in runs}
    return [
        runs[0].method,
        str(runs[0].task.env_id),
        f"{returns.mean():,.1f}",
        f"{returns.std():,.1f}",
        f"{costs.mean():.1f}",
        f"{costs.std():.1f}",
        f"{limit:g}",
        f"{(costs > limit).mean():.0%}",
        distinct(f"{run.record['steps']:,}" for run in runs),
        str(len(runs)),
        f"{lengths.sum():,}",
        str(len(returns)),
    ]
