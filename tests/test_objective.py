"""Eq. 6-9 against formulas written out one row at a time, and the gradient identity at θ = ref."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_prefine.objective import prefine_loss

log_probs = st.floats(-50.0, 50.0, allow_nan=False)
rows = st.lists(st.tuples(log_probs, log_probs, log_probs, log_probs, st.booleans()), min_size=1, max_size=20)


def as_tensors(batch: list[tuple[float, float, float, float, bool]]) -> tuple[torch.Tensor, ...]:
    *columns, preferred = zip(*batch, strict=True)
    return *(torch.tensor(column, dtype=torch.float64) for column in columns), torch.tensor(preferred)


def eq9_by_hand(batch: list[tuple[float, float, float, float, bool]], beta: float, sft_coef: float) -> float:
    """The paper's Eq. 6-9, one row after the other, in plain Python."""

    def minus_log_sigmoid(x: float) -> float:
        return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))

    losses_p, losses_np = [], []
    for logp_data, logp_data_ref, logp_cf, logp_cf_ref, preferred in batch:
        if preferred:  # a+ is the data's action, a- the counterfactual
            delta = (logp_data - logp_data_ref) - (logp_cf - logp_cf_ref)
            losses_p.append(minus_log_sigmoid(beta * delta) - sft_coef * logp_data)
        else:  # a+ is the counterfactual, a- the data's action
            delta = (logp_cf - logp_cf_ref) - (logp_data - logp_data_ref)
            losses_np.append(minus_log_sigmoid(beta * delta))
    return sum(float(np.mean(losses)) for losses in (losses_p, losses_np) if losses)


@given(rows, st.floats(0.0, 2.0), st.floats(0.0, 3.0))
def test_loss_is_eq9(batch, beta, sft_coef):
    loss, _ = prefine_loss(*as_tensors(batch), beta=beta, sft_coef=sft_coef)
    assert loss.item() == pytest.approx(eq9_by_hand(batch, beta, sft_coef), rel=1e-9, abs=1e-9)


@given(rows, st.floats(0.01, 2.0), st.floats(0.0, 3.0))
def test_metrics_say_what_the_loss_is_made_of(batch, beta, sft_coef):
    loss, metrics = prefine_loss(*as_tensors(batch), beta=beta, sft_coef=sft_coef)
    total = metrics["train/preference_loss"] + sft_coef * metrics["train/sft_loss"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-9, abs=1e-9)
    chosen = [beta * (data - data_ref if p else cf - cf_ref) for data, data_ref, cf, cf_ref, p in batch]
    rejected = [beta * (cf - cf_ref if p else data - data_ref) for data, data_ref, cf, cf_ref, p in batch]
    assert metrics["rewards/chosen"].item() == pytest.approx(np.mean(chosen), abs=1e-9)
    assert metrics["rewards/rejected"].item() == pytest.approx(np.mean(rejected), abs=1e-9)
    assert metrics["rewards/margins"].item() == pytest.approx(np.mean(chosen) - np.mean(rejected), abs=1e-9)
    logps = [data if p else cf for data, _, cf, _, p in batch]
    assert metrics["logps/chosen"].item() == pytest.approx(np.mean(logps), abs=1e-9)


@given(rows)
def test_without_beta_only_supervised_fine_tuning_is_left(batch):
    tensors = as_tensors(batch)
    loss, metrics = prefine_loss(*tensors, beta=0.0, sft_coef=1.0)
    preferred = [row[0] for row in batch if row[4]]
    sets = len({row[4] for row in batch})
    expected = sets * math.log(2.0) - (np.mean(preferred) if preferred else 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert metrics["rewards/margins"].item() == 0.0


def test_accuracy_is_the_share_of_rows_whose_preferred_action_gained_more():
    # Δ of the rows: +1 (preferred), -1 (preferred), +2 (dispreferred: the counterfactual gained 2)
    data, cf = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
    zeros = torch.zeros(3)
    _, metrics = prefine_loss(data, zeros, cf, zeros, torch.tensor([True, True, False]), beta=0.1, sft_coef=1.0)
    assert metrics["rewards/accuracies"].item() == pytest.approx(2 / 3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.0, 2.0), st.integers(0, 1000))
def test_gradient_at_the_reference_is_a_difference_of_two_behaviour_clonings(beta, sft_coef, seed):
    """
    At θ = ref: E[∇loss] = (λ + β/2) ∇BC(D_p) - (β/2) ∇BC(D_np), because E[∇ log π(a')] = 0.

    The expectation over counterfactuals is taken exactly, over all actions of a categorical policy, by weighting the
    loss of each counterfactual with its (detached) probability.
    """
    generator = torch.Generator().manual_seed(seed)
    n_states, n_actions = 3, 4
    logits = torch.randn((n_states, n_actions), generator=generator, dtype=torch.float64, requires_grad=True)
    action_p, action_np = torch.randint(n_actions, (2, n_states), generator=generator)
    logp = torch.log_softmax(logits, dim=1)
    reference = logp.detach()
    states = torch.arange(n_states)

    expected_loss = torch.zeros((), dtype=torch.float64)
    for state in range(n_states):
        for preferred, data_action in ((True, action_p[state]), (False, action_np[state])):
            for counterfactual in range(n_actions):
                loss, _ = prefine_loss(
                    logp[state, data_action][None],
                    reference[state, data_action][None],
                    logp[state, counterfactual][None],
                    reference[state, counterfactual][None],
                    torch.tensor([preferred]),
                    beta=beta,
                    sft_coef=sft_coef,
                )
                expected_loss = expected_loss + reference[state, counterfactual].exp() * loss / n_states
    [gradient] = torch.autograd.grad(expected_loss, logits, retain_graph=True)

    bc_p, bc_np = -logp[states, action_p].mean(), -logp[states, action_np].mean()
    [expected] = torch.autograd.grad((sft_coef + beta / 2) * bc_p - (beta / 2) * bc_np, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_no_gradient_reaches_metrics():
    logp = torch.zeros(2, requires_grad=True)
    loss, metrics = prefine_loss(
        logp, logp.detach(), logp, logp.detach(), torch.tensor([True, False]), beta=1, sft_coef=1
    )
    assert loss.requires_grad
    assert not any(metric.requires_grad for metric in metrics.values())
