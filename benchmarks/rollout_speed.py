"""
How fast policies are measured: ``evaluate_policy`` and ``collect`` against the environment itself.

    python benchmarks/rollout_speed.py --algorithm SAC --n-envs 32

The environment itself is a plain loop of ``env.step`` with random actions, in one process on each core. What is
compared is taken in turns, so that a busy machine is as busy for all of it.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO, SAC

from sb3_prefine import Reference, collect, evaluate_policy, load_reference

# SB3's own networks: 2 layers of 64, and of 256.
Algorithm = Literal["PPO", "SAC"]
# Random actions that the plain loop takes in turns.
_N_ACTIONS = 256
_WARM_UP = 50


@dataclass(frozen=True)
class Costs:
    """
    What a step of one environment takes.

    :param steps_per_second: of all environments together, by the clock on the wall; the median of the rounds
    :param share: of what the environment itself does on all cores, by the same clock
    :param cpu_us: microseconds of processor time, in one process
    :param busy_us: microseconds of processor time of the process that the policy acts in, while ``n_workers`` step:
        nothing can be faster than this
    :param possible_share: the share if the cores had nothing else to do, by ``busy_us``
    """

    steps_per_second: float
    share: float
    cpu_us: float
    busy_us: float
    possible_share: float


@dataclass(frozen=True)
class RolloutSpeed:
    """
    The speed of one environment and one kind of policy.

    :param env: its id
    :param algorithm: whose policy it was, untrained
    :param n_envs: environments that were stepped together
    :param n_workers: processes, and cores
    :param raw_steps_per_second: of the environment itself, on all cores; the median of the rounds
    :param raw_cpu_us: microseconds of processor time of one of its steps
    :param evaluate: ``evaluate_policy``, by the policy's mode, the start of the processes included
    :param collect: ``collect``, sampling, the same
    """

    env: str
    algorithm: Algorithm
    n_envs: int
    n_workers: int
    raw_steps_per_second: float
    raw_cpu_us: float
    evaluate: Costs
    collect: Costs


def measure(
    env: str = "SpeedLimitHalfCheetah-v0",
    algorithm: Algorithm = "PPO",
    *,
    n_episodes: int = 32,
    n_envs: int = 16,
    n_workers: int | None = None,
    rounds: int = 3,
) -> RolloutSpeed:
    """
    Measure one environment and one kind of policy.

    :param env: its id
    :param algorithm: whose policy acts
    :param n_episodes: of each evaluation and each collection
    :param n_envs: environments to step together
    :param n_workers: processes; None is one for each core
    :param rounds: how often each thing is measured
    """
    torch.set_num_threads(1)
    cores = n_workers or os.cpu_count() or 1
    reference = _policy(env, algorithm)
    raw: list[_Run] = []
    runs: dict[tuple[str, int], list[_Run]] = {}
    for _ in range(rounds):
        raw.append(_plain_loops(env, n_envs, cores, raw_steps(reference, env, n_episodes)))
        for name, roll_out in (("evaluate", _evaluate), ("collect", _collect)):
            for workers in sorted({1, cores}):
                took = _timed(lambda f=roll_out, w=workers: f(reference, env, n_episodes, n_envs, w))
                runs.setdefault((name, workers), []).append(took)
