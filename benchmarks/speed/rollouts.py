"""
How fast policies are measured (``speed rollout``): ``evaluate_policy`` and ``collect`` against the environment.

The environment alone replays the same episodes, in one process on each core: the same resets and actions, in a plain
loop of ``env.step`` in environments that are there. What is compared is measured in turns, so that a busy machine is as
busy for all of it.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO, SAC

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids with gymnasium)
from sb3_prefine import Reference, collect, evaluate_policy, load_reference
from sb3_prefine.rollout.env_group import GROUP_SIZE, ActionSettings, GroupRunner, make_groups
from sb3_prefine.rollout.fast_predict import fast_predict

# The same for all.
SEED = 0
# What a long rollout has more of.
LONGER = 4


@dataclass(frozen=True)
class Throughput:
    """
    Steps of ``evaluate_policy`` or of ``collect``, all environments together; medians of the rounds.

    :param raw_steps_per_second: of the environment alone
    :param steps_per_second: of a whole short rollout
    :param share: of the environment's own
    :param start: of that rollout's time: what it takes longer than its steps, to make environments and start processes
    :param steady_steps_per_second: of what a long rollout has more than a short one
    :param steady_share: of the environment's own
    """

    raw_steps_per_second: float
    steps_per_second: float
    share: float
    start: float
    steady_steps_per_second: float
    steady_share: float


@dataclass(frozen=True)
class Parts:
    """
    What a step in one process is made of, as shares of its time.

    :param environment: ``env.step``
    :param policy: ``predict``
    :param rest: what gathers observations, checks both and records
    """

    environment: float
    policy: float
    rest: float


@dataclass(frozen=True)
class RolloutSpeed:
    """
    What was measured of one environment and one policy.

    :param env: its id
    :param policy: its name
    :param n_episodes: of a short rollout; a long one has four times as many
    :param n_envs: environments
    :param n_workers: processes, one for each core
    :param evaluate: ``evaluate_policy``, which acts by the mode
    :param collect: ``collect``, which samples
    :param parts: of a step of ``collect``
    :param make_ms: to make one environment, in milliseconds
    """

    env: str
    policy: str
    n_episodes: int
    n_envs: int
    n_workers: int
    evaluate: Throughput
    collect: Throughput
    parts: Parts
    make_ms: float


def measure(
    env: str, policy: str, *, n_episodes: int | None = None, n_workers: int | None = None, rounds: int = 3
) -> RolloutSpeed:
    """
    Measure one environment and one policy.

    :param env: its id
    :param policy: ``"PPO"`` or ``"SAC"`` for an untrained one with SB3's own network, two layers of 64 units and of
        256; or what ``load_reference`` opens
    :param n_episodes: of a short rollout; without it, one for each environment
    :param n_workers: processes; without it, one for each core
    :param rounds: how often each of them is measured
    """
    torch.set_num_threads(1)
    n_workers = n_workers or os.cpu_count() or 1
    n_envs = GROUP_SIZE * n_workers
    n_episodes = n_episodes or n_envs
    reference = _open(env, policy)

    def evaluate(n: int) -> int:
        measured = evaluate_policy(reference, env, n, n_envs=n_envs, n_workers=n_workers, seed=SEED)
        return int(measured.episode_lengths.sum())

    def record(n: int) -> int:
        data = collect(reference, env, n, n_envs=n_envs, n_workers=n_workers, seed=SEED, progress_bar=False)
        return data.n_transitions

    evaluate(n_episodes)  # starts what is started once
    parts, making = [], []
    runs: dict[Callable[[int], int], list[_Round]] = {evaluate: [], record: []}
    replays = {what: _recorded(env, reference, n_episodes, n_envs, what is evaluate) for what in runs}
    for _ in range(rounds):
        for what, found in runs.items():
            short, long = _timed(what, n_episodes), _timed(what, LONGER * n_episodes)
            found.append(_Round(_replay(env, replays[what], n_envs // n_workers, n_workers), short, long))
        parts.append(_parts(env, reference))
        making.append(_seconds_to_make(env))
    evaluated, recorded = map(_throughput, runs.values())
    of_a_step, make_ms = Parts(*np.median(parts, axis=0).tolist()), 1e3 * statistics.median(making)
    return RolloutSpeed(env, policy, n_episodes, n_envs, n_workers, evaluated, recorded, of_a_step, make_ms)


@dataclass(frozen=True)
class _Run:
    """
    :param steps: of all environments
    :param seconds: by the clock
    """

    steps: int
    seconds: float

    @property
    def speed(self) -> float:
        return self.steps / self.seconds


@dataclass(frozen=True)
class _Round:
    """
    :param raw: the environment alone
    :param short: a short rollout
    :param long: a long one
    """

    raw: _Run
    short: _Run
    long: _Run

    @property
    def steady(self) -> float:
        return (self.long.steps - self.short.steps) / (self.long.seconds - self.short.seconds)


def _throughput(rounds: list[_Round]) -> Throughput:
    def median(value: Callable[[_Round], float]) -> float:
        return statistics.median(map(value, rounds))

    return Throughput(
        raw_steps_per_second=round(median(lambda r: r.raw.speed)),
        steps_per_second=round(median(lambda r: r.short.speed)),
        share=median(lambda r: r.short.speed / r.raw.speed),
        start=median(lambda r: 1 - r.short.speed / r.steady),
        steady_steps_per_second=round(median(lambda r: r.steady)),
        steady_share=median(lambda r: r.steady / r.raw.speed),
    )


def _timed(roll_out: Callable[[int], int], n_episodes: int) -> _Run:
    started = time.perf_counter()
    steps = roll_out(n_episodes)
    return _Run(steps, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class _Replay:
    """
    :param seed: what the environment is reset with
    :param actions: (T, ...) what it receives
    """

    seed: int
    actions: np.ndarray


def _recorded(env: str, policy: Reference, n_episodes: int, n_envs: int, deterministic: bool) -> list[_Replay]:
    data = collect(policy, env, n_episodes, n_envs=n_envs, deterministic=deterministic, seed=SEED, progress_bar=False)
    starts = sorted(start for group in make_groups(n_episodes, n_envs, SEED) for start in group.starts)
    return [_Replay(seed, data[i].actions) for i, seed in starts]


def _replay(env: str, episodes: list[_Replay], n_envs: int, n_workers: int) -> _Run:
    """The environment alone, in a process for each core."""
    context = multiprocessing.get_context("spawn")
    # Each process waits there for the others, so that none takes the job of another.
    barrier = context.Barrier(n_workers, timeout=300)
    with ProcessPoolExecutor(n_workers, context, initializer=_meet_at, initargs=(barrier,)) as pool:
        jobs = [pool.submit(_plain_loop, env, n_envs, episodes[i::n_workers]) for i in range(n_workers)]
        loops = [job.result() for job in jobs]
    seconds = max(ended for _, ended in loops) - min(started for started, _ in loops)
    return _Run(sum(len(episode.actions) for episode in episodes), seconds)


_barriers: list[Any] = []


def _meet_at(barrier: Any) -> None:
    _barriers.append(barrier)


def _plain_loop(env: str, n_envs: int, episodes: list[_Replay]) -> tuple[float, float]:
    """When it began and when it ended, by a clock that all processes share."""
    envs = [gym.make(env, disable_env_checker=True) for _ in range(min(n_envs, len(episodes)))]
    _barriers[0].wait()
    started = time.perf_counter()
    # One of each environment's episodes at a time, step by step in turn as in a rollout.
    for first in range(0, len(episodes), len(envs)):
        pairs = list(zip(envs, episodes[first : first + len(envs)], strict=False))
        for each, episode in pairs:
            each.reset(seed=episode.seed)
        for t in range(max(len(episode.actions) for _, episode in pairs)):
            for each, episode in pairs:
                if t < len(episode.actions):
                    each.step(episode.actions[t])
    ended = time.perf_counter()
    for each in envs:
        each.close()
    return started, ended


def _parts(env: str, policy: Reference) -> tuple[float, float, float]:
    """Of one group in this process."""
    group = make_groups(2 * GROUP_SIZE, 2 * GROUP_SIZE, SEED)[0]
    timed = _TimedPolicy(policy)
    envs = [_TimedEnv(gym.make(env, disable_env_checker=True)) for _ in range(group.n_envs)]
    runner = GroupRunner(envs, group, ActionSettings(timed, False, None, 100_000))
    started = time.perf_counter()
    for _ in runner.steps():
        pass
    seconds = time.perf_counter() - started
    for each in envs:
        each.close()
    environment = sum(each.seconds for each in envs)
    return environment / seconds, timed.seconds / seconds, 1 - (environment + timed.seconds) / seconds


def _seconds_to_make(env: str) -> float:
    started = time.perf_counter()
    gym.make(env, disable_env_checker=True).close()
    return time.perf_counter() - started


class _TimedEnv(gym.Wrapper):
    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.seconds = 0.0

    def step(self, action: Any) -> Any:
        started = time.perf_counter()
        found = self.env.step(action)
        self.seconds += time.perf_counter() - started
        return found


class _TimedPolicy:
    def __init__(self, policy: Reference):
        self._predict = fast_predict(policy)
        self.seconds = 0.0

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = self._predict(*args, **kwargs)
        self.seconds += time.perf_counter() - started
        return found


def _open(env: str, policy: str) -> Reference:
    if policy not in ("PPO", "SAC"):
        return load_reference(policy)
    made = gym.make(env, disable_env_checker=True)
    if policy == "PPO":
        return load_reference(PPO("MlpPolicy", made, seed=SEED, device="cpu"))
    return load_reference(SAC("MlpPolicy", made, seed=SEED, device="cpu", buffer_size=1))
