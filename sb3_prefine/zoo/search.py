"""Optuna's search space, and the value of a trial."""

from typing import Any

import optuna
from stable_baselines3.common.callbacks import BaseCallback

from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.evaluation.evaluate import Evaluation

# Below every return that an environment gives.
_UNSAFE = -1e9


def trial_value(evaluation: Evaluation, cost_limit: float) -> float:
    """
    Compute the value that Optuna maximises.

    It is the mean return of a safe policy. The value of an unsafe policy is lower than that of every safe one, and
    falls with the cost. RL Zoo maximises the mean return alone, which would choose hyperparameters that leave the
    policy unsafe. Only the order of the values matters, because Optuna's samplers and pruners compare them.

    :param evaluation: Evaluation of the policy.
    :param cost_limit: Highest mean cost of a safe policy.
    :return: The mean return, or ``-1e9`` minus the mean cost above the limit.
    """
    excess = evaluation.mean_cost - cost_limit
    return _UNSAFE - excess if excess > 0 else evaluation.mean_reward


def sample_prefine_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw hyperparameters. The signature is RL Zoo's.

    The ranges of ``beta`` and ``sft_coef`` contain those that the paper tried (section 5.4).

    :param trial: The trial, which draws them.
    :param n_actions: Unused.
    :param n_envs: Unused.
    :param additional_args: Unused.
    :return: Arguments of PREFINE.
    """
    return convert_prefine_params(
        {
            "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256, 512, 1024]),
            "beta": trial.suggest_float("beta", 0.01, 1.0, log=True),
            "sft_coef": trial.suggest_float("sft_coef", 0.1, 4.0, log=True),
        }
    )


def convert_prefine_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert the parameters of a trial to arguments of PREFINE. They are the same.

    :param sampled_params: Parameters of the trial.
    :return: Arguments of PREFINE.
    """
    return dict(sampled_params)


class TrialCallback(BaseCallback):
    """
    Reports the value of each evaluation to a trial, and stops the training if the pruner gives up on the trial.

    Pass it as ``callback_after_eval`` of a ``CostEvalCallback``.

    :param trial: The trial of the study.
    """

    parent: CostEvalCallback

    def __init__(self, trial: optuna.Trial):
        super().__init__()
        self.trial = trial
        self.is_pruned = False

    def _on_step(self) -> bool:
        evaluation = self.parent.last_evaluation
        assert evaluation is not None
        # For the reader of the study: the value of an unsafe trial does not show them.
        self.trial.set_user_attr("mean_reward", evaluation.mean_reward)
        self.trial.set_user_attr("mean_cost", evaluation.mean_cost)
        self.trial.report(trial_value(evaluation, self.parent.cost_limit), self.n_calls)
        self.is_pruned = self.trial.should_prune()
        return not self.is_pruned
