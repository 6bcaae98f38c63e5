"""Callbacks for ``learn``: follow the cost of the policy, keep the best safe model, stop early."""

import io
import math
import pickle
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.evaluation.cost_gap import CostFunction, CostGap, cost_gap
from sb3_prefine.evaluation.evaluate import Evaluation, check_cost_limit, evaluate_policy
from sb3_prefine.prefine import PREFINE
from sb3_prefine.rollout.make_envs import EnvSource
from sb3_prefine.utils.files import write_atomically


class CostEvalCallback(EventCallback):
    """
    Evaluate the model at intervals and keep the best *safe* one.

    SB3's ``EvalCallback`` keeps the model with the highest return, which here often breaks the limit. This callback
    keeps the highest mean return among the evaluations whose mean cost is at most ``cost_limit``. It needs no training
    environment, does not change the model's random state, and works with any SB3 model. A model that trains behind
    ``VecNormalize`` is evaluated with its statistics.

    Every evaluation runs the same episodes, and these choose the best model. Report its numbers from
    :func:`~sb3_prefine.evaluate_policy` with another seed.

    Logs ``eval/mean_reward``, ``eval/mean_ep_length``, ``eval/mean_cost``, ``eval/violation_rate`` and
    ``eval/cvar_cost`` (the mean cost of the worst tenth of the episodes).

    :param eval_env: An environment id, a callable that returns a new environment, an environment, or a ``DummyVecEnv``.
        It has to report ``info["cost"]``.
    :param cost_limit: Cost limit of an episode.
    :param eval_freq: Number of calls of the callback between two evaluations. A call is a gradient step of PREFINE, or
        a step of all training environments of PPO or SAC.
    :param n_eval_episodes: Number of episodes in an evaluation.
    :param n_envs: Number of environments. 16 for each worker are fastest.
    :param n_workers: Number of processes that step the environments, including this one. It does not change the
        episodes. Each evaluation starts the processes; :func:`~sb3_prefine.rollout.generate_episodes` says what more
        than one requires of a script.
    :param deterministic: Whether to use deterministic actions.
    :param seed: Seed of the evaluation episodes.
    :param log_path: Folder for ``evaluations.npz``: ``timesteps`` (n_evaluations,) and ``results``, ``ep_lengths``,
        ``costs`` (n_evaluations, n_eval_episodes). The first three have SB3's names; RL Zoo's ``all_plots -k costs``
        plots the last.
    :param best_model_save_path: Folder for ``best_model.zip``, and for ``vecnormalize.pkl`` if the model trains behind
        ``VecNormalize``.
    :param callback_on_new_best: Callback for each new best safe model.
    :param callback_after_eval: Callback after every evaluation.
    :param verbose: 0 for no output, 1 for a line for each evaluation.
    :raises ValueError: If a number is out of range; or, at the first evaluation, if the environment reports no cost.
    """

    def __init__(
        self,
        eval_env: EnvSource,
        *,
        cost_limit: float,
        eval_freq: int = 1000,
        n_eval_episodes: int = 10,
        n_envs: int = 32,
        n_workers: int = 1,
        deterministic: bool = True,
        seed: int = 0,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        verbose: int = 1,
    ):
        super().__init__(callback_after_eval, verbose=verbose)
        check_cost_limit(cost_limit)
        _check_positive(eval_freq=eval_freq, n_eval_episodes=n_eval_episodes, n_envs=n_envs, n_workers=n_workers)
        self.eval_env = eval_env
        self.cost_limit = cost_limit
        self.eval_freq = eval_freq
        self.n_eval_episodes = n_eval_episodes
        self.n_envs = n_envs
        self.n_workers = n_workers
        self.deterministic = deterministic
        self.seed = seed
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        # The best safe model so far. SB3's StopTrainingOnNoModelImprovement starts from -inf.
        self.best_mean_reward = -np.inf
        self.best_mean_cost = np.nan
        self.last_evaluation: Evaluation | None = None
        self._timesteps: list[int] = []
        self._evaluations: list[Evaluation] = []

    def _init_callback(self) -> None:
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq != 0:
            return True
        evaluation = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            n_envs=self.n_envs,
            n_workers=self.n_workers,
            deterministic=self.deterministic,
            seed=self.seed,
        )
        if np.isnan(evaluation.episode_costs).any():
            raise ValueError(
                'eval_env: it does not report info["cost"] in every episode, so no model can be called safe. Pass an '
                "environment that reports it at every step."
            )
        self.last_evaluation = evaluation
        self._timesteps.append(self.num_timesteps)
        self._evaluations.append(evaluation)
        self._log(evaluation)
        if self.log_path is not None:
            self._write_evaluations(self.log_path / "evaluations.npz")

        continue_training = True
        if evaluation.mean_cost <= self.cost_limit and evaluation.mean_reward > self.best_mean_reward:
            continue_training = self._keep_best(evaluation)
        return self._on_event() and continue_training

    def update_child_locals(self, locals_: dict) -> None:
        super().update_child_locals(locals_)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.update_locals(locals_)

    def _log(self, evaluation: Evaluation) -> None:
        if self.verbose >= 1:
            print(f"Evaluation at {self.num_timesteps:,} timesteps: {evaluation}")
        self.logger.record("eval/mean_reward", evaluation.mean_reward)
        self.logger.record("eval/mean_ep_length", float(evaluation.episode_lengths.mean()))
        self.logger.record("eval/mean_cost", evaluation.mean_cost)
        self.logger.record("eval/violation_rate", evaluation.violation_rate(self.cost_limit))
        self.logger.record("eval/cvar_cost", evaluation.cvar_cost())
        # Dump now, so that the numbers are logged at their timestep, as in SB3's EvalCallback.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _keep_best(self, evaluation: Evaluation) -> bool:
        if self.verbose >= 1:
            print(f"New best safe model: mean cost {evaluation.mean_cost:,.1f} is within {self.cost_limit:,g}")
        self.best_mean_reward = evaluation.mean_reward
        self.best_mean_cost = evaluation.mean_cost
        if self.best_model_save_path is not None:
            file = io.BytesIO()
            self.model.save(file)
            write_atomically(self.best_model_save_path / "best_model.zip", file.getvalue())
            # The zip is useless without these statistics. PREFINE has its statistics in the zip.
            if (vec_normalize := self.model.get_vec_normalize_env()) is not None:
                write_atomically(self.best_model_save_path / "vecnormalize.pkl", pickle.dumps(vec_normalize))
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()

    def _write_evaluations(self, path: Path) -> None:
        file = io.BytesIO()
        np.savez(
            file,
            timesteps=self._timesteps,
            results=[e.episode_rewards for e in self._evaluations],
            ep_lengths=[e.episode_lengths for e in self._evaluations],
            costs=[e.episode_costs for e in self._evaluations],
        )
        write_atomically(path, file.getvalue())


