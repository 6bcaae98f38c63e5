"""Roll a policy out: it acts in environments, and whole episodes come out."""

import contextlib
import itertools
import operator
import warnings
from collections import deque
from collections.abc import Iterator
from typing import cast

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv
from tqdm.auto import tqdm

from sb3_prefine.rollout.env_group import GROUP_SIZE, ActionSettings, ActionTransform, Group, GroupRunner, make_groups
from sb3_prefine.rollout.episode import Episode
from sb3_prefine.rollout.make_envs import EnvSource, WrapEnv, count_envs, open_envs
from sb3_prefine.rollout.predictor import PolicyLike, open_policy
from sb3_prefine.rollout.workers import Workers, pickle_job
from sb3_prefine.utils.randomness import IsolatedRandomState
from sb3_prefine.utils.threads import one_thread

# A longer episode is taken for one that never ends, unless the environment's own time limit is longer.
MAX_EPISODE_STEPS = 100_000


def generate_episodes(
    policy: PolicyLike,
    env: EnvSource,
    n_episodes: int,
    *,
    n_envs: int = 32,
    n_workers: int = 1,
    deterministic: bool,
    seed: int,
    action_transform: ActionTransform | None = None,
) -> Iterator[Episode]:
    """
    Run a policy for ``n_episodes`` episodes and yield each one as it finishes.

    The environments are stepped in groups of up to 16, with one batched ``predict`` per group and step. Every episode
    starts once, with its own seed, and runs to its end, so that short episodes are not over-represented (the bias of
    https://github.com/DLR-RM/stable-baselines3/issues/402). The same arguments give the same episodes for every
    ``n_workers``. The caller's random states (torch, numpy, random) are restored.

    With several workers, one process runs each group, with its own copy of the policy. No process waits for another:
    this one runs groups while the others start. As in SB3's ``SubprocVecEnv``, the processes are not forked, so a
    script that uses them needs ``if __name__ == "__main__":`` around its code. A process takes a fraction of a second
    to start, the first one some seconds. Policies act on one torch thread, in this process too.

    :param policy: Any object with SB3's ``predict``. :func:`~sb3_prefine.load_reference` opens an SB3 model, or the
        path of a zip or an RL-Zoo folder, so that a missing observation normaliser is an error.
    :param env: An id, a callable that returns a new environment, an environment (which is then the only one, whatever
        ``n_envs`` is), or a ``DummyVecEnv`` (whose environments are used without SB3's wrappers). Pass it without the
        env wrappers that the policy was trained behind: the policy's ``wrap_env`` applies them. Environments made here
        are closed at the end. Those passed in stay open, and lose the episode that they were in.
    :param n_episodes: Number of episodes.
    :param n_envs: Number of environments to make for an id or a callable, at most ``n_episodes``. For fast
        environments, 16 for each worker take the least time per step.
    :param n_workers: Number of processes, this one included: at most one for each 16 environments, two for 12 to 32,
        one for fewer. Several processes need an id or a callable. They receive it, the policy and the
        ``action_transform`` by cloudpickle, so lambdas work too, and each process has its own copy of their state.
    :param deterministic: Whether to use deterministic or stochastic actions.
    :param seed: Seed of the rollout. The seed with which episode i is reset depends on ``seed`` and i alone.
    :param action_transform: Function of each (n, ...) batch of a group's actions, before they are clipped.
    :return: Episodes in the order in which they finish. ``Episode.index`` is their number.
    :raises TypeError: If the policy or the environment is not one of those named above, or cannot be pickled.
    :raises ValueError: If the id is unknown, a number is out of its range, an observation, action or reward is NaN or
        infinite or does not fit its space, or the environment cannot be shared between processes.
    :raises RuntimeError: If an episode does not end within 100,000 steps, or a worker process is killed.
    """
    n_episodes = _positive("n_episodes", n_episodes)
    n_envs = _positive("n_envs", n_envs)
    n_workers = _positive("n_workers", n_workers)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative. Pass 0 or more.")
    if n_workers > 1 and isinstance(env, gym.Env | VecEnv):
        raise ValueError(
            f"n_workers: {n_workers} processes cannot share an existing {type(env).__name__}. Pass its id "
            "or a callable that returns a new environment as env, or leave n_workers at 1."
        )
    n_envs = min(count_envs(env, n_envs), n_episodes)
    todo = deque(make_groups(n_episodes, n_envs, seed))
    if n_workers > len(todo):
        warnings.warn(
            f"n_workers: n_envs={n_envs} keeps {len(todo)} of {n_workers} processes busy. Use n_envs="
            f"{GROUP_SIZE * n_workers} and n_episodes >= n_envs to keep all of them busy.",
            stacklevel=2,
        )
        n_workers = len(todo)

    with contextlib.ExitStack() as stack:
        with IsolatedRandomState(seed):  # opening builds networks, which draws initial weights
            settings = ActionSettings(open_policy(policy), deterministic, action_transform, MAX_EPISODE_STEPS)
        envs = open_envs(env, n_envs, stack, _env_wrapper_of(settings.policy))
        workers = Workers(todo)
        stack.callback(workers.close)

        group = todo.popleft()
        randomness = IsolatedRandomState(group.seed)
        with randomness:
            first = next(envs)
        if n_workers > 1:
            workers.start(n_workers, pickle_job(env, first, settings))
        yield from _run_group(group, itertools.chain([first], envs), settings, randomness, workers)
        while todo:
            group = todo.popleft()
            yield from _run_group(group, envs, settings, IsolatedRandomState(group.seed), workers)
        while workers.busy:
            yield from workers.receive(wait=True)


