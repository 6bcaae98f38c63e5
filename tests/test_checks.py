"""Every hyperparameter out of its range has its own message."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.checks import check_hyperparameters

GOOD: dict[str, Any] = {
    "beta": 0.05,
    "sft_coef": 1.6,
    "learning_rate": 3e-4,
    "batch_size": 256,
    "log_std_min": -5.0,
    "max_grad_norm": None,
}


@given(st.floats(0, 10), st.floats(0.01, 10), st.floats(0, 1), st.integers(1, 4096), st.floats(1e-6, 100))
def test_what_is_in_range_passes(beta, sft_coef, learning_rate, batch_size, max_grad_norm):
    check_hyperparameters(
        beta=beta,
        sft_coef=sft_coef,
        learning_rate=learning_rate,
        batch_size=batch_size,
        log_std_min=-5.0,
        max_grad_norm=max_grad_norm,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("beta", "sft_coef", "learning_rate") for value in (-0.1, math.nan, math.inf)),
        *(("batch_size", value) for value in (0, -1, 2.5)),
        *(("log_std_min", value) for value in (math.inf, -math.inf, math.nan)),
        *(("max_grad_norm", value) for value in (0.0, -1.0, math.nan)),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*{value}".replace("inf", "(inf|finite)")):
        check_hyperparameters(**{**GOOD, name: value})


def test_a_schedule_is_not_a_number():
    check_hyperparameters(**{**GOOD, "learning_rate": lambda progress: 1e-3 * progress})


def test_nothing_to_learn_is_refused():
    with pytest.raises(ValueError, match="both are 0"):
        check_hyperparameters(**{**GOOD, "beta": 0.0, "sft_coef": 0.0})
