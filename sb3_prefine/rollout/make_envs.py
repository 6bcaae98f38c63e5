"""Make the environments of a rollout from an id, a callable, an environment or a ``DummyVecEnv``."""

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

# Wrappers that may be removed: policies take raw observations here, and rewards are measured raw.
_TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan, VecTransposeImage)


def open_envs(
    source: EnvSource, n_envs: int, stack: contextlib.ExitStack, wrap_env: WrapEnv | None
) -> Iterator[gym.Env]:
    """
    Iterate over environments, and make each one when the iterator reaches it.

    :param source: An id, a callable, an environment or a ``DummyVecEnv``.
    :param n_envs: Number of environments to make, or the most to take from a ``DummyVecEnv``.
    :param stack: Exit stack that closes the environments made here.
    :param wrap_env: Function that wraps each environment, or None.
    :raises TypeError: If the source is of another kind, or a callable does not return an environment.
    :raises ValueError: If an id is unknown, or a callable returns the same environment twice.
    """
    if isinstance(source, VecEnv):
        envs = iter(_inner_envs(source)[:n_envs])
    elif isinstance(source, gym.Env):
        envs = iter([source])
    else:
        envs = _make_envs(source, n_envs, stack)
    for env in envs:
        yield env if wrap_env is None else wrap_env(env)


def count_envs(source: EnvSource, n_envs: int) -> int:
    """
    Number of environments that a source gives.

    :param source: The argument of :func:`open_envs`.
    :param n_envs: Number of environments to make, if the source makes them.
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
            raise ValueError(
                "env: the callable returned the same environment twice. It has to make a new one each time."
            )
        made.append(env)
        stack.callback(env.close)
        yield env


def _make_env(source: str | EnvSpec | Callable[[], gym.Env]) -> gym.Env:
    if isinstance(source, str | EnvSpec):
        try:
            # The checker would take time in every step.
            return gym.make(source, disable_env_checker=True)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(
                f"env: gymnasium knows no environment {source!r} ({error}) If a package of yours registers it, import "
                "that package first."
            ) from error
    if not callable(source):
        raise TypeError(
            f"env: {type(source).__name__} stands for no environment. Pass an environment id, a callable that "
            "returns a gymnasium.Env, a gymnasium.Env, or a DummyVecEnv."
        )
    env = source()
    if not isinstance(env, gym.Env):
        raise TypeError(f"env: the callable returned a {type(env).__name__}. Let it return a gymnasium.Env.")
    return env


def _inner_envs(vec_env: VecEnv) -> list[gym.Env]:
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, _TRANSPARENT_WRAPPERS):
            raise TypeError(
                f"env: {type(vec_env).__name__} changes observations or rewards, and a rollout does not apply it. "
                "Pass the id, or a callable that returns the environment with gymnasium wrappers."
            )
        vec_env = vec_env.venv
    if not isinstance(vec_env, DummyVecEnv):
        raise TypeError(
            f"env: the environments of a {type(vec_env).__name__} cannot be stepped from here. Pass the id or a "
            "callable that returns a gymnasium.Env."
        )
    return vec_env.envs
