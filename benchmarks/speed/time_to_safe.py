"""Time from ``learn()`` to a safe policy, for RL Zoo's three HalfCheetah checkpoints."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, evaluate_policy, load_reference

ENV_ID, COST_LIMIT = "SafetyHalfCheetahVelocity-v1", 25.0
# The preferred data are slower gaits: ten episodes of the PPO agent for each factor on its actions.
SCALES = (0.64, 0.66, 0.68, 0.70)


@dataclass(frozen=True)
class Schedule:
    """
    Learning rate and gradient steps of one checkpoint.

    :param learning_rate: Initial learning rate.
    :param steps: Gradient steps.
    :param decays: Whether the learning rate decays linearly to 0. Otherwise it is constant.
    """

    learning_rate: float
    steps: int
    decays: bool = True


# The A2C checkpoint needs more steps: 95% of its last hidden units are saturated, so gradients are small at first.
SCHEDULES = {
    "ppo": Schedule(3e-3, 250),
    "sac": Schedule(3e-3, 250),
    "a2c": Schedule(3e-3, 8_000, decays=False),
}
# Share of the preferred data's mean return that a policy has to reach.
RETURN_SHARE = 0.95


def measure_time_to_safe(seeds: int, episodes: int) -> dict[str, Any]:
    """
    Train each checkpoint once per seed, and evaluate it with seeds that no choice was based on.

    :param seeds: Number of seeds.
    :param episodes: Episodes of each evaluation, with deterministic actions.
    :return: The schedule, the data and the runs of each checkpoint. A run has return, cost, seconds, and whether it
        met the targets for both return and cost.
    """
    agent = load_reference("ppo/HalfCheetah-v3")
    gaits = Trajectories.concatenate(
        [collect(agent, ENV_ID, 10, n_envs=10, seed=1, action_transform=partial(np.multiply, s)) for s in SCALES]
    )
    return {name: _train_runs(name, schedule, gaits, seeds, episodes) for name, schedule in SCHEDULES.items()}


def _train_runs(name: str, schedule: Schedule, gaits: Trajectories, seeds: int, episodes: int) -> dict[str, Any]:
    reference = load_reference(f"{name}/HalfCheetah-v3")
    own = collect(reference, ENV_ID, n_episodes=20, n_envs=10, seed=2)
    preferences = PreferenceBuffer.from_costs(
        gaits + own, cost_limit=COST_LIMIT, n_preferred=len(gaits) // 2, n_dispreferred=len(own)
    )
    min_return = RETURN_SHARE * float(preferences.preferred.episode_returns.mean())
    runs = []
    for seed in tqdm(range(10, 10 + seeds), desc=name, unit="run"):
        rate = _linear_decay(schedule.learning_rate) if schedule.decays else schedule.learning_rate
        model = PREFINE(reference, preferences, learning_rate=rate, seed=seed, device="cpu")
        started, cpu_started = time.perf_counter(), time.process_time()
        model.learn(schedule.steps)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        found = evaluate_policy(model, ENV_ID, episodes, seed=1000 + seed)
        runs.append(
            {
                "return": round(found.mean_reward, 1),
                "cost": round(found.mean_cost, 2),
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "met": bool(found.mean_cost <= COST_LIMIT and found.mean_reward >= min_return),
            }
        )
    return {
        "learning_rate": schedule.learning_rate,
        "falls": schedule.decays,
        "steps": schedule.steps,
        "cost_limit": COST_LIMIT,
        "preferred_return": round(min_return / RETURN_SHARE, 1),
        "runs": runs,
    }


def _linear_decay(learning_rate: float) -> Any:
    return lambda progress_remaining: learning_rate * progress_remaining
