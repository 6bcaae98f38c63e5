"""
How fast policies are measured (``speed.py rollout``): ``evaluate_policy`` and ``collect`` against the environment.

The environment itself is a plain loop of ``env.step`` with random actions, in one process on each core. What is
compared is measured in turns, so that a busy machine is as busy for all of it. Processes that wait for each other
suffer more from others than a plain loop does: where the cores are taken, the processor time in one process says more
than the clock.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3 import PPO, SAC

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids with gymnasium)
from sb3_prefine import Reference, collect, evaluate_policy, load_reference

# With SB3's own networks: two layers of 64 units, and of 256.
Algorithm = Literal["PPO", "SAC"]
# Random actions that the plain loop takes in turns.
N_ACTIONS = 256


@dataclass(frozen=True)
class Throughput:
    """
    Steps of ``evaluate_policy`` or of ``collect``, and what they take.

    :param steps_per_second: of all environments together, the start of the processes included; the median of the rounds
    :param share: of the environment's own, by the same clock
    :param cpu_us: processor time of a step in one process, in microseconds
    :param share_in_one_process: of it that is the environment's own
    """

    steps_per_second: float
    share: float
    cpu_us: float
    share_in_one_process: float


@dataclass(frozen=True)
class RolloutSpeed:
    """
    What was measured of one environment and one kind of policy.

    :param env: its id
    :param algorithm: whose policy it is, untrained
    :param n_envs: environments that are stepped together
    :param n_workers: processes, one for each core
    :param raw_steps_per_second: of the environment itself, in a plain loop on each core; the median of the rounds
    :param raw_cpu_us: processor time of one of those steps, in microseconds
    :param evaluate: ``evaluate_policy``, which acts by the mode
    :param collect: ``collect``, which samples
    """

    env: str
    algorithm: Algorithm
    n_envs: int
    n_workers: int
    raw_steps_per_second: float
    raw_cpu_us: float
    evaluate: Throughput
    collect: Throughput


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
    :param n_workers: processes; without it, one for each core
    :param rounds: how often each of them is measured
    """
    torch.set_num_threads(1)
    n_workers = n_workers or os.cpu_count() or 1
    policy = _policy(env, algorithm)

    def evaluate(workers: int) -> int:
        return int(evaluate_policy(policy, env, n_episodes, n_envs=n_envs, n_workers=workers).episode_lengths.sum())

    def record(workers: int) -> int:
        data = collect(policy, env, n_episodes, n_envs=n_envs, n_workers=workers, progress_bar=False)
        return data.n_transitions

    raw: list[_Run] = []
    one: dict[Callable[[int], int], list[_Run]] = {evaluate: [], record: []}
    all_: dict[Callable[[int], int], list[_Run]] = {evaluate: [], record: []}
    evaluate(n_workers)  # starts what is started once
    for _ in range(rounds):
        for roll_out in (evaluate, record):
            one[roll_out].append(_timed(roll_out, 1))
            all_[roll_out].append(_timed(roll_out, n_workers))
        raw.append(_plain_loops(env, n_envs, n_workers, all_[evaluate][-1].steps))

    raw_speed = _median(raw, lambda run: run.steps / run.seconds)
    raw_cpu = _median(raw, lambda run: run.cpu_seconds / run.steps)

    def throughput(roll_out: Callable[[int], int]) -> Throughput:
        speed = _median(all_[roll_out], lambda run: run.steps / run.seconds)
        cpu = _median(one[roll_out], lambda run: run.cpu_seconds / run.steps)
        return Throughput(round(speed), speed / raw_speed, cpu * 1e6, raw_cpu / cpu)

    return RolloutSpeed(
        env, algorithm, n_envs, n_workers, round(raw_speed), raw_cpu * 1e6, throughput(evaluate), throughput(record)
    )


@dataclass(frozen=True)
class _Run:
    """
    :param steps: of all environments
    :param seconds: by the clock
    :param cpu_seconds: of the processes that count
    """

    steps: int
    seconds: float
    cpu_seconds: float


def _timed(roll_out: Callable[[int], int], workers: int) -> _Run:
    started, cpu_started = time.perf_counter(), time.process_time()
    steps = roll_out(workers)
    return _Run(steps, time.perf_counter() - started, time.process_time() - cpu_started)


def _plain_loops(env: str, n_envs: int, n_workers: int, steps: int) -> _Run:
    """Steps of the environment itself, in a process for each core."""
    context = multiprocessing.get_context("spawn")
    job = (env, max(1, n_envs // n_workers), max(1, steps // n_workers))
    # Each process waits there for the others, so that none takes the job of another.
    barrier = context.Barrier(n_workers, timeout=300)
    with ProcessPoolExecutor(n_workers, context, initializer=_meet_at, initargs=(barrier,)) as pool:
        loops = [future.result() for future in [pool.submit(_plain_loop, *job, seed) for seed in range(n_workers)]]
    seconds = max(loop.ended for loop in loops) - min(loop.started for loop in loops)
    return _Run(sum(loop.steps for loop in loops), seconds, sum(loop.cpu_seconds for loop in loops))


@dataclass(frozen=True)
class _Loop:
    """
    :param steps: of all environments of the process
    :param started: by a clock that all processes share
    :param ended: by the same
    :param cpu_seconds: of the process
    """

    steps: int
    started: float
    ended: float
    cpu_seconds: float


_barriers: list[Any] = []


def _meet_at(barrier: Any) -> None:
    _barriers.append(barrier)


def _plain_loop(env: str, n_envs: int, steps: int, seed: int) -> _Loop:
    envs = [gym.make(env, disable_env_checker=True) for _ in range(n_envs)]
    space = envs[0].action_space
    space.seed(seed)
    actions = [space.sample() for _ in range(N_ACTIONS)]
    for number, each in enumerate(envs):
        each.reset(seed=seed * n_envs + number)
    rounds = max(1, steps // n_envs)
    _barriers[0].wait()
    started, cpu_started = time.perf_counter(), time.process_time()
    for i in range(rounds):
        for number, each in enumerate(envs):
            _, _, terminated, truncated, _ = each.step(actions[(i + 7 * number) % N_ACTIONS])
            if terminated or truncated:
                each.reset()
    loop = _Loop(rounds * n_envs, started, time.perf_counter(), time.process_time() - cpu_started)
    for each in envs:
        each.close()
    return loop


def _policy(env: str, algorithm: Algorithm) -> Reference:
    made = gym.make(env, disable_env_checker=True)
    if algorithm == "PPO":
        return load_reference(PPO("MlpPolicy", made, seed=0, device="cpu"))
    return load_reference(SAC("MlpPolicy", made, seed=0, device="cpu", buffer_size=1))


def _median(runs: list[_Run], value: Callable[[_Run], float]) -> float:
    return statistics.median(map(value, runs))
