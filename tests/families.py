"""A small untrained model of every policy family, for ``test_families`` and the table in ``docs/policies.md``."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from examples import mixture_policy
from sb3_prefine.policies.cvae import CVAEPolicy
from tests.worlds import RandomEnv, env_with_actions

SMALL = {"net_arch": [16, 16]}
DISCRETE = {"Discrete": spaces.Discrete(4), "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4])}


class DictEnv(RandomEnv):
    """Dict observations of a small image and a vector."""

    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (1, 36, 36), np.uint8), "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32)}
    )

    def _observe(self) -> Any:
        return {
            "camera": self.np_random.integers(0, 256, (1, 36, 36), dtype=np.uint8),
            "speed": self.np_random.normal(size=2).astype(np.float32),
        }


class ImageEnv(RandomEnv):
    """Observations that are channel-first images."""

    observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)

    def _observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (3, 36, 36), dtype=np.uint8)


def masked_env_with_actions(action_space: spaces.Space) -> type[RandomEnv]:
    """An environment whose action mask changes at every step, and always allows the first option of each choice."""
    n_options = {spaces.Discrete: lambda s: [int(s.n)], spaces.MultiDiscrete: lambda s: s.nvec.tolist()}
    sizes = n_options.get(type(action_space), lambda s: [2] * int(s.n))(action_space)

    class Masked(env_with_actions(action_space)):  # type: ignore[misc]
        def action_masks(self) -> np.ndarray:
            masks = [np.arange(size) <= (self.steps + i) % size for i, size in enumerate(sizes)]
            return np.concatenate(masks)

    return Masked


class Mixture(mixture_policy.Mixture):
    """The untrained policy of ``examples/mixture_policy.py``, for this environment."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(RandomEnv.observation_space, RandomEnv.action_space)


def make_cvae() -> CVAEPolicy:
    torch.manual_seed(0)
    return CVAEPolicy(RandomEnv.observation_space, RandomEnv.action_space, net_arch=[16, 16])


@dataclass(frozen=True)
class Family:
    """
    A kind of policy.

    :param name: Name in the table.
    :param make: Builds an untrained model.
    :param env: Builds the environment that it acts in.
    :param options: Further arguments that PREFINE needs for it.
    """

    name: str
    make: Callable[[], BaseAlgorithm | nn.Module]
    env: Callable[[], gym.Env]
    options: dict[str, Any] = field(default_factory=dict)


def _family(
    name: str,
    algorithm: type[BaseAlgorithm],
    env: Callable[[], gym.Env] = RandomEnv,
    policy: str = "MlpPolicy",
    options: dict[str, Any] | None = None,
    policy_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Family:
    def make() -> BaseAlgorithm:
        return algorithm(
            policy, env(), seed=0, device="cpu", policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs
        )

    return Family(name, make, env, options or {})


SQUASHED_SDE = {"squash_output": True, "full_std": False}
BITS = spaces.MultiBinary(3)
SEPARATE = {"share_features_extractor": False}
LSTM = {"lstm_hidden_size": 8}
FEW = {"buffer_size": 100}
FAMILIES = [
    _family("PPO", PPO),
    _family("A2C", A2C),
    _family("TRPO", TRPO),
    _family("PPO, gSDE", PPO, use_sde=True),
    _family("PPO, gSDE, squashed", PPO, use_sde=True, policy_kwargs=SQUASHED_SDE),
    _family("PPO, Discrete", PPO, env_with_actions(DISCRETE["Discrete"])),
    _family("A2C, MultiDiscrete", A2C, env_with_actions(DISCRETE["MultiDiscrete"])),
    _family("PPO, MultiBinary", PPO, env_with_actions(BITS)),
    _family(
        "PPO, images", PPO, ImageEnv, "CnnPolicy", policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}}
    ),
    _family(
        "PPO, images, separate extractors",
        PPO,
        ImageEnv,
        "CnnPolicy",
        policy_kwargs={**SEPARATE, "features_extractor_kwargs": {"features_dim": 8}},
    ),
    _family("PPO, Dict", PPO, DictEnv, "MultiInputPolicy"),
    _family(
        "A2C, Dict, separate extractors",
        A2C,
        DictEnv,
        "MultiInputPolicy",
        policy_kwargs={"share_features_extractor": False},
    ),
    _family("SAC", SAC, **FEW),
    _family("SAC, gSDE", SAC, use_sde=True, **FEW),
    _family("SAC, Dict", SAC, DictEnv, "MultiInputPolicy", **FEW),
    _family("TQC", TQC, **FEW),
    _family("CrossQ", CrossQ, **FEW),
    _family("MaskablePPO, Discrete", MaskablePPO, masked_env_with_actions(DISCRETE["Discrete"])),
    _family("MaskablePPO, MultiDiscrete", MaskablePPO, masked_env_with_actions(DISCRETE["MultiDiscrete"])),
    _family("MaskablePPO, MultiBinary", MaskablePPO, masked_env_with_actions(BITS)),
    _family("RecurrentPPO", RecurrentPPO, policy="MlpLstmPolicy", policy_kwargs=LSTM),
    _family(
        "RecurrentPPO, Discrete, one LSTM",
        RecurrentPPO,
        env_with_actions(DISCRETE["Discrete"]),
        "MlpLstmPolicy",
        policy_kwargs={**LSTM, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    _family("TD3", TD3, options={"fixed_std": 0.1}, **FEW),
    _family("DDPG", DDPG, options={"fixed_std": 0.1}, **FEW),
    _family("DQN", DQN, env_with_actions(DISCRETE["Discrete"]), options={"temperature": 0.1}, **FEW),
    _family("QR-DQN", QRDQN, env_with_actions(DISCRETE["Discrete"]), options={"temperature": 0.1}, **FEW),
    Family("CVAEPolicy", make_cvae, RandomEnv),
    Family("your own nn.Module", Mixture, RandomEnv),
]
