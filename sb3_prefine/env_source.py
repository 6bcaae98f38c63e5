"""The environments that an id, a callable, an environment or a ``DummyVecEnv`` stands for."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids with gymnasium)

EnvSource: TypeAlias = str | Callable[[], gym.Env] | gym.Env | VecEnv
# What new environments can be made of.
EnvMaker: TypeAlias = str | EnvSpec | Callable[[], gym.Env]
WrapEnv: TypeAlias = Callable[[gym.Env], gym.Env]

# Wrappers that may be taken off: the policies here take raw observations, and rewards are measured raw.
_TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan, VecTransposeImage)


def open_envs(env: EnvSource, n_envs: int, stack: contextlib.ExitStack, wrap_env: WrapEnv | None) -> list[gym.Env]:
    """
    The environments that an argument stands for.

    :param env: The argument.
    :param n_envs: How many to make of an id or a callable.
    :param stack: Closes those that are made here.
    :param wrap_env: Wraps each of them; None leaves them as they are.
    :raises TypeError: If it stands for none.
    :raises ValueError: If an id is unknown, or a callable returns the same environment again.
    """
    if isinstance(env, VecEnv):
        envs = _inner_envs(env)
    elif isinstance(env, gym.Env):
        envs = [env]
    else:
        return list(make_envs(env, n_envs, stack, wrap_env))
    return envs if wrap_env is None else [wrap_env(e) for e in envs]


def make_envs(
    source: EnvMaker, n_envs: int, stack: contextlib.ExitStack, wrap_env: WrapEnv | None
) -> Iterator[gym.Env]:
    """
    New environments, each made when it is asked for.

    :param source: What to make them of.
    :param n_envs: How many.
    :param stack: Closes them.
    :param wrap_env: Wraps each of them; None leaves them as they are.
    :raises TypeError: If the callable returns something else.
    :raises ValueError: If the id is unknown, or the callable returns the same environment again.
    """
    made: list[gym.Env] = []
    for _ in range(n_envs):
        env = _make_env(source)
        if any(env is other for other in made):
            raise ValueError("env: the callable returned one environment twice. It has to make a new one each time.")
        made.append(env)
        stack.callback(env.close)
        yield env if wrap_env is None else wrap_env(env)


def _make_env(source: EnvMaker) -> gym.Env:
    if isinstance(source, str | EnvSpec):
        try:
            # The checker costs time at every step.
            return gym.make(source, disable_env_checker=True)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(
                f"env: gymnasium knows no environment {source!r} ({error}) If a package of yours registers it, import "
                "that package first."
            ) from error
    if not callable(source):
        raise TypeError(
            f"env: {type(source).__name__} is neither an environment id, a callable that returns a gymnasium.Env, a "
            "gymnasium.Env, nor a DummyVecEnv."
        )
    env = source()
    if not isinstance(env, gym.Env):
        raise TypeError(f"env: the callable returned a {type(env).__name__}, not a gymnasium.Env.")
    return env


def _inner_envs(vec_env: VecEnv) -> list[gym.Env]:
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, _TRANSPARENT_WRAPPERS):
            raise TypeError(
                f"env: {type(vec_env).__name__} changes what the policy sees or what is measured, and is not applied "
                "here. Pass the id, or a callable that returns the environment with gymnasium wrappers."
            )
        vec_env = vec_env.venv
    if not isinstance(vec_env, DummyVecEnv):
        raise TypeError(
            f"env: the environments of a {type(vec_env).__name__} cannot be stepped from here. Pass the id or a "
            "callable that returns a gymnasium.Env."
        )
    return vec_env.envs