@dataclass(frozen=True, eq=False)
class CostGaps:
    """
    One measurement of :class:`CostGapCallback`.

    :param timestep: Number of gradient steps before the measurement.
    :param preferred: Cost gap of the preferred episodes.
    :param dispreferred: Cost gap of the dispreferred episodes.
    """

    timestep: int
    preferred: CostGap
    dispreferred: CostGap


class CostGapCallback(BaseCallback):
    """
    Follow the gap between the cost of the policy's actions and the recorded cost (paper, Fig. 2).

    At each recorded state of both sets, an action is sampled from the policy. The gap of an episode is the absolute
    difference between its recorded cost and the cost of these actions. Logs the means over the episodes,
    ``cost_gap/preferred`` and ``cost_gap/dispreferred``. The gap to the preferred episodes shrinks and the gap to the
    dispreferred ones grows while a policy becomes safer. :attr:`history` also tells which of the two costs is higher.

    The first measurement is before the first gradient step. All measurements use the same noise, so that only the
    policy makes a difference. They do not change the model's random state and need no environment::

        callback = CostGapCallback(one_step_costs(gymnasium.make("SafetyHalfCheetahVelocity-v1")))
        model.learn(20_000, callback=callback)
        [gaps.preferred.mean for gaps in callback.history]

    :param cost_fn: Function that returns the costs (N,) of actions at N raw observations; see
        :func:`~sb3_prefine.evaluation.cost_gap.cost_gap`.
    :param preferences: Episodes to measure, or None for those that the model learns from. Fewer are faster.
    :param eval_freq: Number of calls of the callback between two measurements. A call is a gradient step of PREFINE.
    :param seed: Seed of the actions.
    :param verbose: 0 for no output, 1 for a line for each measurement.
    :raises ValueError: If ``eval_freq`` is not positive; at the start of training, if there are no preferences; at a
        measurement, if ``cost_gap`` raises it.
    """

    def __init__(
        self,
        cost_fn: CostFunction,
        preferences: PreferenceBuffer | None = None,
        *,
        eval_freq: int = 1000,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        _check_positive(eval_freq=eval_freq)
        self.cost_fn = cost_fn
        self.preferences = preferences
        self.eval_freq = eval_freq
        self.seed = seed
        self.history: list[CostGaps] = []

    def _on_training_start(self) -> None:
        found = getattr(self.model, "preferences", None) if self.preferences is None else self.preferences
        if found is None:
            raise ValueError(
                f"preferences: the {type(self.model).__name__} has no preferences to measure. Pass "
                "CostGapCallback(cost_fn, preferences)."
            )
        self._measured = found
        if self.num_timesteps == 0:
            self.history = []
        # A continued training may start at the timestep of the last measurement.
        if not self.history or self.history[-1].timestep != self.num_timesteps:
            self._measure()

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self._measure()
        return True

    def _measure(self) -> None:
        preferred, dispreferred = (
            cost_gap(self.model, episodes, self.cost_fn, self.seed)
            for episodes in (self._measured.preferred, self._measured.dispreferred)
        )
        self.history.append(CostGaps(self.num_timesteps, preferred, dispreferred))
        if self.verbose >= 1:
            print(
                f"Cost gap at {self.num_timesteps:,} timesteps: preferred {preferred.mean:,.1f}, "
                f"dispreferred {dispreferred.mean:,.1f}"
            )
        self.logger.record("cost_gap/preferred", preferred.mean)
        self.logger.record("cost_gap/dispreferred", dispreferred.mean)
        # Dump now, so that the numbers are logged at their timestep.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


# Transitions of each set in an evaluation, which takes about as long as ten updates.
_N_TRANSITIONS = 4096


class EarlyStopping(BaseCallback):
    """
    Stop training when the loss on held-out preferences no longer falls, and restore the best weights.

    It needs no environment. Hold out whole episodes, and train on the others::

        train, held_out = preferences.split(0.2)
        model = PREFINE("ppo/HalfCheetah-v3", train)
        model.learn(20_000, callback=EarlyStopping(held_out))

    The loss is Eq. 9 with the model's hyperparameters. All evaluations use the same transitions and the same noise.
    Logs ``held_out/loss``, ``held_out/accuracies`` and ``held_out/sft_loss``.

    :param held_out: Preferences that the model does not train on.
    :param eval_freq: Number of gradient steps between two evaluations.
    :param patience: Number of consecutive evaluations without a new lowest loss after which training stops.
    :param seed: Seed of the transitions and of the noise.
    :param verbose: 0 for no output, 1 for a line at the end.
    :raises ValueError: If a number is not positive; at the start of training, if the preferences do not fit the policy.
    :raises TypeError: If the model is not a PREFINE model, at the start of training.
    """

    model: PREFINE

    def __init__(
        self, held_out: PreferenceBuffer, *, eval_freq: int = 100, patience: int = 5, seed: int = 0, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        _check_positive(eval_freq=eval_freq, patience=patience)
        self.held_out = held_out
        self.eval_freq = eval_freq
        self.patience = patience
        self.seed = seed
        self.best_loss = math.inf
        self.best_timestep = 0

    def _on_training_start(self) -> None:
        if not isinstance(self.model, PREFINE):
            raise TypeError(
                f"model: EarlyStopping computes PREFINE's loss, found a {type(self.model).__name__}. Train a PREFINE "
                "model."
            )
        self._tables = self.model.build_tables(self.held_out)
        self.best_loss, self._evaluations_since = math.inf, 0
        self._evaluate()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.eval_freq == 0:
            self._evaluate()
        return self._evaluations_since < self.patience

    def _on_training_end(self) -> None:
        if self.num_timesteps != self._last_timestep:
            self._evaluate()
        self.model.policy.load_state_dict(self._best_weights)
        if self.verbose >= 1:
            stopped = "stopped" if self._evaluations_since >= self.patience else "ended"
            print(
                f"Training {stopped} after {self.num_timesteps:,} gradient steps. The weights are those after "
                f"{self.best_timestep:,}, whose loss on held-out preferences was lowest: {self.best_loss:,.3f}."
            )

    def _evaluate(self) -> None:
        found = self.model.score(self._tables, _N_TRANSITIONS, self.seed)
        for name in ("train/loss", "train/sft_loss", "rewards/accuracies"):
            self.logger.record(f"held_out/{name.partition('/')[2]}", found[name])
        self._last_timestep = self.num_timesteps
        self._evaluations_since += 1
        if found["train/loss"] < self.best_loss:
            self.best_loss, self.best_timestep, self._evaluations_since = found["train/loss"], self.num_timesteps, 0
            self._best_weights: dict[str, Any] = deepcopy(self.model.policy.state_dict())


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: {number} is not positive. Pass 1 or more.")
