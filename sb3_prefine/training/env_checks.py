"""Checks of the environment of a model, which training does not use: callbacks and ``get_env()`` do."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_prefine.reference.reference import Reference


def make_env(env: GymEnv | str | None, reference: Reference) -> GymEnv | None:
    """
    Make the environment that SB3's constructor takes.

    :param env: An id, which gets the reference's env wrappers; an environment; or None.
    :param reference: The reference.
    :return: The environment, or None.
    :raises ValueError: If the environment normalises observations, which the model does itself.
    """
    if isinstance(env, str):
        # This registers the Safety* ids, which only an id needs.
        import sb3_prefine.envs  # noqa: F401

        return reference.wrap_env(gym.make(env, render_mode="rgb_array"))
    if env is not None:
        refuse_normalized(env)
    return env


def check_env(env: VecEnv, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse an environment whose spaces differ from the policy's.

    Bounds and dtype of a Box may differ. They change between versions of an environment (float32 became float64),
    while a policy's spaces stay as they were saved.

    :param env: The environment.
    :param observation_space: The policy's observation space.
    :param action_space: The policy's action space.
    :raises ValueError: If a space differs in kind or shape.
    """
    for name, expected, found in (
        ("observation_space", observation_space, env.observation_space),
        ("action_space", action_space, env.action_space),
    ):
        if isinstance(expected, spaces.Box) and isinstance(found, spaces.Box):
            fits = expected.shape == found.shape
        else:
            fits = expected == found
        if not fits:
            raise ValueError(
                f"env: its {name} is {found}, the policy's is {expected}. Pass the environment that the policy was "
                "trained in, with the same wrappers."
            )


def check_actions(action_space: spaces.Space) -> None:
    """
    Refuse continuous actions without bounds, as SB3 does if there is an environment.

    :param action_space: The policy's action space.
    :raises ValueError: If a bound is infinite.
    """
    if isinstance(action_space, spaces.Box) and not np.isfinite([action_space.low, action_space.high]).all():
        raise ValueError(f"policy: its action_space {action_space} has to have finite bounds. Pass one with bounds.")


def refuse_normalized(env: GymEnv) -> None:
    """
    Refuse an environment that normalises observations, because the model does so itself.

    :param env: The environment.
    :raises ValueError: If it is wrapped in ``VecNormalize``.
    """
    if isinstance(env, VecEnv) and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "env: it is wrapped in VecNormalize, and the model normalises observations itself. Pass the env inside it."
        )
