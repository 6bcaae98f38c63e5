"""Initialise PPO as a clone of another agent, for tasks in which exploration rarely finds a reward."""

import numpy as np
import torch
from scipy.signal import lfilter
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_prefine import Trajectories, collect, load_reference

EPISODES = 64
UPDATES = 6_000
BATCH_SIZE = 256
LEARNING_RATE = 1e-3


def clone(model: PPO, normalize: VecNormalize, expert: PolicyPredictor | str, env_id: str, seed: int) -> None:
    """
    Train the actor of an untrained PPO on an agent's actions, and its critic on the agent's discounted returns.

    With an untrained critic, PPO's first updates would destroy the cloned policy.

    :param model: A PPO with SB3's default policy for vector observations.
    :param normalize: The environment of the model. Its statistics become those of the agent's episodes.
    :param expert: The agent, or its name in RL Zoo, such as ppo/Hopper-v3. It is rolled out with stochastic actions,
        and its deterministic actions in the same states are cloned.
    :param env_id: Id of the environment.
    :param seed: Seed of the episodes and the batches.
    """
    if isinstance(expert, str):
        expert = load_reference(expert)
    episodes = collect(expert, env_id, EPISODES, n_envs=model.n_envs, seed=seed, progress_bar=False)
    raw, statistics = episodes.observations, normalize.obs_rms
    assert isinstance(raw, np.ndarray)  # a Dict observation space has more than one
    assert isinstance(statistics, RunningMeanStd)
    statistics.update(raw)
    normalize.ret_rms.update(_running_returns(episodes, normalize.gamma))
    observations = torch.as_tensor(normalize.normalize_obs(raw), dtype=torch.float32)
    actions = torch.as_tensor(expert.predict(raw, deterministic=True)[0])
    scale = np.sqrt(normalize.ret_rms.var + normalize.epsilon)
    returns = torch.as_tensor(_returns_to_go(episodes, normalize.gamma) / scale, dtype=torch.float32)

    optimizer = torch.optim.Adam(model.policy.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        batch = torch.randint(len(observations), (BATCH_SIZE,), generator=generator)
        actor, critic = model.policy.mlp_extractor(observations[batch])
        action_loss = torch.nn.functional.mse_loss(model.policy.action_net(actor), actions[batch])
        value_loss = torch.nn.functional.mse_loss(model.policy.value_net(critic)[:, 0], returns[batch])
        optimizer.zero_grad()
        (action_loss + value_loss).backward()
        optimizer.step()


def _running_returns(episodes: Trajectories, gamma: float) -> np.ndarray:
    """(n_transitions,) R_t = gamma R_{t-1} + r_t within an episode, by whose variance VecNormalize scales rewards."""
    return np.concatenate([lfilter([1.0], [1.0, -gamma], rewards) for rewards in _split(episodes)])


def _returns_to_go(episodes: Trajectories, gamma: float) -> np.ndarray:
    """(n_transitions,) G_t = r_t + gamma G_{t+1} within an episode."""
    return np.concatenate([lfilter([1.0], [1.0, -gamma], rewards[::-1])[::-1] for rewards in _split(episodes)])


def _split(episodes: Trajectories) -> list[np.ndarray]:
    return np.split(episodes.rewards.astype(np.float64), episodes.episode_starts[1:])
