"""PREFINE refuses hyperparameters out of their range, and names them and the value found."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

from sb3_prefine import PREFINE, load_reference
from tests.worlds import make_model

REFERENCE = load_reference(make_model(PPO))
GOOD: dict[str, Any] = {
    "beta": 0.05,
    "sft_coef": 1.6,
    "loss_type": "sigmoid",
    "label_smoothing": 0.0,
    "log_ratio_bound": None,
    "n_counterfactuals": 1,
    "counterfactuals": "policy",
    "learning_rate": 3e-4,
    "batch_size": 256,
    "log_std_min": -5.0,
    "fixed_std": None,
    "temperature": None,
    "max_grad_norm": None,
    "buffer_size": 1_000_000,
}


@given(
    st.fixed_dictionaries(
        {
            "beta": st.floats(1e-6, 10),
            "sft_coef": st.floats(0, 10),
            "loss_type": st.sampled_from(["sigmoid", "sigmoid_norm", "robust", "hinge", "ipo"]),
            "label_smoothing": st.floats(0, 0.49),
            "log_ratio_bound": st.none() | st.floats(1e-6, 100),
            "n_counterfactuals": st.integers(1, 16),
            "counterfactuals": st.sampled_from(["policy", "reference"]),
            "learning_rate": st.floats(0, 1),
            "batch_size": st.integers(1, 4096),
            "buffer_size": st.integers(1, 10**9),
            "max_grad_norm": st.none() | st.floats(1e-6, 100),
        }
    )
)
def test_values_in_range_are_accepted(values):
    PREFINE(REFERENCE, **{**GOOD, **values})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("beta", "sft_coef", "learning_rate") for value in (-0.1, math.nan, math.inf, "1")),
        *((name, value) for name in ("batch_size", "buffer_size") for value in (0, -1, 2.5, True, "256")),
        *(("log_std_min", value) for value in (math.inf, -math.inf, math.nan, None)),
        *(
            (name, value)
            for name in ("max_grad_norm", "log_ratio_bound", "fixed_std", "temperature")
            for value in (0.0, -1.0, math.nan, math.inf, "0.1")
        ),
        *(("n_counterfactuals", value) for value in (0, -1, 1.5)),
        *(("label_smoothing", value) for value in (-0.1, 0.5, math.nan, "0.1")),
    ],
)
def test_values_out_of_range_are_refused_and_shown(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: .*found {re.escape(repr(value))}\."):
        PREFINE(REFERENCE, **{**GOOD, name: value})


def test_numpy_numbers_are_accepted():
    numbers = {"batch_size": np.int64(8), "beta": np.float32(0.1), "log_ratio_bound": np.float64(0.1)}
    PREFINE(REFERENCE, **{**GOOD, **numbers})


def test_schedule_is_accepted_as_learning_rate():
    PREFINE(REFERENCE, **{**GOOD, "learning_rate": lambda progress: 1e-3 * progress})


def test_beta_and_sft_coef_cannot_both_be_zero():
    with pytest.raises(ValueError, match=r"^beta, sft_coef: .*0"):
        PREFINE(REFERENCE, **{**GOOD, "beta": 0.0, "sft_coef": 0.0})


@pytest.mark.parametrize(("name", "value"), [("loss_type", "nca"), ("counterfactuals", "data")])
def test_unknown_choice_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: '{value}' "):
        PREFINE(REFERENCE, **{**GOOD, name: value})


def test_ipo_needs_a_positive_beta():
    with pytest.raises(ValueError, match=r"^beta: 0 .*'ipo'"):
        PREFINE(REFERENCE, **{**GOOD, "beta": 0.0, "loss_type": "ipo"})
