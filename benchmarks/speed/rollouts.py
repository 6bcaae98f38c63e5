"""
Measure the speed of rollouts (``speed rollout``): ``evaluate_policy`` and ``collect`` against the environment alone.

The environment alone replays the same episodes in one process per core: the same resets and actions, in a plain loop of
``env.step`` in existing environments. All of them are measured in turn, so that other load affects them equally.
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

# The seed of all rollouts.
SEED = 0
# A long rollout has this many times the episodes of a short one.
LONG_FACTOR = 4


@dataclass(frozen=True)
class Throughput:
    """
    Speed of ``evaluate_policy`` or ``collect`` over all environments, as medians of the rounds.

    :param raw_steps_per_second: Speed of the environment alone.
    :param steps_per_second: Speed of a short rollout.
    :param share: Speed of a short rollout divided by that of the environment alone.
    :param start: Share of a short rollout's time that making environments and starting processes takes.
    :param steady_steps_per_second: Speed of the steps that a long rollout has beyond a short one.
    :param steady_share: That speed divided by the speed of the environment alone.
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
    Parts of a step in one process, as shares of its time.

    :param environment: Share of ``env.step``.
    :param policy: Share of ``predict``.
    :param rest: Share of gathering, checking and recording observations and actions.
    """

    environment: float
    policy: float
    rest: float


@dataclass(frozen=True)
class RolloutSpeed:
    """
    Measurements of one environment and one policy.

    :param env: Id of the environment.
    :param policy: Name of the policy.
    :param n_episodes: Number of episodes of a short rollout. A long one has four times that number.
    :param n_envs: Number of environments.
    :param n_workers: Number of processes, by default one per core.
    :param evaluate: Speed of ``evaluate_policy``, with deterministic actions.
    :param collect: Speed of ``collect``, with stochastic actions.
    :param parts: Parts of a step of ``collect``.
    :param make_ms: Milliseconds that making one environment takes.
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

    :param env: Id of the environment.
    :param policy: ``"PPO"`` or ``"SAC"`` for an untrained policy with SB3's default network (two layers of 64 or 256
        units), or anything that ``load_reference`` opens.
    :param n_episodes: Episodes of a short rollout. If None, one per environment.
    :param n_workers: Number of processes. If None, one per core.
    :param rounds: Number of rounds.
    :return: The measurements.
    """
    torch.set_num_threads(1)
    n_workers = n_workers or os.cpu_count() or 1
    n_envs = GROUP_SIZE * n_workers
    n_episodes = n_episodes or n_envs
    reference = _make_reference(env, policy)

    def evaluate(n: int) -> int:
        measured = evaluate_policy(reference, env, n, n_envs=n_envs, n_workers=n_workers, seed=SEED)
        return int(measured.episode_lengths.sum())

    def record(n: int) -> int:
        data = collect(reference, env, n, n_envs=n_envs, n_workers=n_workers, seed=SEED, progress_bar=False)
        return data.n_transitions

    evaluate(n_episodes)  # warm-up
    parts, making_seconds = [], []
    rounds_of: dict[Callable[[int], int], list[_Round]] = {evaluate: [], record: []}
    replays = {
        roll_out: _record_episodes(env, reference, n_episodes, n_envs, roll_out is evaluate) for roll_out in rounds_of
    }
    for _ in range(rounds):
        for roll_out, found in rounds_of.items():
            short, long = _timed(roll_out, n_episodes), _timed(roll_out, LONG_FACTOR * n_episodes)
            found.append(_Round(_time_replay(env, replays[roll_out], n_envs // n_workers, n_workers), short, long))
        parts.append(_time_parts(env, reference))
        making_seconds.append(_seconds_to_make(env))
    evaluated, recorded = map(_throughput, rounds_of.values())
    step_parts, make_ms = Parts(*np.median(parts, axis=0).tolist()), 1e3 * statistics.median(making_seconds)
    return RolloutSpeed(env, policy, n_episodes, n_envs, n_workers, evaluated, recorded, step_parts, make_ms)


@dataclass(frozen=True)
class _Timing:
    """
    Timing of one rollout.

    :param steps: Steps of all environments.
    :param seconds: Wall-clock time.
    """

    steps: int
    seconds: float

    @property
    def speed(self) -> float:
        return self.steps / self.seconds


@dataclass(frozen=True)
class _Round:
    """
    Timings of one round.

    :param raw: Timing of the environment alone.
    :param short: Timing of a short rollout.
    :param long: Timing of a long rollout.
    """

    raw: _Timing
    short: _Timing
    long: _Timing

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


def _timed(roll_out: Callable[[int], int], n_episodes: int) -> _Timing:
    started = time.perf_counter()
    steps = roll_out(n_episodes)
    return _Timing(steps, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class _Replay:
    """
    A recorded episode.

    :param seed: Seed with which the environment is reset.
    :param actions: (T, …) actions.
    """

    seed: int
    actions: np.ndarray


def _record_episodes(env: str, policy: Reference, n_episodes: int, n_envs: int, deterministic: bool) -> list[_Replay]:
    data = collect(policy, env, n_episodes, n_envs=n_envs, deterministic=deterministic, seed=SEED, progress_bar=False)
    starts = sorted(start for group in make_groups(n_episodes, n_envs, SEED) for start in group.starts)
    return [_Replay(seed, data[i].actions) for i, seed in starts]


def _time_replay(env: str, episodes: list[_Replay], n_envs: int, n_workers: int) -> _Timing:
    """Time the environment alone, in one process per core."""
    context = multiprocessing.get_context("spawn")
    # Each process waits for the others at the barrier, so that none of them takes two jobs.
    barrier = context.Barrier(n_workers, timeout=300)
    with ProcessPoolExecutor(n_workers, context, initializer=_set_barrier, initargs=(barrier,)) as pool:
        jobs = [pool.submit(_plain_loop, env, n_envs, episodes[i::n_workers]) for i in range(n_workers)]
        loops = [job.result() for job in jobs]
    seconds = max(ended for _, ended in loops) - min(started for started, _ in loops)
    return _Timing(sum(len(episode.actions) for episode in episodes), seconds)


_barriers: list[Any] = []


def _set_barrier(barrier: Any) -> None:
    _barriers.append(barrier)


def _plain_loop(env: str, n_envs: int, episodes: list[_Replay]) -> tuple[float, float]:
    """Replay episodes. Returns the start and the end by a clock that all processes share."""
    envs = [gym.make(env, disable_env_checker=True) for _ in range(min(n_envs, len(episodes)))]
    _barriers[0].wait()
    started = time.perf_counter()
    # One episode per environment at a time, and the environments step in turn, as in a rollout.
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


def _time_parts(env: str, policy: Reference) -> tuple[float, float, float]:
    """Time the parts of a step, for one group of environments in this process."""
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


def _make_reference(env: str, policy: str) -> Reference:
    if policy not in ("PPO", "SAC"):
        return load_reference(policy)
    made = gym.make(env, disable_env_checker=True)
    if policy == "PPO":
        return load_reference(PPO("MlpPolicy", made, seed=SEED, device="cpu"))
    return load_reference(SAC("MlpPolicy", made, seed=SEED, device="cpu", buffer_size=1))
