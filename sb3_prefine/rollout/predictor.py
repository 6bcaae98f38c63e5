"""The policy's side of a rollout: opening it, and fitting its actions to the environment."""

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
    Something with a ``predict`` that takes raw observations.

    :param policy: Such an object; or an SB3 model or a path, which ``load_reference`` opens. Of what was trained here
        it is the part that acts, without its data and its logger.
    :raises TypeError: If it is neither.
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
    Makes of a policy's actions what the environments receive: clipped to a Box's bounds, in the dtype of the space.

    :param space: The environments' action space.
    :param n: How many environments there are.
    :return: Takes the actions (n, ...) and returns a new array. Raises ValueError if they do not fit the space, or one
        is NaN or infinite.
    """
    shape, dtype = (n, *(space.shape or ())), cast(Any, space.dtype)
    box = space if isinstance(space, gym.spaces.Box) else None

    def fit(actions: Any) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != shape:
            raise ValueError(f"policy: its actions have shape {actions.shape}, those of {space} have shape {shape}.")
        if isinstance(space, gym.spaces.MultiBinary) and np.isin(actions, (0, 1)).all():
            actions = actions.astype(dtype)  # SB3 gives them as floats
        if actions.dtype != dtype and not np.can_cast(actions.dtype, dtype, casting="same_kind"):
            raise ValueError(f"policy: its actions are {actions.dtype}, those of {space} are {dtype}.")
        if not np.isfinite(actions).all():
            row = int(np.argmin(np.isfinite(actions).reshape(n, -1).all(axis=1)))
            raise ValueError(
                f"policy: a NaN or infinite action, {actions[row]}. Its weights or its normaliser are broken."
            )
        return actions.astype(dtype) if box is None else clip(actions, box).astype(dtype, copy=False)

    return fit


def clip(actions: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """Actions within a Box's bounds. ``np.clip`` takes half as long again between two steps of a simulation."""
    return np.minimum(np.maximum(actions, space.low), space.high)


def inherits(instance: object, base: type, *names: str) -> bool:
    """Whether these methods of an instance of the class are the class's own."""
    return all(getattr(type(instance), name) is getattr(base, name) and name not in vars(instance) for name in names)
