"""What SB3's base class asks of an algorithm that trains from data, without an environment."""

import importlib
import sys
import time
from collections import deque

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_prefine.progress import with_progress_bar
from sb3_prefine.reference import Reference
from sb3_prefine.tracking import FiniteGuard, MetricMeans


class OfflineAlgorithm(BaseAlgorithm):
    """
    Starting, counting and logging of training runs in which one timestep is one gradient step; acting with the
    normaliser and env wrappers of the reference.

    Subclasses add to ``_metrics`` in every update and ask ``_guard`` whether all was finite.
    """

    reference: Reference
    optimizer: torch.optim.Optimizer
    _generator: torch.Generator
    _guard: FiniteGuard
    _metrics: MetricMeans

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        The policy's action, as in SB3.

        :param observation: raw, one or a batch: the reference's frozen normaliser is applied inside
        :param state: the last hidden states of a recurrent policy
        :param episode_start: the last episode starts of a recurrent policy
        :param deterministic: the mode of the distribution instead of a sample
        :param action_masks: which actions are allowed, for MaskablePPO's policies
        :return: the action and the next hidden state
        """
        masks = {} if action_masks is None else {"action_masks": action_masks}
        return self.policy.predict(self.reference.normalize(observation), state, episode_start, deterministic, **masks)

    @property
    def takes_action_masks(self) -> bool:
        """Whether the policy chooses among allowed actions only."""
        return self.reference.takes_action_masks

    def wrap_env(self, env: gym.Env) -> gym.Env:
        """Apply the env wrappers that the reference was trained behind, such as ``TimeFeatureWrapper``."""
        return self.reference.wrap_env(env)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed what comes next: the batches and the counterfactuals too.

        :param seed: None goes on from torch's global state
        """
        super().set_random_seed(seed)
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        :param env: for callbacks and ``get_env()``; raw, of the policy's spaces
        :param force_reset: as in SB3
        :raises ValueError: it normalises observations, or is of other spaces
        """
        refuse_normalized(env)
        super().set_env(env, force_reset)

    def dump_logs(self) -> None:
        """Write the means of the metrics since the last time, and the speed."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        for name, value in self._metrics.take().items():
            self.logger.record(name, value)
        self.logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "PREFINE",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # SB3's own, without its environment: it asserts one, and resets it.
        self.start_time = time.time_ns()
        if self.ep_info_buffer is None or reset_num_timesteps:
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        if reset_num_timesteps:
            self.num_timesteps = 0
        else:
            total_timesteps += self.num_timesteps
        self._total_timesteps = total_timesteps
        self._num_timesteps_at_start = self.num_timesteps
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        self._guard = FiniteGuard(self.device)
        self._metrics = MetricMeans()
        return total_timesteps, self._init_callback(callback, progress_bar)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        # SB3's progress bar counts the training environment's steps; there is none here.
        return super()._init_callback(with_progress_bar(callback) if progress_bar else callback)


def make_env(env: GymEnv | str | None, reference: Reference) -> GymEnv | None:
    """
    What SB3's constructor makes its vectorised environment of.

    :param env: an id (then the reference's env wrappers are applied), an environment, or None
    :raises ValueError: it normalises observations, which the model does itself
    """
    if isinstance(env, str):
        importlib.import_module("sb3_prefine.envs")
        return reference.wrap_env(gym.make(env, render_mode="rgb_array"))
    if env is not None:
        refuse_normalized(env)
    return env


def check_env(env: VecEnv, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse an environment of other spaces than a policy's.

    Bounds and dtype of a Box may differ: those of an environment change between its versions (float32 became float64),
    while a policy's stay as they were saved.

    :raises ValueError: the kind or the shape of a space differs
    """
    for name, own, found in (
        ("observation_space", observation_space, env.observation_space),
        ("action_space", action_space, env.action_space),
    ):
        same = (
            own.shape == found.shape if isinstance(own, spaces.Box) and isinstance(found, spaces.Box) else own == found
        )
        if not same:
            raise ValueError(
                f"env: its {name} is {found}, the policy's is {own}. Give the environment that the policy was trained "
                "on, behind the same wrappers."
            )


def check_actions(action_space: spaces.Space) -> None:
    """
    Refuse continuous actions without bounds, as SB3 does where there is an environment.

    :raises ValueError: a bound is infinite
    """
    if isinstance(action_space, spaces.Box) and not np.isfinite([action_space.low, action_space.high]).all():
        raise ValueError(f"policy: its action_space {action_space} has to have finite bounds. Give it a bounded one.")


def refuse_normalized(env: GymEnv) -> None:
    """:raises ValueError: the environment normalises observations, which the model does itself"""
    if isinstance(env, VecEnv) and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "env: it is wrapped in VecNormalize, and the model normalises observations itself. Give the env inside it."
        )
