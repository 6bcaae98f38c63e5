"""The twelve environments of the paper, and what the two packages register themselves."""

import importlib
import sys
from collections.abc import Iterable

import gymnasium
import numpy as np

VELOCITY = tuple(f"Safety{robot}Velocity-v1" for robot in ("Ant", "HalfCheetah", "Hopper", "Swimmer", "Walker2d"))
NAVIGATION = ("SafetyPointGoal1-v0", "SafetyCarGoal1-v0")
BULLET = tuple(f"Safety{task}-v0" for task in ("BallRun", "BallCircle", "CarRun", "CarCircle", "DroneRun"))
PAPER = VELOCITY + NAVIGATION + BULLET


def own_registrations(package: str) -> dict[str, gymnasium.envs.registration.EnvSpec]:
    """Run a package's ``__init__`` as if sb3-prefine were not installed, and return what it registers."""
    module = importlib.import_module(package)
    before, finders = dict(gymnasium.registry), list(sys.meta_path)
    gymnasium.registry.clear()
    sys.meta_path[:] = [finder for finder in finders if not type(finder).__module__.startswith("sb3_prefine")]
    try:
        importlib.reload(module)
        return dict(gymnasium.registry)
    finally:
        sys.meta_path[:] = finders
        gymnasium.registry.clear()
        gymnasium.registry.update(before)


def actions(env: gymnasium.Env, n: int, seed: int = 0) -> np.ndarray:
    """``n`` random actions, n x action size."""
    rng, space = np.random.default_rng(seed), env.action_space
    return rng.uniform(space.low, space.high, (n, *space.shape)).astype(space.dtype)


def play(env: gymnasium.Env, actions: Iterable[np.ndarray], seed: int | None) -> np.ndarray:
    """One episode as rows of observation, reward, cost, terminated and truncated; the reset is the first row."""
    rows = [np.append(env.reset(seed=seed)[0], [0.0, 0.0, False, False])]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        rows.append(np.append(observation, [reward, info["cost"], terminated, truncated]))
        if terminated or truncated:
            break
    return np.array(rows)
