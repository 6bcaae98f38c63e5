"""A deterministic environment and policies for it. Worker processes import this module, so it needs no test tools."""

import random

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces


class ScriptedEnv(gym.Env):
    """
    An environment whose reset seed decides everything.

    The episode has ``1 + seed % 7`` steps. Step t (from 1) earns t and costs t % 2, and the observation is
    [seed % 1000, t]. Every step returns the same array, as some simulators do.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        self.seeds = []
        self.received = []
        self.closed = 0
        self._buffer = np.zeros(2, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.length = 1 + seed % 7
        self.t = 0
        self._buffer[:] = seed % 1000, 0
        return self._buffer, {}

    def step(self, action):
        self.received.append(action)
        self.t += 1
        self._buffer[1] = self.t
        done = self.t == self.length
        # Episodes of odd length are terminated, those of even length truncated.
        return self._buffer, float(self.t), done and self.t % 2 == 1, done and self.t % 2 == 0, self.info()

    def info(self):
        return {"cost": float(self.t % 2)}

    def close(self):
        self.closed += 1


class ZeroPolicy:
    """Returns actions of zeros."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), 2), dtype=np.float32), state


class RandomPolicy(ZeroPolicy):
    """Draws from the global generators of torch, NumPy and Python."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        noise = torch.rand(len(observation), 2).numpy() + np.random.rand() + random.random()  # noqa: NPY002
        return noise.astype(np.float32) / 3, state
