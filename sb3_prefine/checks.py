"""Hyperparameters out of their range, refused in words."""

import math
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
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
    buffer_size: int,
) -> None:
    """
    Refuse what PREFINE cannot train with; the parameters are those of its constructor.

    :raises ValueError: names the argument, what was found, and what is expected
    """
    check_training(learning_rate, batch_size, log_std_min, max_grad_norm)
    for name, value in (("beta", beta), ("sft_coef", sft_coef)):
        check_not_negative(name, value)
    if beta == sft_coef == 0:
        raise ValueError("beta, sft_coef: both are 0, which leaves nothing to learn. Raise one of them.")
    check_choice("loss_type", loss_type, get_args(LossType))
    check_choice("counterfactuals", counterfactuals, get_args(Counterfactuals))
    if loss_type == "ipo" and beta == 0:
        raise ValueError("beta: 0 does not go with loss_type='ipo', which aims at a margin of 1/(2 beta). Raise it.")
    if not (_is_finite(label_smoothing) and 0 <= label_smoothing < 0.5):
        raise ValueError(f"label_smoothing: expected a fraction in [0, 0.5), found {label_smoothing!r}.")
    check_count("n_counterfactuals", n_counterfactuals)
    check_count("buffer_size", buffer_size)
    for name, optional in (
        ("log_ratio_bound", log_ratio_bound),
        ("fixed_std", fixed_std),
        ("temperature", temperature),
    ):
        check_positive_or_none(name, optional)


def check_training(
    learning_rate: float | Schedule, batch_size: int, log_std_min: float, max_grad_norm: float | None
) -> None:
    """
    Refuse what no algorithm can train with.

    :raises ValueError: names the argument, what was found, and what is expected
    """
    if not callable(learning_rate):
        check_not_negative("learning_rate", learning_rate)
    check_count("batch_size", batch_size)
    if not _is_finite(log_std_min):
        raise ValueError(f"log_std_min: expected a finite number, found {log_std_min!r}.")
    check_positive_or_none("max_grad_norm", max_grad_norm)


def check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    """:raises ValueError: it is none of the choices"""
    if choice not in choices:
        raise ValueError(f"{name}: {choice!r} is not known. Choose one of {', '.join(choices)}.")


def check_fraction(name: str, value: float) -> None:
    """:raises ValueError: it is not in (0, 1]"""
    if not (_is_finite(value) and 0 < value <= 1):
        raise ValueError(f"{name}: expected a fraction in (0, 1], found {value!r}.")


def check_not_negative(name: str, value: float) -> None:
    """:raises ValueError: it is negative or not finite"""
    if not (_is_finite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number >= 0, found {value!r}.")


def check_count(name: str, count: int) -> None:
    """:raises ValueError: it is no whole number, or none above 0"""
    if isinstance(count, bool) or not (isinstance(count, Integral) and count > 0):
        raise ValueError(f"{name}: expected a whole number > 0, found {count!r}.")


def check_positive(name: str, value: float) -> None:
    """:raises ValueError: it is not above 0, or not finite"""
    if not (_is_finite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number > 0, found {value!r}.")


def check_positive_or_none(name: str, value: float | None) -> None:
    """:raises ValueError: it is neither None nor above 0, or not finite"""
    if value is not None and not (_is_finite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number > 0 or None, found {value!r}.")


def check_discount(gamma: float) -> None:
    """:raises ValueError: it is not in (0, 1)"""
    if not (_is_finite(gamma) and 0 < gamma < 1):
        raise ValueError(f"gamma: expected a discount factor in (0, 1), found {gamma!r}.")


def _is_finite(value: object) -> bool:
    # NumPy's numbers are registered as Real.
    return isinstance(value, Real) and math.isfinite(value)


def check_masks(action_masks: np.ndarray, policy: Any, takes_action_masks: bool) -> None:
    """
    :param action_masks: a flag for each option, (n_options,) or (B, n_options)
    :param policy: to act by
    :param takes_action_masks: whether it does
    :raises ValueError: the policy takes none, or has another number of options
    """
    if not takes_action_masks:
        raise ValueError(
            f"action_masks: {type(policy).__name__} takes none. Leave them out, or fine-tune a policy of MaskablePPO."
        )
    n_options, shape = policy.action_net.out_features, np.shape(action_masks)
    if shape[-1:] != (n_options,):
        raise ValueError(
            f"action_masks: the shape is {shape}, the policy has {n_options} options. Give a flag for each option "
            f"of each choice, ({n_options},) or (B, {n_options})."
        )
