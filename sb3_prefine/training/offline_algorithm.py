"""What SB3's base class asks of an algorithm that trains from data, without an environment."""

import io
import sys
import time
import zipfile
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
from sb3_prefine.policies.masks import check_masks
from sb3_prefine.reference.archive import saved_algorithm, write_algorithm_name, write_reference
from sb3_prefine.reference.load import Source, load_reference
from sb3_prefine.reference.reference import Reference
from sb3_prefine.reference.zoo_folder import find_checkpoint
from sb3_prefine.training.env_checks import check_actions, check_env, make_env, refuse_normalized
from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.optimizer import FiniteGuard, descend
from sb3_prefine.training.progress_bar import add_progress_bar
from sb3_prefine.training.saving import custom_objects_for_load, print_versions
from sb3_prefine.utils.files import with_zip_suffix, write_atomically
from sb3_prefine.utils.observations import zeros_of
from sb3_prefine.utils.threads import threads_for

# Updates between two questions to the device whether all was finite.
CHECK_INTERVAL = 100


class OfflineAlgorithm(BaseAlgorithm):
    """
    Training from data alone: one timestep is one gradient step.

    Here are the runs, their counts and logs, acting with the normaliser and env wrappers of the reference, saving and
    loading. A subclass checks its hyperparameters, calls ``_setup_model``, makes ``_likelihood`` and ``optimizer``;
    gives batches (``_batches``, ``_states_per_update``); and learns from one (``train``, which ends in ``_descend``).

    :param reference: the policy to start from, and what belongs to it
    :param env: an id or an environment, not used to train: for callbacks and ``get_env()``
    :param learning_rate: of the optimizer, or a schedule of the progress remaining (from 1 to 0)
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of everything that is drawn
    :param device: of the computation
    :raises ValueError: an environment or bounds that do not fit
    """

    optimizer: torch.optim.Adam
    max_grad_norm: float | None
    _likelihood: Likelihood
    _generator: torch.Generator
    _guard: FiniteGuard
    _metrics: MetricMeans

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
        self._metrics = MetricMeans()

    @abstractmethod
    def _batches(self) -> Iterator[Any]:
        """
        What ``train`` is called with, without end.

        :raises ValueError: there are no data, or they do not fit the policy
        """

    @abstractmethod
    def train(self, batch: Any) -> None:
        """One gradient step."""

    @property
    @abstractmethod
    def _states_per_update(self) -> int:
        """How many states go through the policy in a gradient step, or through another network of about its size."""

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

        :param total_timesteps: the number of gradient steps
        :param callback: called after every gradient step
        :param log_interval: gradient steps between two logs, each the mean over them; None logs nothing
        :param tb_log_name: the name of the run for TensorBoard; None is the name of the class
        :param reset_num_timesteps: False goes on counting from where the last call ended
        :param progress_bar: show one
        :return: the model
        :raises ValueError: there are no data, or they do not fit the policy
        :raises FloatingPointError: a loss or gradient was not finite; the policy holds the last good weights
        """
        batches = self._batches()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        # Batch statistics (CrossQ) or dropout would part π_θ from π_ref at equal weights.
        self.policy.set_training_mode(False)

        callback.on_training_start(locals(), globals())
        state = self._example_inputs(1)
        with threads_for(lambda: self._likelihood.params(self.policy, state), self._states_per_update):
            while self.num_timesteps < total_timesteps:
                self._set_learning_rate(total_timesteps)
                self.train(next(batches))
                self._n_updates += 1
                self.num_timesteps += 1
                if self._n_updates % CHECK_INTERVAL == 0:
                    self._guard.raise_if_stopped()
                callback.update_locals(locals())
                if not callback.on_step():
                    break
                if log_interval is not None and self._n_updates % log_interval == 0:
                    self.dump_logs()
        self._guard.raise_if_stopped()
        callback.on_training_end()
        return self

    def _example_inputs(self, n_states: int) -> Inputs:
        """What the likelihood needs, of observations that are zero."""
        zeros = self.reference.normalize(zeros_of(self.observation_space, n_states))
        return example_inputs(self.policy, self._likelihood, self.policy.obs_to_tensor(zeros)[0])

    def _set_learning_rate(self, total_timesteps: int) -> None:
        """Ask the schedule for the learning rate of the next update."""
        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        update_learning_rate(self.optimizer, self.lr_schedule(self._current_progress_remaining))

    def _descend(self, loss: torch.Tensor) -> torch.Tensor:
        """
        One step of the optimizer; none ever after a loss or gradient that is not finite.

        :param loss: a scalar
        :return: the norm of the gradient, before it is clipped
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
        The policy's action, as in SB3.

        :param observation: raw, one or a batch: the reference's frozen normaliser is applied inside
        :param state: the last hidden states of a recurrent policy
        :param episode_start: the last episode starts of a recurrent policy
        :param deterministic: the mode of the distribution instead of a sample
        :param action_masks: which actions are allowed, for MaskablePPO's policies: a flag for each option,
            (n_options,) or (B, n_options)
        :return: the action and the next hidden state
        :raises ValueError: the policy takes no action masks, or masks of another number of options
        """
        masks = {}
        if action_masks is not None:
            check_masks(action_masks, self.policy, self.takes_action_masks)
            masks = {"action_masks": action_masks}
        return self.policy.predict(self.reference.normalize(observation), state, episode_start, deterministic, **masks)

    @property
    def takes_action_masks(self) -> bool:
        """Whether the policy chooses among allowed actions only."""
        return self.reference.takes_action_masks

    def predictor(self) -> PolicyPredictor:
        """
        The part of the model that acts, without its data and its logger: other processes receive it in a rollout.

        :return: The policy behind its normaliser and env wrappers, or the model itself where a subclass has a
            ``predict`` of its own.
        """
        if type(self).predict is not OfflineAlgorithm.predict or "predict" in vars(self):
            return self
        return replace(self.reference, policy=self.policy)

    @property
    def wrap_env(self) -> Callable[[gym.Env], gym.Env]:
        """Applies the env wrappers that the reference was trained behind, such as ``TimeFeatureWrapper``."""
        return self.reference.wrap_env

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed what comes next: the batches and all noise too.

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

    def export(self, path: str | Path) -> Path:
        """
        Write a plain zip of the class the reference came from: ``PPO.load(path)`` opens it.

        Only what was trained differs: critics and value head still value the old policy. A normaliser and env wrappers
        are written beside it as RL Zoo does. If the reference was a policy without an algorithm, it is the file that
        ``BasePolicy.load`` opens; if it was an ``nn.Module``, its state dict, as torch saves it.

        :param path: with or without ``.zip``
        :return: the path of the file
        """
        return self.reference.export(self.policy, path)

    def to_reference(self) -> Reference:
        """The trained policy as a reference: for PREFINE, or for another round of it."""
        return self.reference.with_weights(self.policy)

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save policy, optimizer, hyperparameters and the reference, so that training can go on. No data are saved.

        A file appears whole or not at all.

        :param path: a path, with or without ``.zip``, or a file opened for writing
        :param exclude: attributes to leave out beside the usual ones
        :param include: attributes to save although they are usually left out
        """
        file = io.BytesIO()
        super().save(file, exclude, include)
        with zipfile.ZipFile(file, "a") as archive:
            write_reference(self.reference, archive)
            write_algorithm_name(self._algorithm(), archive)
        if isinstance(path, (str, Path)):
            path = with_zip_suffix(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, file.getvalue())
        else:
            path.write(file.getvalue())

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
        Open what ``save`` wrote; the zip of another algorithm (PPO, SAC, …) becomes the reference of a new model.

        :param path: a path, or a file opened for reading
        :param env: as in the constructor
        :param device: of the computation
        :param custom_objects: objects to use instead of those in a file that ``save`` wrote, by name
        :param print_system_info: print the versions it was saved with and those here
        :param force_reset: as in SB3
        :param trust: unpickle what the file carries, as SB3 does: this runs its code
        :param policy: a policy like the reference, where that is of a class of your own, which no file can rebuild: its
            weights are not used
        :param kwargs: attributes to change, such as ``preferences`` or ``learning_rate``
        :return: the model
        :raises ValueError: the file cannot be read without unpickling something; the message names it
        """
        if isinstance(path, (str, Path)):
            path = find_checkpoint(path).zip_path
        if saved_algorithm(path) != cls._algorithm():
            if not isinstance(path, Path):
                raise ValueError(
                    f"path: the file was not written by {cls._algorithm()}.save. Give the path of the checkpoint."
                )
            if custom_objects:
                raise ValueError(
                    f"custom_objects: {', '.join(custom_objects)} cannot be put into the zip of another algorithm. "
                    "Pass env=<the environment or its id> for the spaces, or open it with load_reference."
                )
            if print_system_info:
                print_versions(path)
            return cls(load_reference(path, env=env, trust=trust), env=env, device=device, **kwargs)
        recipe = None if policy is None else load_reference(policy).recipe
        known = custom_objects_for_load(path, {**kwargs, **(custom_objects or {})}, trust, recipe)
        if env is not None:
            refuse_normalized(env)
            env = cls._wrap_env(env)
            check_env(env, known["observation_space"], known["action_space"])
            # SB3 compares them to the last bit, and would refuse an environment that has become float64.
            known |= {"observation_space": env.observation_space, "action_space": env.action_space}
        return super().load(path, env, device, known, print_system_info, force_reset, **kwargs)

    @classmethod
    def _algorithm(cls) -> str:
        """The name of the algorithm, such as PREFINE or BC; a subclass has the name of the algorithm it extends."""
        concrete = [kind for kind in cls.__mro__ if issubclass(kind, OfflineAlgorithm) and not isabstract(kind)]
        return concrete[-1].__name__

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference", "_generator", "_guard", "_metrics"]

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
        return super()._init_callback(add_progress_bar(callback) if progress_bar else callback)
