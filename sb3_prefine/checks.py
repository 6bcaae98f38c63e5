"""Hyperparameters out of their range, refused in words."""

import math

from stable_baselines3.common.type_aliases import Schedule


def check_hyperparameters(
    *,
    beta: float,
    sft_coef: float,
    learning_rate: float | Schedule,
    batch_size: int,
    log_std_min: float,
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
    if not (isinstance(batch_size, int) and batch_size > 0):
        raise ValueError(f"batch_size: expected a whole number > 0, found {batch_size}.")
    if not math.isfinite(log_std_min):
        raise ValueError(f"log_std_min: expected a finite number, found {log_std_min}.")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm: expected a number > 0 or None, found {max_grad_norm}.")
