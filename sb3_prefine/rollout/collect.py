"""Record a policy's episodes: ``collect(...) -> Trajectories``."""

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

    A small change of its actions often makes an unsafe policy's episodes safe: ``action_transform=lambda a: 0.7 * a``
    slows a running robot down. The recorded actions are those that the environment received: transformed, then
    clipped to their bounds. Observations are recorded raw. Costs are ``info["cost"]``, and NaN in an episode that
    reports none. If the policy takes action masks (MaskablePPO's does), the environment's masks are recorded too.

    :param policy: A PREFINE or another SB3 model, a reference or the path of one (:func:`~sb3_prefine.load_reference`),
        or any object with SB3's ``predict`` that takes raw observations.
    :param env: An environment id, a callable that returns a new environment, an environment, or a ``DummyVecEnv``.
    :param n_episodes: Number of episodes, each of which runs to its end.
    :param n_envs: Number of environments to make. 16 for each worker take the least time per step.
    :param n_workers: Number of processes that step them, this one included. The episodes do not depend on it. See
        :func:`~sb3_prefine.rollout.generate_episodes` for what more than one process requires of a script.
    :param deterministic: Whether to use deterministic or stochastic actions.
    :param seed: Seed of the episodes: the same seed gives the same episodes.
    :param action_transform: Function from a batch of actions, (n, ...), to the actions to take, of the same shape.
    :param progress_bar: Whether to show a progress bar with the mean return and cost so far.
    :return: ``n_episodes`` episodes, in the order of their seeds.
    :raises TypeError: If the policy or the environment is not one of those named above.
    :raises ValueError: If the id is unknown, a number is out of its range, or the simulation diverges.
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
