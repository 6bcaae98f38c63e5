"""The runs of Table 1 as RL Zoo lists its agents: a line an algorithm and environment, not normalised."""

from collections.abc import Sequence

import numpy as np

from benchmarks.report.markdown import distinct, table, versions
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
    The page, as Markdown.

    :param runs: of Table 1
    :param tier: whose
    """
    cells = (scores.select(runs, task=task, method=method) for task in dsrl.PAPER_TASKS for method in TABLE_METHODS)
    records = [run.record for run in runs]
    return (
        "\n\n".join(
            [
                "# Performance of trained agents",
                "The runs of [Table 1](README.md) in the form of [RL Zoo's benchmark](https://github.com/DLR-RM/"
                "rl-baselines3-zoo/blob/master/benchmark.md): returns and costs of episodes as the environment gives "
                "them, not normalised. The policy acts by its mode. Means and standard deviations are over the "
                "episodes of all seeds; `violation_rate` is the share of episodes that cost more than `cost_limit`; "
                "`n_timesteps` are gradient steps, for no environment is stepped in training; `reference` is what was "
                "fine-tuned.",
                table(_HEAD, [_line(found) for found in cells if found]),
                f"`python -m benchmarks run --tier {tier}`, then `python -m benchmarks report --tier {tier}`; seeds "
                f"{distinct(run.seed for run in runs)}, {distinct(record['date'] for record in records)}, "
                f"{versions(records)}.",
            ]
        )
        + "\n"
    )


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
