"""Small environments, models and data for all tests."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from sb3_prefine import PreferenceBuffer, Trajectories

OBSERVATIONS, ACTIONS = 5, 3
STATES = np.random.default_rng(7).normal(3.0, 2.0, (50, OBSERVATIONS)).astype(np.float32)


class RandomEnv(gym.Env):
    """Random observations, actions in a box that is neither symmetric nor [-1, 1], episodes of ten steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = spaces.Box(np.array([-2.0, 0.0, -1.0], np.float32), np.array([1.0, 3.0, 1.0], np.float32))

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self._observe(), float(action.sum()), False, self.steps == 10, {"cost": float(action[0] > 0)}

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(3.0, 2.0, OBSERVATIONS).astype(np.float32)


def env_with_actions(action_space: spaces.Space) -> type[RandomEnv]:
    """The same environment with another action space."""

    class OtherActions(RandomEnv):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.steps += 1
            return self._observe(), 1.0, False, self.steps == 10, {"cost": 0.0}

    OtherActions.action_space = action_space
    return OtherActions


def make_model(algorithm: type[BaseAlgorithm], env: Any = None, **kwargs: Any) -> BaseAlgorithm:
    """An untrained model with small networks."""
    kwargs = {"policy_kwargs": {"net_arch": [16, 16]}, **kwargs}
    return algorithm("MlpPolicy", env or RandomEnv(), seed=0, device="cpu", **kwargs)


def recorded(observations: np.ndarray, actions: np.ndarray, length: int = 10, **columns: np.ndarray) -> Trajectories:
    """
    Episodes of ``length`` steps that a time limit ends.

    :param columns: Further columns. Without them, states are their own successors, and rewards and costs are zero.
    """
    n = len(actions)
    given = {
        "observations": observations,
        "next_observations": observations,
        "actions": actions,
        "rewards": np.zeros(n, np.float32),
        "costs": np.zeros(n, np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": np.arange(1, n + 1) % length == 0,
    }
    return Trajectories(**{**given, **columns})


def trajectories(action: list[float], n_episodes: int = 4, length: int = 10, seed: int = 0) -> Trajectories:
    """Episodes whose actions are one action with a little noise."""
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    noisy = np.asarray(action) + rng.normal(0, 0.05, (n, ACTIONS))
    return recorded(
        rng.normal(3.0, 2.0, (n, OBSERVATIONS)).astype(np.float32),
        np.clip(noisy, RandomEnv.action_space.low, RandomEnv.action_space.high).astype(np.float32),
        length,
        next_observations=rng.normal(3.0, 2.0, (n, OBSERVATIONS)).astype(np.float32),
        rewards=np.ones(n, np.float32),
    )


GOOD, BAD = [-1.0, 1.0, 0.5], [0.5, 2.5, -0.5]


def preferences() -> PreferenceBuffer:
    """Episodes around the action GOOD are preferred to episodes around BAD."""
    return PreferenceBuffer(preferred=trajectories(GOOD), dispreferred=trajectories(BAD, seed=1))


class RecordingLogger(Logger):
    """Keeps all logged values."""

    def __init__(self) -> None:
        super().__init__(folder=None, output_formats=[])
        self.rows: list[dict] = []

    def dump(self, step: int = 0) -> None:
        self.rows.append(dict(self.name_to_value))
        super().dump(step)


def weights(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the weights, which training does not change."""
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Compare weights bit by bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
