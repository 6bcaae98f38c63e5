"""What Optuna searches for, and what a trial is worth."""

from typing import Any

import optuna
from stable_baselines3.common.callbacks import BaseCallback

from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.evaluation.evaluate import Evaluation

# Below the return of any episode that anybody would keep.
_UNSAFE = -1e9


def score(evaluation: Evaluation, cost_limit: float) -> float:
    """
    What is maximised: the mean return of a safe policy; an unsafe one is below every safe one, the costlier the lower.

    RL Zoo maximises the mean return alone, which would find the hyperparameters that leave the policy as unsafe as it
    was. Only the order counts: Optuna's samplers and pruners compare values.

    :param evaluation: of the policy
    :param cost_limit: the most that an episode may cost on average
    :return: the mean return, or ``-1e9`` minus the mean cost above the limit
    """
    excess = evaluation.mean_cost - cost_limit
    return _UNSAFE - excess if excess > 0 else evaluation.mean_reward


def sample_prefine_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw hyperparameters; RL Zoo's signature, of which only the trial matters here.

    The ranges of ``beta`` and ``sft_coef`` enclose those that the paper tried (section 5.4).

    :param trial: what draws
    :param n_actions: unused
    :param n_envs: unused
    :param additional_args: unused
    :return: arguments of PREFINE
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
    """What a trial's parameters are as arguments of PREFINE: themselves."""
    return dict(sampled_params)


class TrialReport(BaseCallback):
    """
    Tells the trial what each evaluation is worth, and stops the training if the pruner says so.

    To be the ``callback_after_eval`` of a ``CostEvalCallback``.

    :param trial: of the study
    """

    parent: CostEvalCallback

    def __init__(self, trial: optuna.Trial):
        super().__init__()
        self.trial = trial
        self.is_pruned = False

    def _on_step(self) -> bool:
        evaluation = self.parent.last_evaluation
        assert evaluation is not None
        # For people: the value of an unsafe trial does not show them.
        self.trial.set_user_attr("mean_reward", evaluation.mean_reward)
        self.trial.set_user_attr("mean_cost", evaluation.mean_cost)
        self.trial.report(score(evaluation, self.parent.cost_limit), self.n_calls)
        self.is_pruned = self.trial.should_prune()
        return not self.is_pruned
