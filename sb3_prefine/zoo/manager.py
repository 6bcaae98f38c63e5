"""RL Zoo's experiment manager for PREFINE, which starts from a policy, learns from files, and must be safe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import get_callback_list
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.load import load_reference
from sb3_prefine.reference.reference import Reference
from sb3_prefine.reference.zoo_folder import as_list
from sb3_prefine.zoo.keys import DATA_KEYS, check_keys, load_preferences
from sb3_prefine.zoo.search import TrialCallback, trial_value

HYPERPARAMS = Path(__file__).parent / "hyperparams" / "prefine.yml"
_EVAL_COST_LIMIT = 25.0
_LEAVE_OUT_WRAPPERS = "The wrappers that the pretrained policy was trained with are applied already. Leave them out."


class PrefineExperimentManager(ExperimentManager):
    """
    RL Zoo's ``ExperimentManager`` for PREFINE. ``rl_zoo3.train`` creates it with the arguments of its command line.

    These are the differences to RL Zoo's own:

    - The hyperparameters come from this package.
    - It opens ``pretrained``, and applies the policy's own normaliser and env wrappers instead of RL Zoo's.
    - It reads the data.
    - It evaluates return and cost with :class:`~sb3_prefine.callbacks.CostEvalCallback`, so ``best_model.zip`` is the
      best *safe* model.
    - The value of an Optuna trial is :func:`~sb3_prefine.zoo.search.trial_value`.
    - If the evaluation interval (``--eval-freq``, 25,000 by default) is longer than the training, it becomes a tenth of
      the training.
    """

    # Set by _preprocess_hyperparams.
    reference: Reference
    preferences: PreferenceBuffer
    eval_cost_limit: float
    _task_wrapper: Callable[[gym.Env], gym.Env] | None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Read the hyperparameters from this package's YAML file, unless ``--conf-file`` names another file.

        :return: The hyperparameters to process, and those to save.
        :raises ValueError: If the algorithm is not PREFINE, or keys are missing or contradict each other.
        """
        if self.algo != "prefine":
            raise ValueError(
                f"--algo {self.algo}: this command trains only PREFINE. Pass --algo prefine, or run RL Zoo itself: "
                f"python -m rl_zoo3.train --gym-packages sb3_prefine.envs --algo {self.algo} ..."
            )
        if self.optimize_hyperparameters and self.trained_agent:
            raise ValueError(
                f"-i {self.trained_agent}: a search starts every trial from the same policy. Name it as pretrained: "
                f"-params \"pretrained:'{self.trained_agent}'\"."
            )
        if self.args.conf_file is None:
            self.config = str(HYPERPARAMS)
        hyperparams, _ = super().read_hyperparameters()
        hyperparams = check_keys(hyperparams, self.custom_hyperparams or {}, self.trained_agent)
        return hyperparams, {key: hyperparams[key] for key in sorted(hyperparams)}

    def create_callbacks(self) -> None:
        """Create RL Zoo's progress bar and checkpoints, and an evaluation that measures the cost."""
        eval_freq, self.eval_freq = self.eval_freq, 0  # RL Zoo's own evaluation ignores the cost
        super().create_callbacks()
        self.eval_freq = eval_freq
        if eval_freq <= 0 or self.optimize_hyperparameters:
            return
        if eval_freq > self.n_timesteps:
            self.eval_freq = max(self.n_timesteps // 10, 1)
            print(f"--eval-freq {eval_freq} is more than the number of steps: evaluating every {self.eval_freq} steps")
        self.callbacks.append(self._eval_callback(self.eval_freq, Path(self.save_path), None, self.verbose))

    def objective(self, trial: optuna.Trial) -> float:
        """
        Train with hyperparameters that the trial draws.

        :param trial: The trial of the study.
        :return: The value of the last evaluation.
        :raises optuna.TrialPruned: If the pruner gave up on the trial, or the loss was not finite.
        """
        sampled = HYPERPARAMS_SAMPLER["prefine"](trial, self.n_actions, 1, {})
        model = PREFINE(
            self.reference,
            self.preferences,
            # Each trial has other batches, and running the same command again draws the same ones.
            seed=(self.seed + trial.number) % 2**32,
            verbose=self.verbose if self.verbose >= 2 else 0,
            device=self.device,
            **{**self._hyperparams, **sampled},
        )
        folder = (
            None if self.optimization_log_path is None else Path(self.optimization_log_path, f"trial_{trial.number}")
        )
        trial_callback = TrialCallback(trial)
        eval_freq = max(self.n_timesteps // self.n_evaluations, 1)
        eval_callback = self._eval_callback(eval_freq, folder, trial_callback, verbose=0)
        callbacks = [*get_callback_list({"callback": self.specified_callbacks}), eval_callback]
        try:
            model.learn(self.n_timesteps, callback=callbacks)
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error
        if trial_callback.is_pruned:
            raise optuna.TrialPruned()
        assert eval_callback.last_evaluation is not None
        return trial_value(eval_callback.last_evaluation, self.eval_cost_limit)

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        own: dict[str, Any] = {key: hyperparams.get(key) for key in ("pretrained", "eval_cost_limit", *DATA_KEYS)}
        wrapper_keys = hyperparams.get("env_wrapper")
        hyperparams = {key: value for key, value in hyperparams.items() if key not in own}
        hyperparams, self._task_wrapper, callbacks, _ = super()._preprocess_hyperparams(hyperparams)

        self.eval_cost_limit = _EVAL_COST_LIMIT if own["eval_cost_limit"] is None else own["eval_cost_limit"]
        self.reference = self._open_reference(self.trained_agent or own["pretrained"], wrapper_keys)
        self.preferences = load_preferences({key: value for key, value in own.items() if value is not None})
        # A search writes the hyperparameters to the study as text, which must not contain weights or data.
        if not self.optimize_hyperparameters:
            hyperparams = {**hyperparams, "policy": self.reference, "preferences": self.preferences}
        return hyperparams, self._wrap_env, callbacks, None

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        # Leave numbers as they are: a zip with a schedule cannot be opened without unpickling it.
        learning_rate = hyperparams.get("learning_rate")
        if not isinstance(learning_rate, str):
            return hyperparams
        if not learning_rate.startswith("lin_"):
            raise ValueError(
                f"learning_rate: {learning_rate!r} is text. Write 0.0003 (YAML reads 3e-4 as text), or lin_0.0003 for "
                "a linear decay to 0."
            )
        return ExperimentManager._preprocess_schedules(hyperparams)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        # RL Zoo would wrap the env in the VecNormalize next to the zip of -i, but the model normalises itself.
        return env

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        # enjoy creates its environment from this file, and nothing else would apply the reference's wrappers there.
        wrappers = [{wrapper.path: dict(wrapper.kwargs)} for wrapper in self.reference.env_wrappers]
        entries = [*as_list(saved_hyperparams.get("env_wrapper")), *wrappers]
        super()._save_config({**saved_hyperparams, "env_wrapper": entries} if entries else saved_hyperparams)

    def _open_reference(self, source: str, wrapper_keys: Any) -> Reference:
        env = self._make_eval_env()
        try:
            reference = load_reference(source, env=env)
        except ValueError as error:
            if wrapper_keys:
                error.add_note(f"env_wrapper: {wrapper_keys} wraps this env. {_LEAVE_OUT_WRAPPERS}")
            raise
        finally:
            env.close()
        # load_reference opens a zip that PREFINE wrote with any env, so compare the wrappers here.
        own = {wrapper.path.rpartition(".")[2] for wrapper in reference.env_wrappers}
        given = [next(iter(entry)) if isinstance(entry, Mapping) else entry for entry in as_list(wrapper_keys)]
        twice = [path for path in given if path.rpartition(".")[2] in own]
        if twice:
            raise ValueError(f"env_wrapper: {', '.join(twice)} was given. {_LEAVE_OUT_WRAPPERS}")
        return reference

    def _wrap_env(self, env: gym.Env) -> gym.Env:
        """Apply the wrappers of the training environment: those of the task, and around them those of the reference."""
        return self.reference.wrap_env(env if self._task_wrapper is None else self._task_wrapper(env))

    def _make_eval_env(self) -> gym.Env:
        """Make a raw environment, because the evaluation applies the model's own wrappers."""
        # RL Zoo ignores the env_kwargs of a YAML file in the evaluation.
        env_kwargs = self.eval_env_kwargs or self.env_kwargs
        env = gym.make(self.env_name.gym_id, disable_env_checker=True, **env_kwargs)
        return env if self._task_wrapper is None else self._task_wrapper(env)

    def _eval_callback(
        self, eval_freq: int, folder: Path | None, after_eval: BaseCallback | None, verbose: int
    ) -> CostEvalCallback:
        return CostEvalCallback(
            self._make_eval_env,
            cost_limit=self.eval_cost_limit,
            eval_freq=eval_freq,
            n_eval_episodes=self.n_eval_episodes,
            n_envs=self.n_eval_envs,
            deterministic=self.deterministic_eval,
            seed=self.seed,
            log_path=folder,
            best_model_save_path=folder,
            callback_after_eval=after_eval,
            verbose=verbose,
        )
