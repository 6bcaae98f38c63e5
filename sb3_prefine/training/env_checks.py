"""The environment of a model that trains without one: whether it fits, for callbacks and ``get_env()``."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_prefine.reference.reference import Reference


def make_env(env: GymEnv | str | None, reference: Reference) -> GymEnv | None:
    """
    What SB3's constructor makes its vectorised environment of.

    :param env: an id (then the reference's env wrappers are applied), an environment, or None
    :raises ValueError: it normalises observations, which the model does itself
    """
    if isinstance(env, str):
        import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids, which only an id needs)

        return reference.wrap_env(gym.make(env, render_mode="rgb_array"))
    if env is not None:
        refuse_normalized(env)
    return env


def check_env(env: VecEnv, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse an environment of other spaces than a policy's.

    Bounds and dtype of a Box may differ: those of an environment change between its versions (float32 became float64),
    while a policy's stay as they were saved.

    :raises ValueError: the kind or the shape of a space differs
    """
    for name, own, found in (
        ("observation_space", observation_space, env.observation_space),
        ("action_space", action_space, env.action_space),
    ):
        same = (
            own.shape == found.shape if isinstance(own, spaces.Box) and isinstance(found, spaces.Box) else own == found
        )
        if not same:
            raise ValueError(
                f"env: its {name} is {found}, the policy's is {own}. Give the environment that the policy was trained "
                "on, behind the same wrappers."
            )


def check_actions(action_space: spaces.Space) -> None:
    """
    Refuse continuous actions without bounds, as SB3 does where there is an environment.

    :raises ValueError: a bound is infinite
    """
    if isinstance(action_space, spaces.Box) and not np.isfinite([action_space.low, action_space.high]).all():
        raise ValueError(f"policy: its action_space {action_space} has to have finite bounds. Give it a bounded one.")


def refuse_normalized(env: GymEnv) -> None:
    """:raises ValueError: the environment normalises observations, which the model does itself"""
    if isinstance(env, VecEnv) and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "env: it is wrapped in VecNormalize, and the model normalises observations itself. Give the env inside it."
        )
