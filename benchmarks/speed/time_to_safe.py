"""From ``learn()`` to a safe policy: RL Zoo's three HalfCheetah checkpoints."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, evaluate_policy, load_reference

ENV_ID, COST_LIMIT = "SafetyHalfCheetahVelocity-v1", 25.0
# The preferred data are slower gaits: the PPO agent with all its actions scaled down, ten episodes of each scale.
SCALES = (0.64, 0.66, 0.68, 0.70)


@dataclass(frozen=True)
class Recipe:
    """
    :param learning_rate: at the start, from which it falls to zero in a line; constant where ``falls`` is not set
    :param steps: gradient steps
    :param falls: whether it falls
    """

    learning_rate: float
    steps: int
    falls: bool = True


# The A2C checkpoint needs more: 95% of its last hidden units are saturated, and little gradient comes through at first.
RECIPES = {"ppo": Recipe(3e-3, 250), "sac": Recipe(3e-3, 250), "a2c": Recipe(3e-3, 8_000, falls=False)}
# The share of the preferred data's mean return that a policy has to reach.
WANTED = 0.95


def to_safe(seeds: int, episodes: int) -> dict[str, Any]:
    """
    Train each checkpoint once a seed, and evaluate it with seeds that nothing was chosen with.

    :param seeds: how many
    :param episodes: of each evaluation, by the mode
    :return: for each checkpoint the recipe, the data, and of each seed return, cost, seconds and whether both are met
    """
    agent = load_reference("ppo/HalfCheetah-v3")
    gaits = Trajectories.concatenate(
        [collect(agent, ENV_ID, 10, n_envs=10, seed=1, action_transform=partial(np.multiply, s)) for s in SCALES]
    )
    return {name: _retrofit(name, recipe, gaits, seeds, episodes) for name, recipe in RECIPES.items()}


def _retrofit(name: str, recipe: Recipe, gaits: Trajectories, seeds: int, episodes: int) -> dict[str, Any]:
    reference = load_reference(f"{name}/HalfCheetah-v3")
    own = collect(reference, ENV_ID, n_episodes=20, n_envs=10, seed=2)
    preferences = PreferenceBuffer.from_costs(
        gaits + own, cost_limit=COST_LIMIT, n_preferred=len(gaits) // 2, n_dispreferred=len(own)
    )
    wanted = WANTED * float(preferences.preferred.episode_returns.mean())
    runs = []
    for seed in tqdm(range(10, 10 + seeds), desc=name, unit="run"):
        rate = _falling(recipe.learning_rate) if recipe.falls else recipe.learning_rate
        model = PREFINE(reference, preferences, learning_rate=rate, seed=seed, device="cpu")
        started, cpu_started = time.perf_counter(), time.process_time()
        model.learn(recipe.steps)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        found = evaluate_policy(model, ENV_ID, episodes, seed=1000 + seed)
        runs.append(
            {
                "return": round(found.mean_reward, 1),
                "cost": round(found.mean_cost, 2),
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "met": bool(found.mean_cost <= COST_LIMIT and found.mean_reward >= wanted),
            }
        )
    return {
        "learning_rate": recipe.learning_rate,
        "falls": recipe.falls,
        "steps": recipe.steps,
        "cost_limit": COST_LIMIT,
        "preferred_return": round(wanted / WANTED, 1),
        "runs": runs,
    }


def _falling(learning_rate: float) -> Any:
    return lambda progress_remaining: learning_rate * progress_remaining
