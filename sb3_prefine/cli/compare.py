"""``sb3-prefine compare``."""

import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.cli.options import Acting, Opening, check_outputs


def compare(
    env: tyro.conf.Positional[str],
    policies: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="POLICY [POLICY ...]", help_behavior_hint="(required)"),
    ],
    acting: Acting,
    opening: Opening,
    *,
    episodes: int = 100,
    cost_limit: float = 25.0,
    seed: int = 0,
    n_envs: int = 32,
    n_workers: int = 1,
    plot: Path | None = None,
    overwrite: bool = False,
) -> None:
    """
    Evaluate several policies on the same episodes: a table, and a picture of returns and costs.

    Without --stochastic the policies act by their modes. --algo, --normalizer, --spaces-env and --trust count for all
    of them.

    Before and after:
      sb3-prefine compare SpeedLimitHalfCheetah-v0 ppo/HalfCheetah-v3 safe.zip --episodes 20 --plot plane.png

    :param env: an environment's id, or "module:id" to import a module of yours first; `sb3-prefine envs` lists some
    :param policies: zips, RL-Zoo folders, names like ppo/HalfCheetah-v3 in the folder that the environment variable
        RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub
    :param episodes: how many episodes to run of each policy
    :param cost_limit: the most that an episode may cost
    :param seed: the same seed gives the same episodes
    :param n_envs: environments to make; 16 for each process take the least time a step
    :param n_workers: processes that step them; the episodes are the same
    :param plot: draw the picture into this PNG, one point for each episode
    :param overwrite: replace the picture if it is there
    """
    if not policies:
        raise ValueError("compare: there is no policy. Name one or more after the environment.")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError('--plot needs matplotlib. Run: pip install "sb3-prefine[demo]"')
    check_outputs(plot, overwrite=overwrite)
    from sb3_prefine.evaluation.evaluate import check_cost_limit, evaluate_policy
    from sb3_prefine.evaluation.plots import PlotSeries, draw_plane
    from sb3_prefine.evaluation.tables import print_table, results_table

    check_cost_limit(cost_limit)
    # All of them before the first runs: a wrong path at the end of the line is an error at once.
    opened = [(policy, opening.open(policy)) for policy in policies]
    deterministic = acting.by_mode(default=True)
    evaluations = []
    for name, reference in opened:
        evaluation = evaluate_policy(
            reference,
            env,
            episodes,
            n_envs=n_envs,
            n_workers=n_workers,
            deterministic=deterministic,
            seed=seed,
            progress_bar=True,
        )
        evaluations.append((name, evaluation))
    print_table(results_table(evaluations, cost_limit))
    if plot is not None:
        clouds = [PlotSeries(name, e.episode_rewards, e.episode_costs) for name, e in evaluations]
        print(f"Wrote {draw_plane(plot, clouds, cost_limit, title=f'{env}, one point an episode')}.")
