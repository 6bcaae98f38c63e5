"""The training of ``sb3-prefine train``: with early stopping, and with or without evaluations."""

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_prefine.callbacks import CostEvalCallback, EarlyStopping
from sb3_prefine.cli.options import EarlyStoppingOptions, EvaluationOptions, RolloutOptions
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.evaluation.evaluate import Evaluation, evaluate_policy
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.reference import Reference
from sb3_prefine.rollout.predictor import PolicyLike


def hold_out(
    preferences: PreferenceBuffer, options: EarlyStoppingOptions, seed: int
) -> tuple[PreferenceBuffer, EarlyStopping | None]:
    """
    Hold out episodes for early stopping.

    :param preferences: All episodes of both sets.
    :param options: Fraction of the episodes to hold out, and the patience.
    :param seed: Seed of the choice.
    :return: The episodes to train on, and the callback that stops. If a set has too few episodes to hold any out, all
        episodes and None.
    :raises ValueError: If an option is out of its range.
    """
    if not 0 <= options.held_out < 1:
        raise ValueError(
            f"--held-out: {options.held_out:g} is not a fraction of the episodes. Give at least 0 and less than 1."
        )
    if options.patience < 1:
        raise ValueError(f"--patience: {options.patience} is not positive. Give a whole number of at least 1.")
    if options.held_out == 0:
        return preferences, None
    fewest = min(len(preferences.preferred), len(preferences.dispreferred))
    if int(fewest * options.held_out + 0.5) in (0, fewest):
        print(f"No early stopping: a set of {fewest} episodes is too small to hold out {options.held_out:.0%} of it.")
        return preferences, None
    training_set, held_out = preferences.split(options.held_out, seed)
    return training_set, EarlyStopping(held_out, patience=options.patience, verbose=1)


def train_only(model: PREFINE, steps: int, stopping: EarlyStopping | None, *callbacks: BaseCallback) -> float:
    """
    Train with a progress bar.

    :param model: The model to train.
    :param steps: Largest number of gradient steps.
    :param stopping: Callback that may stop earlier.
    :param callbacks: Other callbacks.
    :return: Duration of the training in seconds.
    """
    start = time.perf_counter()
    model.learn(steps, [*callbacks, *([] if stopping is None else [stopping])], progress_bar=True)
    return time.perf_counter() - start


def train_and_evaluate(
    model: PREFINE,
    steps: int,
    stopping: EarlyStopping | None,
    options: EvaluationOptions,
    cost_limit: float,
    best_path: Path | None,
) -> tuple[float, list[tuple[str, Evaluation]]]:
    """
    Train, and evaluate the reference, the trained policy, and the best safe policy found during training.

    :param model: The model to train.
    :param steps: Largest number of gradient steps.
    :param stopping: Callback that may stop earlier.
    :param options: The environment, and how often to evaluate.
    :param cost_limit: Highest cost of a safe episode.
    :param best_path: Zip for the best safe policy. None makes no evaluations during training.
    :return: Duration of the training in seconds, with its evaluations; and the name and the evaluation of each policy.
    """
    env = str(options.eval_env)
    before = ("reference", _evaluate(model.reference, env, options.rollout))
    export_best = None
    callbacks = []
    if best_path is not None:
        # The file of an earlier run would look like the result of this one.
        best_path.unlink(missing_ok=True)
        export_best = _ExportBest(best_path)
        eval_callback = CostEvalCallback(
            env,
            cost_limit=cost_limit,
            eval_freq=options.eval_freq,
            n_eval_episodes=options.eval_episodes,
            n_envs=options.eval_n_envs,
            n_workers=options.eval_n_workers,
            seed=options.eval_seed + 1,
            callback_on_new_best=export_best,
            callback_after_eval=_PrintEvaluation(),
            verbose=0,
        )
        callbacks.append(eval_callback)
    seconds = train_only(model, steps, stopping, *callbacks)
    n_steps = model.num_timesteps if stopping is None else stopping.best_timestep
    evaluations = [before, (f"after {n_steps:,} steps", _evaluate(model, env, options.rollout))]
    if export_best is not None and export_best.policy is not None:
        name = f"best safe: {export_best.n_steps:,} steps"
        evaluations.append((name, _evaluate(export_best.policy, env, options.rollout)))
    return seconds, evaluations


def _evaluate(policy: PolicyLike, env: str, rollout: RolloutOptions) -> Evaluation:
    return evaluate_policy(
        policy,
        env,
        rollout.episodes,
        n_envs=rollout.n_envs,
        n_workers=rollout.n_workers,
        seed=rollout.seed,
        progress_bar=True,
    )


class _ExportBest(BaseCallback):
    """Keeps each new best safe policy, and exports it at once, so that it survives Ctrl-C."""

    model: PREFINE

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.policy: Reference | None = None
        self.n_steps = 0

    def _on_step(self) -> bool:
        self.policy = self.model.to_reference()
        self.n_steps = self.model.num_timesteps
        self.model.export(self._path)
        return True


class _PrintEvaluation(BaseCallback):
    """Prints each evaluation in one line above the progress bar."""

    parent: CostEvalCallback

    def _on_step(self) -> bool:
        tqdm.write(f"after {self.num_timesteps:,} steps: {self.parent.last_evaluation}")
        return True
