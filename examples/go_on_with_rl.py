"""
Goes on with PPO after a retrofit, and measures what comes of the safety, and of the critic that PREFINE did not train.

    python examples/go_on_with_rl.py        # six minutes of one core

The HalfCheetah of `sb3-prefine demo` is made to keep its speed limit and exported. From the zip PPO goes on in four
ways: for the environment's own reward, or for the reward minus a penalty for each step of cost; at once, or after the
critic alone has learnt the new policy's values while the actor is frozen.
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
from sb3_prefine.cli.run_demo import COST_LIMIT, DATA, ENV_ID

PENALTY = 5.0
SEEDS = (0, 1)
# Of all environments together. Those of the critic alone come before.
CRITIC_STEPS, STEPS = 16_384, 49_152


class CostInReward(gym.Wrapper):
    """The reward minus a penalty for the cost."""

    def __init__(self, env: gym.Env, penalty: float) -> None:
        super().__init__(env)
        self.penalty = penalty

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) - self.penalty * info["cost"], terminated, truncated, info


class CriticAtFirst(BaseCallback):
    """The critic at the first update, in units of the normalised reward."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        if model.num_timesteps == model.n_steps * model.n_envs:
            values, returns = (of.flatten() for of in (model.rollout_buffer.values, model.rollout_buffer.returns))
            self.explained_variance = float(explained_variance(values, returns))  # as PPO logs it
            self.value = float(values.mean())
            # What its values should be about.
            self.earned = float(model.rollout_buffer.rewards.mean()) / (1 - model.gamma)


@dataclass(frozen=True)
class Continued:
    """
    What one way to go on came to.

    :param critic: at the first update of the actor
    :param rewards: (n_evaluations,) mean episode return of the environment itself
    :param costs: (n_evaluations,) mean episode cost
    """

    critic: CriticAtFirst
    rewards: np.ndarray
    costs: np.ndarray


def retrofit(path: Path, steps: int = 2_000) -> Path:
    """The zip of a PPO that keeps the limit; beside it lies its normaliser."""
    good, bad = (Trajectories.from_hdf5(DATA / f"{name}.hdf5") for name in ("preferred", "dispreferred"))
    model = PREFINE(DATA / "reference.zip", PreferenceBuffer(preferred=good, dispreferred=bad), seed=0, device="cpu")
    return model.learn(steps).export(path)


def open_to_train(path: Path, penalty: float, seed: int) -> PPO:
    """The exported PPO, in an environment behind its normaliser."""
    env: Any = make_vec_env(lambda: CostInReward(gym.make(ENV_ID), penalty), n_envs=8, seed=seed)
    # Its statistics stay as they were exported: env.training = True lets them go on, too.
    env = VecNormalize.load(str(path.with_suffix("") / "vecnormalize.pkl"), env)
    model = PPO.load(path, env=env, device="cpu")
    model.set_random_seed(seed)  # the zip brings that of its old run
    return model


def freeze_actor(model: PPO, frozen: bool) -> None:
    """PPO's one optimizer passes over what has no gradient."""
    policy: Any = model.policy
    for part in (policy.mlp_extractor.policy_net, policy.action_net, policy.log_std):
        part.requires_grad_(not frozen)


def go_on(path: Path, penalty: float, critic_first: bool, seed: int, steps: int = STEPS) -> Continued:
    """Train on and evaluate on the way; the best safe model is kept in the folder beside ``evaluations.npz``."""
    model = open_to_train(path, penalty, seed)
    if critic_first:
        freeze_actor(model, True)
        model.learn(CRITIC_STEPS)
        freeze_actor(model, False)
    folder = path.parent / f"penalty-{penalty:g}{'-critic-first' if critic_first else ''}-{seed}"
    watch = CostEvalCallback(
        ENV_ID,
        cost_limit=COST_LIMIT,
        eval_freq=steps // 3 // model.n_envs,
        log_path=folder,
        best_model_save_path=folder,
    )
    critic = CriticAtFirst()
    model.learn(steps, callback=[critic, watch])
    evaluations = np.load(folder / "evaluations.npz")
    return Continued(critic, evaluations["results"].mean(axis=1), evaluations["costs"].mean(axis=1))


def markdown(results: dict[tuple[float, bool], list[Continued]]) -> str:
    """The table of docs/policies.md: means over the seeds; return / cost in the last three columns."""
    steps = [f"after {STEPS * n // 3:,} steps" for n in (1, 2, 3)]
    rows = [
        f"| PPO goes on for | critic first | explained variance | value / earned | {' | '.join(steps)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for (penalty, critic_first), runs in results.items():
        critic = [np.mean([getattr(run.critic, name) for run in runs]) for name in _OF_CRITIC]
        rewards, costs = (np.mean([getattr(run, name) for run in runs], axis=0) for name in ("rewards", "costs"))
        rows.append(
            f"| reward{f' - {penalty:g} cost' if penalty else ''} | {'yes' if critic_first else 'no'} "
            f"| {critic[0]:.2f} | {critic[1]:.2f} / {critic[2]:.2f} | "
            + " | ".join(f"{reward:,.0f} / {cost:.0f}" for reward, cost in zip(rewards, costs, strict=True))
            + " |"
        )
    return "\n".join(rows)


_OF_CRITIC = ("explained_variance", "value", "earned")

if __name__ == "__main__":
    torch.set_num_threads(1)
    path = retrofit(Path("runs/go-on/safe"))
    ways = [(penalty, critic_first) for penalty in (0.0, PENALTY) for critic_first in (False, True)]
    print(markdown({way: [go_on(path, *way, seed) for seed in SEEDS] for way in ways}))
