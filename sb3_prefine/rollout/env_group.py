"""Groups of environments that are stepped together: their episodes, and the loop that runs them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_prefine.rollout.episode import EnvObservations, Episode, EpisodeRecorder, is_finite, stack
from sb3_prefine.rollout.fast_predict import fast_predict
from sb3_prefine.rollout.predictor import action_converter

ActionTransform: TypeAlias = Callable[[np.ndarray], np.ndarray]

# Bounds of the number of environments in a group. A smaller group spends too large a share of its time in the policy;
# larger groups leave work for fewer processes.
GROUP_SIZE = 16
MIN_GROUP_SIZE = 6


@dataclass(frozen=True)
class Group:
    """
    Environments that are stepped together, and their episodes.

    The episodes depend on nothing outside the group, so they do not depend on which process runs the group, or when.

    :param n_envs: Number of environments.
    :param starts: Number of each episode, and the seed with which its environment is reset, in the order in which the
        episodes begin: first one in each environment, then the next one wherever an episode has ended.
    :param seed: Seed of the global random states while the group runs.
    """

    n_envs: int
    starts: tuple[tuple[int, int], ...]
    seed: int


def make_groups(n_episodes: int, n_envs: int, seed: int) -> list[Group]:
    """
    Divide environments and episodes into groups of about the same size: one group for fewer than twelve environments,
    two for up to 32, and one more for each further 16.

    :param n_episodes: Number of episodes.
    :param n_envs: Number of environments, at most ``n_episodes``.
    :param seed: Seed of the rollout, which the first group uses as it is. The seed of episode i depends on this seed
        and i alone.
    """
    n_groups = max(-(-n_envs // GROUP_SIZE), min(2, n_envs // MIN_GROUP_SIZE), 1)
    return [
        Group(
            len(range(number, n_envs, n_groups)),
            tuple((i, _derive(seed, i)) for i in range(number, n_episodes, n_groups)),
            _derive(seed, 0, number) if number else seed,
        )
        for number in range(n_groups)
    ]


def _derive(seed: int, *key: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class ActionSettings:
    """
    How a policy's output becomes an environment action.

    :param policy: Any object with SB3's ``predict``.
    :param deterministic: Whether to use deterministic or stochastic actions.
    :param action_transform: Function of each (n, ...) batch of actions, before they are clipped; None leaves them.
    :param max_steps: Length at which an episode is taken for one that never ends, unless the environment's own time
        limit is longer.
    """

    policy: PolicyPredictor
    deterministic: bool
    action_transform: ActionTransform | None
    max_steps: int


class GroupRunner:
    """
    Runs the episodes of a group, with one batched ``predict`` per step.

    :param envs: The group's environments.
    :param group: The group.
    :param settings: How the policy's output becomes an action.
    """

    def __init__(self, envs: Sequence[gym.Env], group: Group, settings: ActionSettings):
        self._settings = settings
        self._masked = bool(getattr(settings.policy, "takes_action_masks", False))
        self._recorders = [EpisodeRecorder(env, self._masked, settings.max_steps) for env in envs]
        self._upcoming = iter(group.starts)
        self._state: tuple[np.ndarray, ...] | None = None
        self._n_running = 0
        for recorder in self._recorders:
            self._start_next(recorder)
        self._begun = np.ones(len(self._recorders), dtype=bool)

    @property
    def running(self) -> bool:
        """Whether an episode is still running."""
        return self._n_running > 0

    def steps(self) -> Iterator[list[Episode]]:
        """
        Step all environments until the last episode has ended.

        Call it again after other code may have changed the policy.

        :return: The episodes that ended in each step.
        :raises ValueError: If an observation, action or reward is NaN or infinite or does not fit its space.
        :raises RuntimeError: If an episode does not end.
        """
        predict = fast_predict(self._settings.policy)
        to_env_actions = action_converter(self._recorders[0].env.action_space, len(self._recorders))
        while self.running:
            # Environments without an episode stay in the batch: the rows of a recurrent state keep their places.
            allowed = {}
            if self._masked:
                allowed = {"action_masks": np.array([recorder.action_mask for recorder in self._recorders])}
            actions, self._state = predict(
                self._observations(),
                state=self._state,
                episode_start=self._begun,
                deterministic=self._settings.deterministic,
                **allowed,
            )
            if self._settings.action_transform is not None:
                actions = self._settings.action_transform(actions)
            yield self._step(to_env_actions(actions))

    def _step(self, actions: np.ndarray) -> list[Episode]:
        finished = []
        self._begun = np.zeros(len(self._recorders), dtype=bool)
        for row, recorder in enumerate(self._recorders):
            if recorder.running and recorder.step(actions[row]):
                self._n_running -= 1
                finished.append(recorder.episode())
                self._begun[row] = self._start_next(recorder)
        return finished

    def _start_next(self, recorder: EpisodeRecorder) -> bool:
        """Start the next episode in an environment. Returns False if no episode is left."""
        start = next(self._upcoming, None)
        if start is None:
            return False
        recorder.start(*start)
        self._n_running += 1
        return True

    def _observations(self) -> EnvObservations:
        batch = stack([recorder.observation for recorder in self._recorders])
        for part in batch.values() if isinstance(batch, dict) else (batch,):
            if not is_finite(part):
                finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
                raise self._recorders[int(np.argmin(finite))].diverged("observation")
        return batch
