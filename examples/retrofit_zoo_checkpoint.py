"""
Make real checkpoints of RL Zoo keep a speed limit: HalfCheetah agents that were trained with PPO, SAC and A2C.

The environment variable RL_TRAINED_AGENTS must name a clone of https://github.com/DLR-RM/rl-trained-agents.

    python examples/retrofit_zoo_checkpoint.py                 # all three
    python examples/retrofit_zoo_checkpoint.py sac             # one of them

The preferred data are slower gaits: episodes of the PPO agent with all its actions scaled down. All three checkpoints
learn from them, because PREFINE needs only states and actions, and another policy may have chosen the actions. The
dispreferred data are the checkpoint's own rollouts, which are nearly always faster than the limit of 3.2096 m/s
(Safety-Gymnasium's SafetyHalfCheetahVelocity-v1).
"""

import platform
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean

import mujoco
import stable_baselines3
import torch

from sb3_prefine import (
    PREFINE,
    Evaluation,
    PreferenceBuffer,
    Trajectories,
    __version__,
    collect,
    evaluate_policy,
    load_reference,
)

ENV_ID = "SafetyHalfCheetahVelocity-v1"
COST_LIMIT = 25.0
SCALES = (0.64, 0.66, 0.68, 0.70)
# Learning rate and number of gradient steps. The A2C checkpoint needs more of both: it chooses extreme actions, with
# means of ±12 for actions within ±1, and 95% of its last hidden units are saturated, so little gradient passes through
# them at first.
TRAINING = {"ppo": (1e-3, 2_000), "sac": (3e-4, 2_000), "a2c": (3e-3, 8_000)}
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Retrofit:
    """
    Results for one checkpoint.

    :param algo: Algorithm that trained the checkpoint.
    :param before: Evaluation of the checkpoint.
    :param data: The preferred data.
    :param after: Evaluation of the fine-tuned policy, for each seed.
    :param seconds: Training time for each seed.
    """

    algo: str
    before: Evaluation
    data: Trajectories
    after: list[Evaluation]
    seconds: list[float]

    @property
    def n_reached(self) -> int:
        """Number of seeds with a cost within the limit and 95% of the preferred data's mean return."""
        target = 0.95 * self.data.episode_returns.mean()
        return sum(e.mean_cost <= COST_LIMIT and e.mean_reward >= target for e in self.after)


def slower_gaits(episodes: int) -> Trajectories:
    """Record episodes of the PPO agent with its actions scaled down: ``episodes`` with each scale."""
    agent = load_reference("ppo/HalfCheetah-v3")
    return Trajectories.concatenate(
        [
            collect(agent, ENV_ID, episodes, n_envs=10, seed=1, action_transform=lambda actions, s=scale: s * actions)
            for scale in SCALES
        ]
    )


def retrofit(
    algo: str, gaits: Trajectories, seeds: tuple[int, ...] = SEEDS, steps: int | None = None, episodes: int = 20
) -> Retrofit:
    """Fine-tune one checkpoint once for each seed, and evaluate it before and after."""
    reference = load_reference(f"{algo}/HalfCheetah-v3")
    own = collect(reference, ENV_ID, n_episodes=20, n_envs=10, seed=2)
    preferences = PreferenceBuffer.from_costs(
        gaits + own, cost_limit=COST_LIMIT, n_preferred=len(gaits) // 2, n_dispreferred=min(20, len(own))
    )
    print(f"\n{algo}: preferred {preferences.preferred}\n{algo}: dispreferred {preferences.dispreferred}")

    learning_rate, n_steps = TRAINING[algo]
    after, seconds = [], []
    for seed in seeds:
        model = PREFINE(reference, preferences, learning_rate=learning_rate, seed=seed, device="cpu")
        start = time.perf_counter()
        model.learn(n_steps if steps is None else steps, progress_bar=True)
        seconds.append(time.perf_counter() - start)
        after.append(evaluate_policy(model, ENV_ID, episodes, seed=3))
        path = model.export(Path("runs") / f"{algo}-HalfCheetah-safe-{seed}")
        print(f"{algo}, seed {seed}: {after[-1]}; wrote {path}")
    return Retrofit(algo, evaluate_policy(reference, ENV_ID, episodes, seed=3), preferences.preferred, after, seconds)


def markdown(results: list[Retrofit]) -> str:
    """The table of README.md."""
    rows = [
        "| checkpoint | reference: reward / cost | preferred data | PREFINE: reward (lowest to highest seed) | cost "
        "| of the data's return | cost and return reached | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        rewards, costs = [e.mean_reward for e in r.after], [e.mean_cost for e in r.after]
        rows.append(
            f"| {r.algo.upper()} | {r.before.mean_reward:,.0f} / {r.before.mean_cost:.0f} "
            f"| {r.data.episode_returns.mean():,.0f} / {r.data.episode_costs.mean():.1f} "
            f"| {mean(rewards):,.0f} ({min(rewards):,.0f} to {max(rewards):,.0f}) "
            f"| {mean(costs):.1f} ({min(costs):.1f} to {max(costs):.1f}) "
            f"| {mean(rewards) / r.data.episode_returns.mean():.1%} | {r.n_reached} of {len(r.after)} seeds "
            f"| {TRAINING[r.algo][1]:,} steps, {mean(r.seconds):.0f} s |"
        )
    versions = (
        f"sb3-prefine {__version__}, Stable-Baselines3 {stable_baselines3.__version__}, torch {torch.__version__}, "
        f"MuJoCo {mujoco.__version__}, Python {platform.python_version()}"
    )
    rows.append(
        f"\n`python examples/retrofit_zoo_checkpoint.py`, all seeds in the file, {date.today()}, one core; {versions}."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow = slower_gaits(episodes=10)
    print(markdown([retrofit(algo, slow) for algo in sys.argv[1:] or TRAINING]))
