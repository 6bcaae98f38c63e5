"""Roll a policy out into data: ``collect(...) -> Trajectories``."""

import numpy as np

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.rollout.env_group import ActionTransform
from sb3_prefine.rollout.episode import Episode
from sb3_prefine.rollout.generate import generate_episodes, show_progress
from sb3_prefine.rollout.make_envs import EnvSource
from sb3_prefine.rollout.predictor import PolicyLike
from sb3_prefine.utils.observations import map_arrays


def collect(
    policy: PolicyLike,
    env: EnvSource,
    n_episodes: int,
    *,
    n_envs: int = 32,
    n_workers: int = 1,
    deterministic: bool = False,
    seed: int = 0,
    action_transform: ActionTransform | None = None,
    progress_bar: bool = True,
) -> Trajectories:
    """
    Record episodes of a policy.

    Safe episodes are often a small change away from a policy that is not: ``action_transform=lambda a: 0.7 * a``
    slows a running robot down. Recorded are the actions that the environment received, transformed and clipped to
    their bounds. Observations are recorded raw, and the costs are ``info["cost"]``: NaN in an episode that has none.
    For a policy that takes action masks (MaskablePPO's), those of the environment are recorded too.

    :param policy: A PREFINE or another SB3 model, what :func:`~sb3_prefine.load_reference` returns or opens
        (a path), or any object with SB3's ``predict`` that takes raw observations.
    :param env: An environment id, a callable that returns a new environment, an environment, or a ``DummyVecEnv``.
    :param n_episodes: How many episodes to run; each is run to its end.
    :param n_envs: How many environments to make; 16 for each worker take the least time a step.
    :param n_workers: How many processes step them, this one included: the episodes are the same. See
        :func:`~sb3_prefine.rollout.generate_episodes` for what more than one asks of a script.
    :param deterministic: Whether the policy acts by its mode instead of sampling.
    :param seed: The same seed gives the same episodes.
    :param action_transform: Called on each (n, ...) batch of actions; returns a batch of the same shape.
    :param progress_bar: Whether to show a progress bar with the mean return and cost so far.
    :return: ``n_episodes`` episodes, in the order of their seeds.
    :raises TypeError: If the policy or the environment is not one of those named above.
    :raises ValueError: If the id is unknown, a number is out of range, or the simulation diverges.
    :raises RuntimeError: If an episode does not end within 100,000 steps, or a worker process is killed.
    """
    episodes = generate_episodes(
        policy,
        env,
        n_episodes,
        n_envs=n_envs,
        n_workers=n_workers,
        deterministic=deterministic,
        seed=seed,
        action_transform=action_transform,
    )
    recorded = [(e.index, _to_trajectories(e)) for e in show_progress(episodes, n_episodes, progress_bar)]
    return Trajectories.concatenate([trajectories for _, trajectories in sorted(recorded, key=lambda pair: pair[0])])


def _to_trajectories(episode: Episode) -> Trajectories:
    terminals = np.zeros(len(episode.rewards), dtype=bool)
    timeouts = np.zeros(len(episode.rewards), dtype=bool)
    terminals[-1] = episode.terminated
    timeouts[-1] = episode.truncated and not episode.terminated
    return Trajectories(
        observations=map_arrays(lambda part: part[:-1], episode.observations),
        next_observations=map_arrays(lambda part: part[1:], episode.observations),
        actions=episode.actions,
        rewards=episode.rewards,
        costs=episode.costs,
        terminals=terminals,
        timeouts=timeouts,
        action_masks=episode.action_masks,
    )
