"""``sb3-prefine evaluate``."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sb3_prefine.cli.options import Acting, Opening, check_outputs

if TYPE_CHECKING:
    from sb3_prefine.evaluation.evaluate import Evaluation


def evaluate(
    policy: tyro.conf.Positional[str],
    env: tyro.conf.Positional[str],
    acting: Acting,
    opening: Opening,
    *,
    episodes: int = 100,
    cost_limit: float = 25.0,
    seed: int = 0,
    n_envs: int = 32,
    n_workers: int = 1,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    overwrite: bool = False,
) -> None:
    """
    Measure what a policy earns and what it costs.

    Prints the mean return and cost with their 95% intervals, the share of episodes over the limit, and the mean cost of
    the worst tenth of the episodes (CVaR). Without --stochastic the policy acts by its mode.

    For the terminal, and for a script:
      sb3-prefine evaluate safe.zip SpeedLimitHalfCheetah-v0
      sb3-prefine evaluate safe.zip SpeedLimitHalfCheetah-v0 --episodes 20 --stochastic --json safe.json

    :param policy: a zip, an RL-Zoo folder, a name like ppo/HalfCheetah-v3 in the folder that the environment variable
        RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub
    :param env: an environment's id, or "module:id" to import a module of yours first; `sb3-prefine envs` lists some
    :param episodes: how many episodes to run
    :param cost_limit: the most that an episode may cost
    :param seed: the same seed gives the same episodes
    :param n_envs: environments to make; 16 for each process take the least time a step
    :param n_workers: processes that step them; the episodes are the same
    :param json_path: a JSON file for these numbers and each episode's return, cost and length; unknown costs are null
    :param overwrite: replace the file if it is there
    """
    check_outputs(json_path, overwrite=overwrite)
    from sb3_prefine.evaluation.evaluate import check_cost_limit, evaluate_policy
    from sb3_prefine.evaluation.tables import print_table, results_table
    from sb3_prefine.utils.files import write_atomically

    check_cost_limit(cost_limit)
    deterministic = acting.by_mode(default=True)
    evaluation = evaluate_policy(
        opening.open(policy),
        env,
        episodes,
        n_envs=n_envs,
        n_workers=n_workers,
        deterministic=deterministic,
        seed=seed,
        progress_bar=True,
    )
    print_table(results_table([(policy, evaluation)], cost_limit))
    if json_path is not None:
        settings = {"policy": policy, "env": env, "deterministic": deterministic, "seed": seed}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_path, _to_json(settings, evaluation, cost_limit))
        print(f"Wrote {json_path}.")


def _to_json(settings: dict[str, Any], evaluation: "Evaluation", cost_limit: float) -> bytes:
    from sb3_prefine import __version__

    numbers = {
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
    content = {"sb3_prefine": __version__, **settings, **{k: _without_nan(v) for k, v in numbers.items()}}
    # JSON has no NaN: what Python writes for it, other readers refuse.
    return json.dumps(content, indent=2, allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
