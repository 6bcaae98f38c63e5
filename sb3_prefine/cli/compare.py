"""``sb3-prefine compare``."""

import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.cli.options import CHECKPOINT, CheckpointOptions, EnvArgument, RolloutOptions
from sb3_prefine.cli.outputs import check_outputs


def compare(
    env: EnvArgument,
    policies: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="POLICY [POLICY ...]",
            help=f"The checkpoints. Each is {CHECKPOINT}.",
            help_behavior_hint="(required)",
        ),
    ],
    rollout: RolloutOptions,
    checkpoint: CheckpointOptions,
    *,
    cost_limit: float = 25.0,
    plot: Path | None = None,
    overwrite: bool = False,
) -> None:
    """
    Evaluate several policies on the same episodes, with a table and a plot of returns and costs.

    The policies act deterministically unless --stochastic is given. --algo, --normalizer, --spaces-env and --trust
    apply to all of them.

    Before and after training:
      sb3-prefine compare SpeedLimitHalfCheetah-v0 ppo/HalfCheetah-v3 safe.zip --episodes 20 --plot plane.png

    :param cost_limit: Highest cost of a safe episode.
    :param plot: Draw each episode as a point in this PNG file.
    :param overwrite: Replace an existing PNG file.
    """
    if not policies:
        raise ValueError("policies: none were given. Name one or more policies after the environment.")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError('--plot needs matplotlib. Run: pip install "sb3-prefine[demo]"')
    check_outputs(plot, overwrite=overwrite)

    from sb3_prefine.cli.inputs import open_policy
    from sb3_prefine.evaluation.evaluate import check_cost_limit, evaluate_policy
    from sb3_prefine.evaluation.plots import PlotSeries, draw_plane
    from sb3_prefine.evaluation.tables import print_table, results_table

    check_cost_limit(cost_limit)
    # Open all policies before the first evaluation, so that a wrong path at the end of the line is an error at once.
    references = [(policy, open_policy(policy, checkpoint)) for policy in policies]
    evaluations = []
    for name, reference in references:
        evaluation = evaluate_policy(
            reference,
            env,
            rollout.episodes,
            n_envs=rollout.n_envs,
            n_workers=rollout.n_workers,
            deterministic=rollout.is_deterministic(default=True),
            seed=rollout.seed,
            progress_bar=True,
        )
        evaluations.append((name, evaluation))
    print_table(results_table(evaluations, cost_limit))
    if plot is not None:
        series = [PlotSeries(name, e.episode_rewards, e.episode_costs) for name, e in evaluations]
        print(f"Wrote {draw_plane(plot, series, cost_limit, title=f'{env}, one point per episode')}.")
