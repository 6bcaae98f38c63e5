"""The policy's side of a rollout: open it, and convert its actions to those of the environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_prefine.reference.load import load_reference

PolicyLike: TypeAlias = PolicyPredictor | str | Path


@runtime_checkable
class HasPredictor(Protocol):
    """A model that knows which part of it acts: PREFINE and the baselines."""

    def predictor(self) -> PolicyPredictor: ...


def open_policy(policy: PolicyLike) -> PolicyPredictor:
    """
    Open a policy for a rollout.

    :param policy: An object with a ``predict`` that takes raw observations; or an SB3 model or a path, which
        ``load_reference`` opens.
    :return: An object with such a ``predict``. For PREFINE and the baselines it is the part that acts, without data
        and logger.
    :raises TypeError: If the policy has no ``predict``.
    """
    if isinstance(policy, str | Path) or (isinstance(policy, BaseAlgorithm) and not hasattr(policy, "wrap_env")):
        return load_reference(policy)
    if isinstance(policy, HasPredictor):
        return policy.predictor()
    if not callable(getattr(policy, "predict", None)):
        raise TypeError(
            f"policy: {type(policy).__name__} has no predict(observation, state, episode_start, deterministic). Pass a "
            "PREFINE or another SB3 model, what load_reference() returns, or the path of a saved model."
        )
    return policy


def action_converter(space: gym.Space, n: int) -> Callable[[Any], np.ndarray]:
    """
    Make the function that converts a policy's actions to those of the environments: clipped to the bounds of a Box,
    and of the space's dtype.

    :param space: Action space of the environments.
    :param n: Number of environments.
    :return: A function from the policy's actions, (n, ...), to a new array. It raises ValueError if the actions do not
        belong to the space, or if one is NaN or infinite.
    """
    shape, dtype = (n, *(space.shape or ())), cast(Any, space.dtype)
    box = space if isinstance(space, gym.spaces.Box) else None

    def convert(actions: Any) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != shape:
            raise ValueError(
                f"policy: its actions have shape {actions.shape}, those of {space} have shape {shape}. Pass a policy "
                "for this environment, or a transform that keeps the shape."
            )
        if isinstance(space, gym.spaces.MultiBinary) and np.isin(actions, (0, 1)).all():
            actions = actions.astype(dtype)  # SB3 returns them as floats
        if actions.dtype != dtype and not np.can_cast(actions.dtype, dtype, casting="same_kind"):
            raise ValueError(
                f"policy: its actions are {actions.dtype}, those of {space} are {dtype}. Pass a policy for this "
                "environment, or a transform that keeps the dtype."
            )
        if not np.isfinite(actions).all():
            row = int(np.argmin(np.isfinite(actions).reshape(n, -1).all(axis=1)))
            raise ValueError(f"policy: a NaN or infinite action, {actions[row]}. Check its weights and its normaliser.")
        return actions.astype(dtype) if box is None else clip(actions, box).astype(dtype, copy=False)

    return convert


def clip(actions: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """Clip actions to the bounds of a Box. Between two steps of a simulation ``np.clip`` takes 1.5 times as long."""
    return np.minimum(np.maximum(actions, space.low), space.high)


def inherits(instance: object, base: type, *names: str) -> bool:
    """Whether an instance of the class inherits these methods, without an override."""
    return all(getattr(type(instance), name) is getattr(base, name) and name not in vars(instance) for name in names)
