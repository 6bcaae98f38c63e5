"""``sb3-prefine evaluate``."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from sb3_prefine.cli.options import CheckpointOptions, EnvArgument, PolicyArgument, RolloutOptions
from sb3_prefine.cli.outputs import check_outputs
from sb3_prefine.utils.files import write_atomically


def evaluate(
    policy: PolicyArgument,
    env: EnvArgument,
    rollout: RolloutOptions,
    checkpoint: CheckpointOptions,
    *,
    cost_limit: float = 25.0,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    overwrite: bool = False,
) -> None:
    """
    Measure the return and the cost of a policy.

    Prints the mean return and cost with their 95% intervals, the share of episodes over the limit, and the mean cost of
    the costliest tenth of the episodes (CVaR). The policy acts deterministically unless --stochastic is given.

    For the terminal, and for a script:
      sb3-prefine evaluate safe.zip SpeedLimitHalfCheetah-v0
      sb3-prefine evaluate safe.zip SpeedLimitHalfCheetah-v0 --episodes 20 --stochastic --json safe.json

    :param cost_limit: Highest cost of a safe episode.
    :param json_path: JSON file for these numbers and those of each episode. Unknown costs are null.
    :param overwrite: Replace an existing JSON file.
    """
    check_outputs(json_path, overwrite=overwrite)

    from sb3_prefine import __version__
    from sb3_prefine.cli.inputs import open_policy
    from sb3_prefine.evaluation.evaluate import check_cost_limit, evaluate_policy
    from sb3_prefine.evaluation.tables import print_table, results_table

    check_cost_limit(cost_limit)
    deterministic = rollout.is_deterministic(default=True)
    evaluation = evaluate_policy(
        open_policy(policy, checkpoint),
        env,
        rollout.episodes,
        n_envs=rollout.n_envs,
        n_workers=rollout.n_workers,
        deterministic=deterministic,
        seed=rollout.seed,
        progress_bar=True,
    )
    print_table(results_table([(policy, evaluation)], cost_limit))
    if json_path is not None:
        content = {
            "sb3_prefine": __version__,
            "policy": policy,
            "env": env,
            "deterministic": deterministic,
            "seed": rollout.seed,
            "n_episodes": len(evaluation),
            "cost_limit": cost_limit,
            "mean_reward": evaluation.mean_reward,
            "reward_interval": evaluation.reward_interval,
            "mean_cost": evaluation.mean_cost,
            "cost_interval": evaluation.cost_interval,
            "violation_rate": evaluation.violation_rate(cost_limit),
            "cvar_cost": evaluation.cvar_cost(),
            "episode_rewards": evaluation.episode_rewards.tolist(),
            "episode_costs": evaluation.episode_costs.tolist(),
            "episode_lengths": evaluation.episode_lengths.tolist(),
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        # JSON has no NaN, and most readers refuse what Python writes for it.
        write_atomically(json_path, json.dumps(_nan_to_none(content), indent=2, allow_nan=False).encode())
        print(f"Wrote {json_path}.")


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
