"""Small models for the tests of this folder."""

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_prefine import PREFINE
from tests.worlds import RandomEnv, make_model, preferences

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def prefine_of(algorithm: type[BaseAlgorithm] = PPO, **kwargs: Any) -> PREFINE:
    """Make PREFINE with an untrained model, preferences and small batches."""
    kwargs = {"preferences": preferences(), "batch_size": 8, "seed": 0, "device": "cpu", **kwargs}
    return PREFINE(make_model(algorithm), **kwargs)


def vec_env(n_envs: int = 1, env: type[gym.Env] = RandomEnv) -> VecEnv:
    """Make environments as SB3 does, each in a ``Monitor``."""
    return make_vec_env(env, n_envs=n_envs)
