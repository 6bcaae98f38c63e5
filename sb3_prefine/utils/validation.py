"""Argument validation."""

import math
from numbers import Integral, Real

from stable_baselines3.common.type_aliases import Schedule


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


def check_label_smoothing(value: float) -> None:
    """:raises ValueError: If it is not in [0, 0.5)."""
    if not (_is_finite(value) and 0 <= value < 0.5):
        raise ValueError(f"label_smoothing: expected a fraction in [0, 0.5), found {value!r}.")


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
