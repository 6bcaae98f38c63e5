"""The base class of all algorithms: SB3's interface, for training from data without an environment."""

import io
import sys
import time
import zipfile
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from inspect import isabstract
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PolicyPredictor, Schedule
from stable_baselines3.common.utils import configure_logger, update_learning_rate

from sb3_prefine.policies.base import Inputs, Likelihood
from sb3_prefine.policies.likelihood import example_inputs
from sb3_prefine.policies.masks import check_action_masks
from sb3_prefine.reference.archive import saved_algorithm, write_algorithm_name, write_reference
from sb3_prefine.reference.load import Source, load_reference
from sb3_prefine.reference.reference import Reference
from sb3_prefine.reference.zoo_folder import find_checkpoint
from sb3_prefine.training.env_checks import check_actions, check_env, make_env, refuse_normalized
from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.optimizer import FiniteGuard, descend
from sb3_prefine.training.progress_bar import add_progress_bar
from sb3_prefine.training.saving import custom_objects_for_load, load_other_zip, write_zip
from sb3_prefine.training.training_run import TrainingRun
from sb3_prefine.utils.observations import zero_observations
from sb3_prefine.utils.threads import limit_threads


class OfflineAlgorithm(BaseAlgorithm):
    """
    Trains a policy from data alone. One timestep is one gradient step.

    This class implements ``learn``, ``predict`` with the normaliser of the reference, logging, saving and loading. A
    subclass checks its hyperparameters, then calls ``_setup_model``; it sets ``likelihood`` and ``optimizer``; it
    yields batches (``batches``, ``_states_per_update``) and learns from one (``train``, which ends in ``descend``).

    :param reference: The policy to start from, with its normaliser and env wrappers.
    :param env: An environment or its id, for callbacks and ``get_env()``. Training does not use it.
    :param learning_rate: Learning rate of the optimizer, or a schedule of the remaining progress (from 1 to 0).
    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of everything that training draws.
    :param device: Device of the computation.
    :raises ValueError: If the environment does not fit the policy, or the actions have no bounds.
    """

    optimizer: torch.optim.Adam
    likelihood: Likelihood
    """How the policy scores and samples actions."""
    generator: torch.Generator
    """Random generator of the batches and all noise."""
    metrics: MetricMeans
    """Means of the metrics since the last log."""
    max_grad_norm: float | None
    _guard: FiniteGuard

    def __init__(
        self,
        reference: Reference,
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        stats_window_size: int,
        tensorboard_log: str | None,
        verbose: int,
        seed: int | None,
        device: torch.device | str,
    ) -> None:
        self.reference = reference
        super().__init__(
            type(reference.policy),
            make_env(env, reference),
            learning_rate,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        check_actions(reference.action_space)
        if self.env is None:
            self.n_envs = 1
        else:
            check_env(self.env, reference.observation_space, reference.action_space)
        self.observation_space = reference.observation_space
        self.action_space = reference.action_space

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy_class = type(self.reference.policy)
        self.policy = self.reference.trainable_copy().to(self.device)
        self._guard = FiniteGuard(self.device)
        self.metrics = MetricMeans()

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """
        Draw the batches that ``train`` takes, without end.

        :raises ValueError: If there are no data or they do not fit the policy.
        """

    @abstractmethod
    def train(self, batch: Any) -> None:
        """
        Make one gradient step.

        :param batch: One of ``batches``.
        """

    @property
    @abstractmethod
    def _states_per_update(self) -> int:
        """Number of states for which a gradient step evaluates the policy or a network of about its size."""

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train the policy.

        :param total_timesteps: Number of gradient steps.
        :param callback: Callback in any form that SB3 takes, called after every gradient step.
        :param log_interval: Gradient steps between two logs, which hold the means since the last one; None for no logs.
        :param tb_log_name: Name of the run in TensorBoard, or None for the name of the class.
        :param reset_num_timesteps: Whether to count from 0 again. False continues the count of the last call.
        :param progress_bar: Whether to show a progress bar.
        :return: The model.
        :raises ValueError: If there are no data or they do not fit the policy.
        :raises FloatingPointError: If a loss or gradient was not finite. The policy holds the last finite weights.
        """
        batches = self.batches()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        run = TrainingRun(self, callback, total_timesteps, log_interval)
        run.start(locals(), globals())
        with self.limited_threads():
            while not run.is_complete:
                run.set_learning_rate()
                self.train(next(batches))
                run.count_step()
                if not run.after_step(self._guard.error):
                    break
        run.end(self._guard.error())
        if run.error is not None:
            raise run.error
        return self

    def limited_threads(self) -> AbstractContextManager[None]:
        """Use one thread while training, if the network and the batches are too small for more."""
        state = self._example_inputs(1)
        return limit_threads(lambda: self.likelihood.params(self.policy, state), self._states_per_update)

    def _example_inputs(self, n_states: int) -> Inputs:
        """Inputs of the likelihood for observations that are zero."""
        zeros = self.reference.normalize(zero_observations(self.observation_space, n_states))
        return example_inputs(self.policy, self.likelihood, self.policy.obs_to_tensor(zeros)[0])

    def set_learning_rate(self, total_timesteps: int) -> None:
        """
        Set the learning rate of the next gradient step, from the schedule.

        :param total_timesteps: Number of timesteps at which the progress remaining is 0.
        """
        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        update_learning_rate(self.optimizer, self.lr_schedule(self._current_progress_remaining))

    def descend(self, loss: torch.Tensor) -> torch.Tensor:
        """
        Step the optimizer. After a non-finite loss or gradient, every later step is skipped until ``learn`` raises.

        :param loss: Scalar loss.
        :return: The gradient norm before clipping.
        """
        [grad_norm] = descend((self.optimizer,), loss, self._guard.check, self.max_grad_norm)
        return grad_norm

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Get the policy's actions, as in SB3.

        :param observation: One raw observation or a batch. The reference's frozen normaliser is applied inside.
        :param state: Last hidden states of a recurrent policy.
        :param episode_start: Whether each environment begins an episode, for a recurrent policy.
        :param deterministic: Whether to return deterministic actions.
        :param action_masks: Which actions are allowed, for MaskablePPO's policies: a flag for each option,
            (n_options,) or (B, n_options).
        :return: The actions, and the next hidden states.
        :raises ValueError: If the policy takes no action masks, or masks with another number of options.
        """
        masks = {}
        if action_masks is not None:
            check_action_masks(action_masks, self.policy, self.takes_action_masks)
            masks = {"action_masks": action_masks}
        return self.policy.predict(self.reference.normalize(observation), state, episode_start, deterministic, **masks)

    @property
    def takes_action_masks(self) -> bool:
        """Whether the policy takes action masks."""
        return self.reference.takes_action_masks

    def predictor(self) -> PolicyPredictor:
        """
        Get the part of the model that acts, without data and logger. A rollout sends it to other processes.

        :return: The policy behind its normaliser and env wrappers, or the model itself if it overrides ``predict``.
        """
        if type(self).predict is not OfflineAlgorithm.predict or "predict" in vars(self):
            return self
        return replace(self.reference, policy=self.policy)

    @property
    def wrap_env(self) -> Callable[[gym.Env], gym.Env]:
        """A function that wraps an environment as the reference's was, such as in ``TimeFeatureWrapper``."""
        return self.reference.wrap_env

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed the batches and all noise.

        :param seed: The seed, or None to draw one from torch's global random state.
        """
        super().set_random_seed(seed)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment for callbacks and ``get_env()``.

        :param env: A raw environment with the policy's spaces.
        :param force_reset: As in SB3.
        :raises ValueError: If the environment normalises observations or has other spaces.
        """
        refuse_normalized(env)
        super().set_env(env, force_reset)

    def dump_logs(self) -> None:
        """Write logs: the means of the metrics since the last logs, the learning rate, counts and speed."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        for name, value in self.metrics.pop().items():
            self.logger.record(name, value)
        self.logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def export(self, path: str | Path) -> Path:
        """
        Write a plain zip of the class that the reference came from, which ``PPO.load(path)`` opens, for example.

        Only the trained weights differ from the reference: critics and value heads still value the old policy. A
        normaliser and env wrappers are written next to the zip, as RL Zoo does. If the reference was a policy without
        an algorithm, the file is one that ``BasePolicy.load`` opens; if it was an ``nn.Module``, its state dict.

        :param path: Path of the zip, with or without ``.zip``.
        :return: The path of the file.
        """
        return self.reference.export(self.policy, path)

    def to_reference(self) -> Reference:
        """Get the trained policy as a reference, for PREFINE or for another round of it."""
        return self.reference.with_weights(self.policy)

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save policy, optimizer, hyperparameters and reference, so that training can continue. Data are not saved.

        If saving is interrupted, an existing file stays as it was.

        :param path: Path, with or without ``.zip``, or a file opened for writing.
        :param exclude: Further attributes to leave out.
        :param include: Attributes to save that are left out by default.
        """
        file = io.BytesIO()
        super().save(file, exclude, include)
        with zipfile.ZipFile(file, "a") as archive:
            write_reference(self.reference, archive)
            write_algorithm_name(self._algorithm(), archive)
        write_zip(path, file.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        policy: Source | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model that ``save`` wrote. The zip of another algorithm (PPO, SAC, …) becomes the reference of a new one.

        :param path: Path, or a file opened for reading.
        :param env: Environment, as in the constructor.
        :param device: Device of the computation.
        :param custom_objects: Objects to use instead of those in a file that ``save`` wrote, by name.
        :param print_system_info: Whether to print the versions of the libraries, here and when the file was saved.
        :param force_reset: As in SB3.
        :param trust: Whether to unpickle everything in the file, as SB3 does. This runs code from the file.
        :param policy: A policy like the reference, if its class is your own, which a file cannot rebuild. Its weights
            are not used.
        :param kwargs: Attributes to change, such as ``preferences`` or ``learning_rate``.
        :return: The model.
        :raises ValueError: If the file cannot be read without unpickling an object, which the message names.
        """
        if isinstance(path, (str, Path)):
            path = find_checkpoint(path).zip_path
        if saved_algorithm(path) != cls._algorithm():
            reference = load_other_zip(path, cls._algorithm(), env, custom_objects, print_system_info, trust)
            return cls(reference, env=env, device=device, **kwargs)
        recipe = None if policy is None else load_reference(policy).recipe
        known = custom_objects_for_load(path, {**kwargs, **(custom_objects or {})}, trust, recipe)
        if env is not None:
            refuse_normalized(env)
            env = cls._wrap_env(env)
            check_env(env, known["observation_space"], known["action_space"])
            # SB3 compares spaces exactly, and would refuse an environment whose float32 became float64.
            known |= {"observation_space": env.observation_space, "action_space": env.action_space}
        return super().load(path, env, device, known, print_system_info, force_reset, **kwargs)

    @classmethod
    def _algorithm(cls) -> str:
        """Name of the algorithm, such as PREFINE or BC. A subclass has the name of the algorithm that it extends."""
        return [kind for kind in cls.__mro__ if issubclass(kind, OfflineAlgorithm) and not isabstract(kind)][
            -1
        ].__name__

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference", "likelihood", "generator", "metrics", "_guard"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "optimizer"], []

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # As SB3's, which asserts that there is an environment and resets it.
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
        self.metrics = MetricMeans()
        # With batch statistics (CrossQ) or dropout, π_θ would differ from π_ref although their weights are equal.
        self.policy.set_training_mode(False)
        # SB3's progress bar needs a training environment, whose steps it counts.
        return total_timesteps, self._init_callback(add_progress_bar(callback) if progress_bar else callback)
