"""
Continue with PPO after PREFINE, and measure whether the policy stays safe and whether its old critic is a problem.

    python examples/continue_with_rl.py        # six minutes on one core

PREFINE makes the HalfCheetah of `sb3-prefine demo` keep its speed limit, and exports it. It does not train the critic,
which still has the values of the original policy. PPO continues from the zip in four ways: with the environment's own
reward, or with the reward minus a penalty for each step of cost; and either at once, or after the critic alone has
learned the values of the new policy while the actor is frozen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.cli.demo import COST_LIMIT, DATA, ENV_ID

PENALTY = 5.0
SEEDS = (0, 1)
# Timesteps of all environments together. Those for the critic alone come first.
CRITIC_STEPS, STEPS = 16_384, 49_152


class CostInReward(gym.Wrapper):
    """Subtracts a penalty for the cost from the reward."""

    def __init__(self, env: gym.Env, penalty: float) -> None:
        super().__init__(env)
        self.penalty = penalty

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) - self.penalty * info["cost"], terminated, truncated, info


class FirstCriticValues(BaseCallback):
    """Measures the critic before the first update, in units of the normalised reward."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        if model.num_timesteps == model.n_steps * model.n_envs:
            values, returns = model.rollout_buffer.values.flatten(), model.rollout_buffer.returns.flatten()
            self.explained_variance = float(explained_variance(values, returns))  # as PPO logs it
            self.value = float(values.mean())
            # The mean value of a critic that knows the policy.
            self.earned = float(model.rollout_buffer.rewards.mean()) / (1 - model.gamma)


@dataclass(frozen=True)
class Result:
    """
    Result of one training with PPO.

    :param critic: The critic at the first update of the actor.
    :param rewards: Mean return of each evaluation in the environment itself, (n_evaluations,).
    :param costs: Mean cost of each evaluation, (n_evaluations,).
    """

    critic: FirstCriticValues
    rewards: np.ndarray
    costs: np.ndarray


def make_safe(path: Path, steps: int = 2_000) -> Path:
    """Train with PREFINE, and write the zip of a PPO that keeps the limit, with its normaliser next to it."""
    good, bad = (Trajectories.from_hdf5(DATA / f"{name}.hdf5") for name in ("preferred", "dispreferred"))
    model = PREFINE(DATA / "reference.zip", PreferenceBuffer(preferred=good, dispreferred=bad), seed=0, device="cpu")
    return model.learn(steps).export(path)


def open_for_training(path: Path, penalty: float, seed: int) -> PPO:
    """Open the exported PPO in an environment with its normaliser."""
    env: Any = make_vec_env(lambda: CostInReward(gym.make(ENV_ID), penalty), n_envs=8, seed=seed)
    # The statistics stay as they were exported. env.training = True would update them.
    env = VecNormalize.load(str(path.with_suffix("") / "vecnormalize.pkl"), env)
    model = PPO.load(path, env=env, device="cpu")
    model.set_random_seed(seed)  # the zip contains the seed of the original run
    return model


def freeze_actor(model: PPO, frozen: bool) -> None:
    """Freeze the actor, or release it. PPO's optimizer skips parameters without a gradient."""
    policy: Any = model.policy
    for part in (policy.mlp_extractor.policy_net, policy.action_net, policy.log_std):
        part.requires_grad_(not frozen)


def continue_training(path: Path, penalty: float, critic_first: bool, seed: int, steps: int = STEPS) -> Result:
    """Train with PPO and evaluate three times. The best safe model is kept in a folder, with ``evaluations.npz``."""
    model = open_for_training(path, penalty, seed)
    if critic_first:
        freeze_actor(model, True)
        model.learn(CRITIC_STEPS)
        freeze_actor(model, False)
    folder = path.parent / f"penalty-{penalty:g}{'-critic-first' if critic_first else ''}-{seed}"
    eval_callback = CostEvalCallback(
        ENV_ID,
        cost_limit=COST_LIMIT,
        eval_freq=steps // 3 // model.n_envs,
        log_path=folder,
        best_model_save_path=folder,
    )
    critic = FirstCriticValues()
    model.learn(steps, callback=[critic, eval_callback])
    evaluations = np.load(folder / "evaluations.npz")
    return Result(critic, evaluations["results"].mean(axis=1), evaluations["costs"].mean(axis=1))


def markdown(results: dict[tuple[float, bool], list[Result]]) -> str:
    """The table of docs/policies.md: means over the seeds, with return / cost in the last three columns."""
    steps = [f"after {STEPS * n // 3:,} steps" for n in (1, 2, 3)]
    rows = [
        f"| PPO continues with | critic first | explained variance | value / earned | {' | '.join(steps)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for (penalty, critic_first), runs in results.items():
        variance, value, earned = (
            np.mean([getattr(run.critic, name) for run in runs]) for name in ("explained_variance", "value", "earned")
        )
        rewards, costs = (np.mean([getattr(run, name) for run in runs], axis=0) for name in ("rewards", "costs"))
        rows.append(
            f"| reward{f' - {penalty:g} cost' if penalty else ''} | {'yes' if critic_first else 'no'} "
            f"| {variance:.2f} | {value:.2f} / {earned:.2f} | "
            + " | ".join(f"{reward:,.0f} / {cost:.0f}" for reward, cost in zip(rewards, costs, strict=True))
            + " |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    path = make_safe(Path("runs/continue/safe"))
    settings = [(penalty, critic_first) for penalty in (0.0, PENALTY) for critic_first in (False, True)]
    print(markdown({setting: [continue_training(path, *setting, seed) for seed in SEEDS] for setting in settings}))
