"""Groups of environments: which episodes run in them, and the loop that runs these."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_prefine.rollout.episode import EnvObservations, Episode, Runner, is_finite, stack
from sb3_prefine.rollout.fast_predict import fast_predict
from sb3_prefine.rollout.predictor import action_converter

ActionTransform: TypeAlias = Callable[[np.ndarray], np.ndarray]

# Environments in a group, at most and at least. With fewer, what a policy takes at each step counts; with more, fewer
# processes have work.
GROUP_SIZE = 16
MIN_GROUP_SIZE = 6


@dataclass(frozen=True)
class Group:
    """
    Environments that are stepped together, and their episodes.

    The episodes depend on nothing outside of the group. So they are the same whichever process runs it, and when.

    :param n_envs: How many environments.
    :param starts: The number of each episode and the seed that its environment is reset with, in the order in which
        they begin: one in each environment, and another where one ended.
    :param seed: Of the global random states while it runs.
    """

    n_envs: int
    starts: tuple[tuple[int, int], ...]
    seed: int


def make_groups(n_episodes: int, n_envs: int, seed: int) -> list[Group]:
    """
    Deal environments and episodes out to groups of about the same size: one for fewer than twelve environments, two
    for up to 32, then as many as it takes.

    :param n_episodes: How many episodes.
    :param n_envs: How many environments, ``n_episodes`` at most.
    :param seed: Episode i is reset with a seed that depends on this and i alone. It is the first group's own.
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
    How actions come about.

    :param policy: Anything with SB3's ``predict``.
    :param deterministic: Whether it acts by its mode instead of sampling.
    :param action_transform: Called on each (n, ...) batch of actions before they are clipped to their bounds.
    :param max_steps: An episode this long never ends, unless the environment's own time limit is longer.
    """

    policy: PolicyPredictor
    deterministic: bool
    action_transform: ActionTransform | None
    max_steps: int


class GroupRunner:
    """
    Runs the episodes of a group, with one batched ``predict`` a step.

    :param envs: Its environments.
    :param group: The group.
    :param acting: How actions come about.
    """

    def __init__(self, envs: Sequence[gym.Env], group: Group, acting: ActionSettings):
        self._acting = acting
        self._masked = bool(getattr(acting.policy, "takes_action_masks", False))
        self._runners = [Runner(env, self._masked, acting.max_steps) for env in envs]
        self._upcoming = iter(group.starts)
        self._state: tuple[np.ndarray, ...] | None = None
        self._n_running = 0
        for runner in self._runners:
            self._start_next(runner)
        self._begun = np.ones(len(self._runners), dtype=bool)

    @property
    def running(self) -> bool:
        """Whether an episode has not ended."""
        return self._n_running > 0

    def steps(self) -> Iterator[list[Episode]]:
        """
        Take one step of all episodes after the other, until the last has ended.

        To be asked for anew after somebody else may have changed the policy.

        :return: At each step the episodes that ended.
        :raises ValueError: If an observation, action or reward is NaN or infinite or does not fit its space.
        :raises RuntimeError: If an episode does not end.
        """
        predict = fast_predict(self._acting.policy)
        fit = action_converter(self._runners[0].env.action_space, len(self._runners))
        while self.running:
            # Environments without an episode stay in the batch: a recurrent state keeps its rows, whatever its layout.
            allowed = {"action_masks": np.array([r.action_mask for r in self._runners])} if self._masked else {}
            actions, self._state = predict(
                self._observations(),
                state=self._state,
                episode_start=self._begun,
                deterministic=self._acting.deterministic,
                **allowed,
            )
            if self._acting.action_transform is not None:
                actions = self._acting.action_transform(actions)
            yield self._step(fit(actions))

    def _step(self, actions: np.ndarray) -> list[Episode]:
        finished = []
        self._begun = np.zeros(len(self._runners), dtype=bool)
        for row, runner in enumerate(self._runners):
            if runner.running and runner.step(actions[row]):
                self._n_running -= 1
                finished.append(runner.episode())
                self._begun[row] = self._start_next(runner)
        return finished

    def _start_next(self, runner: Runner) -> bool:
        """Let the next episode begin in an environment, if there is one."""
        start = next(self._upcoming, None)
        if start is None:
            return False
        runner.start(*start)
        self._n_running += 1
        return True

    def _observations(self) -> EnvObservations:
        batch = stack([runner.observation for runner in self._runners])
        for part in batch.values() if isinstance(batch, dict) else (batch,):
            if not is_finite(part):
                finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
                raise self._runners[int(np.argmin(finite))].diverged("observation")
        return batch
