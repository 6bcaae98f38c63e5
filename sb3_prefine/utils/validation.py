"""
Argument validation.

The errors have three parts: the argument, what was found, and what is expected.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real


def check_training(
    learning_rate: float | Callable[[float], float],
    batch_size: int,
    log_std_min: float,
    max_grad_norm: float | None,
) -> None:
    """
    Check the hyperparameters that all algorithms share.

    :param learning_rate: The learning rate, or a schedule of it.
    :param batch_size: Number of transitions (or segments) in a batch.
    :param log_std_min: Lower bound of the log standard deviation.
    :param max_grad_norm: Bound of the norm of the gradient, or None.
    :raises ValueError: If one of them is out of range.
    """
    if not callable(learning_rate):
        check_not_negative("learning_rate", learning_rate)
    check_count("batch_size", batch_size)
    require(_is_finite(log_std_min), "log_std_min", log_std_min, "a finite number")
    check_positive_or_none("max_grad_norm", max_grad_norm)


def check_choice(name: str, choice: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless the choice is one of the choices."""
    if choice not in choices:
        raise ValueError(f"{name}: {choice!r} is not known. Choose one of {', '.join(choices)}.")


def check_count(name: str, count: int) -> None:
    """Raise ValueError unless the count is a whole number above 0."""
    is_count = isinstance(count, Integral) and not isinstance(count, bool) and count > 0
    require(is_count, name, count, "a whole number > 0")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless the value is finite and not negative."""
    require(_is_finite(value) and value >= 0, name, value, "a finite number >= 0")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is finite and above 0."""
    require(_is_finite(value) and value > 0, name, value, "a finite number > 0")


def check_positive_or_none(name: str, value: float | None) -> None:
    """Raise ValueError unless the value is None, or finite and above 0."""
    require(value is None or (_is_finite(value) and value > 0), name, value, "a finite number > 0 or None")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless the value is in (0, 1]."""
    require(_is_finite(value) and 0 < value <= 1, name, value, "a fraction in (0, 1]")


def check_label_smoothing(value: float) -> None:
    """Raise ValueError unless the value is in [0, 0.5)."""
    require(_is_finite(value) and 0 <= value < 0.5, "label_smoothing", value, "a fraction in [0, 0.5)")


def check_discount(gamma: float) -> None:
    """Raise ValueError unless the discount factor is in (0, 1)."""
    require(_is_finite(gamma) and 0 < gamma < 1, "gamma", gamma, "a discount factor in (0, 1)")


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """
    Refuse an argument that does not meet a condition.

    :param condition: Whether the argument is right.
    :param name: The name of the argument.
    :param value: The value that was found.
    :param expected: What is expected, as a noun phrase: "a whole number > 0".
    :raises ValueError: If the condition is false.
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, found {value!r}.")


def _is_finite(value: object) -> bool:
    # NumPy's scalars are registered as Real.
    return isinstance(value, Real) and math.isfinite(value)
