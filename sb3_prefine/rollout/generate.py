"""Rolling a policy out: it acts in environments, whole episodes come out."""

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
from sb3_prefine.rollout.make_envs import EnvSource, WrapEnv, n_at_once, open_envs
from sb3_prefine.rollout.predictor import PolicyLike, open_policy
from sb3_prefine.rollout.workers import Workers, pickle_job
from sb3_prefine.utils.randomness import OwnRandomState
from sb3_prefine.utils.threads import one_thread

# An episode this long is taken for one that never ends, unless the environment's own time limit is longer.
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

    The environments are stepped in groups of up to 16, each with one batched ``predict`` a step. Every episode is
    started once, with its own seed, and run to its end, so that short episodes are not over-represented (the bias of
    https://github.com/DLR-RM/stable-baselines3/issues/402). The same arguments give the same episodes, whatever
    ``n_workers``. The caller's random states (torch, numpy, random) are left as they were.

    With several workers each group is run by one process, which acts for itself. Nobody waits for the others: this
    process runs groups while they start. They are started, not forked, as in SB3's ``SubprocVecEnv``: a script that
    uses them needs ``if __name__ == "__main__":`` around what it does. A process takes a fraction of a second to start,
    the first one some seconds. Policies act on one thread of torch, in this process too.

    :param policy: Anything with SB3's ``predict``. An SB3 model, or the path of a zip or an RL-Zoo folder, is opened
        by :func:`~sb3_prefine.load_reference`, so that a missing observation normaliser is an error.
    :param env: An id, a callable that returns a new environment, an environment (then there is only this one,
        whatever ``n_envs``), or a ``DummyVecEnv`` (then its environments are used, without SB3's wrappers). Without
        the env wrappers that the policy was trained behind: its ``wrap_env`` applies them here. What is made here is
        closed at the end; what was passed in is not, and an episode it was in is lost.
    :param n_episodes: How many episodes to run.
    :param n_envs: How many environments to make for an id or a callable, ``n_episodes`` at most. Where they are fast,
        16 for each worker take the least time a step.
    :param n_workers: How many processes step them, this one included: one for each 16 environments at most, two for
        12 to 32, one for fewer. More than one needs an id or a callable, and sends it, the policy and the
        ``action_transform`` to the others (by cloudpickle, which takes lambdas too): what these remember, they remember
        in each process for itself.
    :param deterministic: Whether the policy acts by its mode instead of sampling.
    :param seed: Episode i is reset with a seed that depends on ``seed`` and i alone.
    :param action_transform: Called on each (n, ...) batch of a group's actions before they are clipped to their bounds.
    :return: Episodes in the order in which they finish; ``Episode.index`` has their number.
    :raises TypeError: If the policy or the environment is not one of those named above, or cannot be sent.
    :raises ValueError: If the id is unknown, a number is out of range, an observation, action or reward is NaN or
        infinite or does not fit its space, or the environment cannot be in several processes.
    :raises RuntimeError: If an episode does not end within 100,000 steps, or a worker process is killed.
    """
    n_episodes = _positive("n_episodes", n_episodes)
    n_envs = _positive("n_envs", n_envs)
    n_workers = _positive("n_workers", n_workers)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative. Pass 0 or more.")
    if n_workers > 1 and isinstance(env, gym.Env | VecEnv):
        raise ValueError(
            f"n_workers: {n_workers} processes cannot share a {type(env).__name__} that is there already. Pass its id "
            "or a callable that returns a new environment as env, or leave n_workers at 1."
        )
    n_envs = min(n_at_once(env, n_envs), n_episodes)
    todo = deque(make_groups(n_episodes, n_envs, seed))
    if n_workers > len(todo):
        warnings.warn(
            f"n_workers: with n_envs={n_envs} there is work for {len(todo)} of {n_workers} processes. Pass "
            f"n_envs={GROUP_SIZE * n_workers} and as many episodes, and all of them have some.",
            stacklevel=2,
        )
        n_workers = len(todo)

    with contextlib.ExitStack() as stack:
        with OwnRandomState(seed):  # opening builds networks, whose first weights are drawn
            acting = ActionSettings(open_policy(policy), deterministic, action_transform, MAX_EPISODE_STEPS)
        envs = open_envs(env, n_envs, stack, _wrapping(acting.policy))
        workers = Workers(todo)
        stack.callback(workers.close)

        group = todo.popleft()
        randomness = OwnRandomState(group.seed)
        with randomness:
            first = next(envs)
        if n_workers > 1:
            workers.start(n_workers, pickle_job(env, first, acting))
        yield from _run(group, itertools.chain([first], envs), acting, randomness, workers)
        while todo:
            group = todo.popleft()
            yield from _run(group, envs, acting, OwnRandomState(group.seed), workers)
        while workers.busy:
            yield from workers.receive(wait=True)


def _run(
    group: Group, envs: Iterator[gym.Env], acting: ActionSettings, randomness: OwnRandomState, workers: Workers
) -> Iterator[Episode]:
    """Run a group in this process, and yield its episodes and those of other processes as they finish."""
    made: list[gym.Env] = []
    finished: list[Episode] = []
    with randomness, one_thread():
        for env in itertools.islice(envs, group.n_envs):
            made.append(env)
            finished += workers.receive()  # a process that is ready need not wait for the rest
        runner = GroupRunner(made, group, acting)
    yield from finished
    while runner.running:
        finished = []
        with randomness, one_thread():
            for ended in runner.steps():
                finished = ended + workers.receive()
                if finished:
                    break
        # Outside of the random state: the code between two episodes is the caller's.
        yield from finished


def show_progress(episodes: Iterator[Episode], n_episodes: int, progress_bar: bool) -> Iterator[Episode]:
    """
    Pass episodes on behind a progress bar that shows the mean return and cost so far.

    :param episodes: What :func:`generate_episodes` yields.
    :param n_episodes: How many there will be.
    :param progress_bar: Whether to show it.
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


def _wrapping(policy: PolicyPredictor) -> WrapEnv:
    """Wraps an environment as the policy asks for it."""
    wrap_env = getattr(policy, "wrap_env", None)

    def wrap(unwrapped: gym.Env) -> gym.Env:
        wrapped = unwrapped if wrap_env is None else wrap_env(unwrapped)
        _check_observations(getattr(policy, "observation_space", None), wrapped.observation_space)
        return wrapped

    return wrap


def _check_observations(expected: gym.Space | None, found: gym.Space) -> None:
    """Refuse vectors of another length than the policy's, before a step is taken."""
    spaces = (expected, found)
    if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
        return
    if cast(gym.Space, expected).shape != found.shape:
        raise ValueError(
            f"env: its observations have shape {found.shape}, the policy expects {cast(gym.Space, expected).shape}. "
            "If the policy was trained behind an env wrapper (a TimeFeatureWrapper adds one number), open it with the "
            "config.yml beside it, which names the wrapper, or wrap the environment yourself; an environment that is "
            "wrapped already must not be wrapped again."
        )


def _positive(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}: {number} is not positive.")
    return number
