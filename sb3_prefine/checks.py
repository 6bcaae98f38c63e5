"""Hyperparameters out of their range, refused in words."""

import math
from typing import Literal, get_args

from stable_baselines3.common.type_aliases import Schedule

from sb3_prefine.objective import LossType

# Where counterfactual actions come from.
Counterfactuals = Literal["policy", "reference"]


def check_hyperparameters(
    *,
    beta: float,
    sft_coef: float,
    loss_type: LossType,
    label_smoothing: float,
    log_ratio_bound: float | None,
    n_counterfactuals: int,
    counterfactuals: Counterfactuals,
    learning_rate: float | Schedule,
    batch_size: int,
    log_std_min: float,
    fixed_std: float | None,
    temperature: float | None,
    max_grad_norm: float | None,
) -> None:
    """
    Refuse what PREFINE cannot train with; the parameters are those of its constructor.

    :raises ValueError: names the argument, what was found, and what is expected
    """
    for name, value in (("beta", beta), ("sft_coef", sft_coef), ("learning_rate", learning_rate)):
        if not callable(value) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number >= 0, found {value}.")
    if beta == sft_coef == 0:
        raise ValueError("beta, sft_coef: both are 0, which leaves nothing to learn. Raise one of them.")
    for name, choice, choices in (
        ("loss_type", loss_type, get_args(LossType)),
        ("counterfactuals", counterfactuals, get_args(Counterfactuals)),
    ):
        if choice not in choices:
            raise ValueError(f"{name}: {choice!r} is not known. Choose one of {', '.join(choices)}.")
    if loss_type == "ipo" and beta == 0:
        raise ValueError("beta: 0 does not go with loss_type='ipo', which aims at a margin of 1/(2 beta). Raise it.")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: expected a fraction in [0, 0.5), found {label_smoothing}.")
    for name, count in (("batch_size", batch_size), ("n_counterfactuals", n_counterfactuals)):
        if not (isinstance(count, int) and count > 0):
            raise ValueError(f"{name}: expected a whole number > 0, found {count}.")
    if not math.isfinite(log_std_min):
        raise ValueError(f"log_std_min: expected a finite number, found {log_std_min}.")
    for name, optional in (
        ("log_ratio_bound", log_ratio_bound),
        ("fixed_std", fixed_std),
        ("temperature", temperature),
        ("max_grad_norm", max_grad_norm),
    ):
        if optional is not None and not optional > 0:
            raise ValueError(f"{name}: expected a number > 0 or None, found {optional}.")
