"""Record one episode at a time in an environment."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

from sb3_prefine.utils.observations import map_arrays

EnvObservations: TypeAlias = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Episode:
    """
    One whole episode of T steps.

    :param index: Number of the episode, from 0 to ``n_episodes - 1``.
    :param observations: Raw observations, the final one included, (T + 1, ...); a dict of such arrays for a Dict
        observation space.
    :param actions: Actions that the environment received, (T, ...).
    :param rewards: Rewards, (T,).
    :param costs: ``info["cost"]`` of each step, (T,), 0 where a step reports none; all NaN ("unknown") if no step of
        the episode reports one.
    :param terminated: Whether the episode ended in a terminal state.
    :param truncated: Whether it was cut off, for example by a time limit.
    :param action_masks: Which options were allowed, (T, n_options), bool, if the policy takes masks.
    """

    index: int
    observations: EnvObservations
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminated: bool
    truncated: bool
    action_masks: np.ndarray | None = None


class EpisodeRecorder:
    """
    Steps one environment and records the running episode. ``observation`` is the latest observation.

    :param env: The environment.
    :param masked: Whether to ask the environment for action masks.
    :param max_steps: Length at which an episode is taken for one that never ends, unless the environment's own time
        limit is longer.
    """

    def __init__(self, env: gym.Env, masked: bool, max_steps: int):
        self.env = env
        self.running = False
        self._masked = masked
        self._max_steps = max(max_steps, getattr(env.spec, "max_episode_steps", None) or 0)

    def start(self, index: int, seed: int) -> None:
        """
        Start an episode.

        :param index: Number of the episode.
        :param seed: Seed of the environment's reset.
        """
        self._index = index
        self._observations: list[EnvObservations] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._costs: list[float | None] = []
        self._masks: list[np.ndarray] = []
        self._terminated = self._truncated = False
        self.running = True
        observation, _ = self.env.reset(seed=seed)
        self._observe(observation)

    def step(self, action: np.ndarray) -> bool:
        """Take one step. Returns True if it ended the episode."""
        if len(self._actions) >= self._max_steps:
            raise RuntimeError(
                f"env: episode {self._index} has not ended after {self._max_steps:,} steps. Give the environment a "
                "time limit (gymnasium.wrappers.TimeLimit)."
            )
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(action)
        self._rewards.append(float(reward))
        self._costs.append(info.get("cost"))
        self._observe(observation)
        if terminated or truncated:
            self._terminated, self._truncated = bool(terminated), bool(truncated)
            self.running = False
        return not self.running

    @property
    def action_mask(self) -> np.ndarray:
        """The options that the environment allows now, (n_options,), bool."""
        return self._masks[-1]

    def episode(self) -> Episode:
        """
        The episode that has ended.

        :raises ValueError: If an observation or a reward is NaN or infinite.
        """
        observations = stack(self._observations)
        rewards = np.array(self._rewards)
        for part in observations.values() if isinstance(observations, dict) else (observations,):
            if not is_finite(part):
                raise self.diverged("observation")
        if not is_finite(rewards):
            raise self.diverged("reward")
        known = any(cost is not None for cost in self._costs)
        missing = 0.0 if known else np.nan
        return Episode(
            index=self._index,
            observations=observations,
            actions=np.array(self._actions),
            rewards=rewards,
            costs=np.array([missing if cost is None else cost for cost in self._costs], dtype=np.float64),
            terminated=self._terminated,
            truncated=self._truncated,
            # The last mask belongs to the final observation, in which no action is taken.
            action_masks=np.array(self._masks[: len(rewards)]) if self._masked else None,
        )

    def diverged(self, name: str) -> ValueError:
        """The error for a NaN or infinite number."""
        return ValueError(
            f"env: a NaN or infinite {name} in episode {self._index}, by step {len(self._actions)}. The simulation "
            "diverged: check its actions, or roll out with another seed."
        )

    def _observe(self, observation: Any) -> None:
        # A copy: some environments return the same array at every step and write into it.
        self.observation: EnvObservations = map_arrays(np.array, observation)
        self._observations.append(self.observation)
        if self._masked:
            self._masks.append(self._ask_for_mask())

    def _ask_for_mask(self) -> np.ndarray:
        if not self.env.has_wrapper_attr("action_masks"):
            raise ValueError(
                "env: the policy takes action masks, and the environment has no action_masks() method. Give the "
                "environment that it was trained on, behind the same wrappers (sb3-contrib's ActionMasker adds it)."
            )
        return np.array(self.env.get_wrapper_attr("action_masks")(), dtype=bool).reshape(-1)


def stack(observations: list[Any]) -> EnvObservations:
    """Stack observations along a new first axis."""
    # np.array stacks small arrays three times as fast as np.stack.
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.array([observation[key] for observation in observations]) for key in first}
    return np.array(observations)


def is_finite(values: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
