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

EnvSource: TypeAlias = str | EnvSpec | Callable[[], gym.Env] | gym.Env | VecEnv
WrapEnv: TypeAlias = Callable[[gym.Env], gym.Env]

# Wrappers that may be taken off: the policies here take raw observations, and rewards are measured raw.
_TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan, VecTransposeImage)


def open_envs(
    source: EnvSource, n_envs: int, stack: contextlib.ExitStack, wrap_env: WrapEnv | None
) -> Iterator[gym.Env]:
    """
    The environments that an argument stands for, each made when it is asked for.

    :param source: The argument.
    :param n_envs: How many; of environments that are there already, at most.
    :param stack: Closes those that are made here.
    :param wrap_env: Wraps each of them; None leaves them as they are.
    :raises TypeError: If it stands for none, or a callable returns something else.
    :raises ValueError: If an id is unknown, or a callable returns the same environment again.
    """
    if isinstance(source, VecEnv):
        envs = iter(_inner_envs(source)[:n_envs])
    elif isinstance(source, gym.Env):
        envs = iter([source])
    else:
        envs = _make_envs(source, n_envs, stack)
    for env in envs:
        yield env if wrap_env is None else wrap_env(env)


def n_at_once(source: EnvSource, n_envs: int) -> int:
    """
    How many environments there can be.

    :param source: As in :func:`open_envs`.
    :param n_envs: How many are wanted, where they are made.
    """
    if isinstance(source, VecEnv):
        return source.num_envs
    return 1 if isinstance(source, gym.Env) else n_envs


def _make_envs(
    source: str | EnvSpec | Callable[[], gym.Env], n_envs: int, stack: contextlib.ExitStack
) -> Iterator[gym.Env]:
    made: list[gym.Env] = []
    for _ in range(n_envs):
        env = _make_env(source)
        if any(env is other for other in made):
            raise ValueError("env: the callable returned one environment twice. It has to make a new one each time.")
        made.append(env)
        stack.callback(env.close)
        yield env


def _make_env(source: str | EnvSpec | Callable[[], gym.Env]) -> gym.Env:
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
