"""Argument checks: each accepts exactly its range, and an error names the argument, the value and what is expected."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sb3_prefine.utils.validation import (
    check_choice,
    check_count,
    check_discount,
    check_fraction,
    check_label_smoothing,
    check_not_negative,
    check_positive,
    check_positive_or_none,
    check_training,
    require,
)

NOT_NUMBERS = ["1", None, [1], 1j]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32("nan")]


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (check_count, [1, 10**12, np.int64(3), np.uint8(1)], [0, -1, 1.0, 2.5, True, np.True_, np.float64(2)]),
        (check_not_negative, [0, 0.0, 1e-300, 1e300, np.float32(0.5), Fraction(1, 3)], [-1e-300, -1, np.int64(-1)]),
        (check_positive, [1e-300, 1, np.float32(0.5)], [0, 0.0, -0.5]),
        (check_positive_or_none, [None, 1e-300, 1, np.float64(0.5)], [0, -1.0]),
        (check_fraction, [1e-300, 0.5, 1, 1.0], [0, 1.0000001, -0.1, 2]),
    ],
)
def test_each_check_accepts_exactly_its_range(check, accepted, refused):
    for value in accepted:
        check("size", value)
    for value in [*refused, *NOT_FINITE, *NOT_NUMBERS]:
        if value is None and check is check_positive_or_none:
            continue
        with pytest.raises(ValueError, match=r"^size: expected ") as caught:
            check("size", value)
        assert str(caught.value).endswith(f", found {value!r}.")


@pytest.mark.parametrize(
    ("check", "name", "accepted", "refused"),
    [
        (check_label_smoothing, "label_smoothing", [0, 0.0, 0.49999], [0.5, -0.1, 1]),
        (check_discount, "gamma", [1e-9, 0.99, np.float32(0.9)], [0, 1, 1.0, -0.5]),
    ],
)
def test_checks_of_one_argument_name_it_themselves(check, name, accepted, refused):
    for value in accepted:
        check(value)
    for value in [*refused, *NOT_FINITE, *NOT_NUMBERS]:
        with pytest.raises(ValueError, match=rf"^{name}: expected ") as caught:
            check(value)
        assert str(caught.value).endswith(f", found {value!r}.")


def test_check_choice_lists_the_choices():
    check_choice("mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^mode: 'c' .*a, b\.$"):
        check_choice("mode", "c", ("a", "b"))


GOOD: dict[str, Any] = {"learning_rate": 3e-4, "batch_size": 64, "log_std_min": -5.0, "max_grad_norm": None}


@pytest.mark.parametrize(
    "accepted",
    [
        {},
        {"learning_rate": lambda progress: -progress},
        {"learning_rate": 0},
        {"max_grad_norm": 0.5},
        {"log_std_min": -20},
        {"log_std_min": 3.0},
    ],
)
def test_shared_hyperparameters_in_range_are_accepted(accepted):
    check_training(**{**GOOD, **accepted})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1e-9),
        ("learning_rate", math.inf),
        ("learning_rate", "3e-4"),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("log_std_min", -math.inf),
        ("log_std_min", None),
        ("max_grad_norm", 0),
        ("max_grad_norm", math.nan),
    ],
)
def test_shared_hyperparameters_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, found {value!r}"):
        check_training(**{**GOOD, name: value})


def test_require_shows_the_argument_the_value_and_what_is_expected():
    require(True, "kappa", None, "anything")
    with pytest.raises(ValueError, match=r"^kappa: expected a limit > 0, found 'x'\.$"):
        require(False, "kappa", "x", "a limit > 0")