def _run_group(
    group: Group, envs: Iterator[gym.Env], settings: ActionSettings, randomness: IsolatedRandomState, workers: Workers
) -> Iterator[Episode]:
    """Run a group in this process. Yields its episodes, and those of other processes, as they finish."""
    made: list[gym.Env] = []
    finished: list[Episode] = []
    with randomness, one_thread():
        for env in itertools.islice(envs, group.n_envs):
            made.append(env)
            finished += (
                workers.receive()
            )  # gives a ready process its first group before the other environments are made
        runner = GroupRunner(made, group, settings)
    yield from finished
    while runner.running:
        finished = []
        with randomness, one_thread():
            for ended in runner.steps():
                finished = ended + workers.receive()
                if finished:
                    break
        # Outside of this random state: between two episodes the caller's code runs.
        yield from finished


def show_progress(episodes: Iterator[Episode], n_episodes: int, progress_bar: bool) -> Iterator[Episode]:
    """
    Iterate over episodes with a progress bar that shows the mean return and cost so far.

    :param episodes: Episodes from :func:`generate_episodes`.
    :param n_episodes: Number of these episodes.
    :param progress_bar: Whether to show the bar.
    :return: The same episodes.
    """
    total_reward = total_cost = 0.0
    with tqdm(total=n_episodes, unit="episode", disable=not progress_bar) as bar:
        for count, episode in enumerate(episodes, start=1):
            total_reward += float(episode.rewards.sum())
            total_cost += float(episode.costs.sum())
            cost = "unknown" if np.isnan(total_cost) else f"{total_cost / count:,.1f}"
            bar.set_postfix_str(f"return {total_reward / count:,.1f}, cost {cost}", refresh=False)
            bar.update()
            yield episode


def _env_wrapper_of(policy: PolicyPredictor) -> WrapEnv:
    """A function that puts the policy's env wrappers around an environment, and checks the observations."""
    wrap_env = getattr(policy, "wrap_env", None)

    def wrap(unwrapped: gym.Env) -> gym.Env:
        wrapped = unwrapped if wrap_env is None else wrap_env(unwrapped)
        _check_observations(getattr(policy, "observation_space", None), wrapped.observation_space)
        return wrapped

    return wrap


def _check_observations(expected: gym.Space | None, found: gym.Space) -> None:
    """Refuse observation vectors whose length the policy does not expect, before the first step."""
    spaces = (expected, found)
    if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
        return
    if cast(gym.Space, expected).shape != found.shape:
        raise ValueError(
            f"env: its observations have shape {found.shape}, the policy expects {cast(gym.Space, expected).shape}. "
            "If the policy was trained behind an env wrapper (a TimeFeatureWrapper adds one number), open it with the "
            "config.yml beside it, which names the wrapper, or wrap the environment yourself. Do not wrap an "
            "environment twice."
        )


def _positive(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}: {number} is not positive. Pass a whole number of at least 1.")
    return number
