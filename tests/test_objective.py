"""Eq. 6-9 compared with formulas for single rows, and the gradient identity at θ = ref."""

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


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


def eq9_by_hand(batch: list[tuple[float, float, float, float, bool]], beta: float, sft_coef: float) -> float:
    """Compute Eq. 6-9 of the paper, one row after the other, in plain Python."""
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
def test_metrics_contain_the_terms_of_the_loss(batch, beta, sft_coef):
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
def test_beta_0_leaves_supervised_fine_tuning(batch):
    tensors = as_tensors(batch)
    loss, metrics = prefine_loss(*tensors, beta=0.0, sft_coef=1.0)
    preferred = [row[0] for row in batch if row[4]]
    sets = len({row[4] for row in batch})
    expected = sets * math.log(2.0) - (np.mean(preferred) if preferred else 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert metrics["rewards/margins"].item() == 0.0


def test_accuracy_is_the_fraction_of_rows_with_positive_delta():
    # Δ of the rows: +1 (preferred), -1 (preferred), +2 (dispreferred: the counterfactual gained 2)
    data, cf = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
    zeros = torch.zeros(3)
    _, metrics = prefine_loss(data, zeros, cf, zeros, torch.tensor([True, True, False]), beta=0.1, sft_coef=1.0)
    assert metrics["rewards/accuracies"].item() == pytest.approx(2 / 3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.0, 2.0), st.integers(0, 1000))
def test_gradient_at_the_reference_is_a_difference_of_two_bc_gradients(beta, sft_coef, seed):
    """
    At θ = ref, E[∇loss] = (λ + β/2) ∇BC(D_p) - (β/2) ∇BC(D_np), because E[∇ log π(a')] = 0.

    The expectation over counterfactuals is exact: it weights the loss of every action of a categorical policy with its
    detached probability.
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


def test_metrics_are_detached():
    logp = torch.zeros(2, requires_grad=True)
    loss, metrics = prefine_loss(
        logp, logp.detach(), logp, logp.detach(), torch.tensor([True, False]), beta=1, sft_coef=1
    )
    assert loss.requires_grad
    assert not any(metric.requires_grad for metric in metrics.values())


# ℓ(δ) of one pair, from the papers' formulas.
BY_HAND = {
    "sigmoid": lambda delta, beta, length: minus_log_sigmoid(beta * delta),
    "sigmoid_norm": lambda delta, beta, length: minus_log_sigmoid(beta * delta / length),
    "robust": lambda delta, beta, length: minus_log_sigmoid(beta * delta),
    "hinge": lambda delta, beta, length: max(0.0, 1.0 - beta * delta),
    "ipo": lambda delta, beta, length: (delta / length - 1.0 / (2.0 * beta)) ** 2,
}
POSITIVE = torch.tensor([True])
FOUR = [torch.tensor([x], dtype=torch.float64) for x in (-1.3, -2.0, 0.4, -0.9)]
DELTA = (-1.3 + 2.0) - (0.4 + 0.9)


def preference_loss(*tensors: torch.Tensor, preferred: torch.Tensor = POSITIVE, **options: object) -> float:
    tensors = tensors or tuple(FOUR)
    return prefine_loss(*tensors, preferred, sft_coef=0.0, **options)[0].item()


@pytest.mark.parametrize("loss_type", BY_HAND)
@pytest.mark.parametrize(("preferred", "sign"), [(True, 1.0), (False, -1.0)])
def test_every_loss_type_equals_its_formula(loss_type, preferred, sign):
    found = preference_loss(preferred=torch.tensor([preferred]), beta=0.7, loss_type=loss_type, lengths=3.0)
    assert found == pytest.approx(BY_HAND[loss_type](sign * DELTA, 0.7, 3.0))


def test_each_row_may_have_its_own_length():
    tensors = [torch.cat((x, x)) for x in FOUR]
    both = torch.tensor([True, True])
    found = preference_loss(
        *tensors, preferred=both, beta=0.7, loss_type="sigmoid_norm", lengths=torch.tensor([1.0, 4.0])
    )
    assert found == pytest.approx((minus_log_sigmoid(0.7 * DELTA) + minus_log_sigmoid(0.7 * DELTA / 4)) / 2)


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
def test_label_smoothing_is_the_expected_loss_over_flipped_labels(loss_type):
    one = BY_HAND[loss_type]
    expected = 0.8 * one(DELTA, 0.7, 1.0) + 0.2 * one(-DELTA, 0.7, 1.0)
    assert preference_loss(beta=0.7, loss_type=loss_type, label_smoothing=0.2) == pytest.approx(expected)


@given(st.floats(0.0, 0.45), st.floats(0.05, 2.0))
def test_robust_loss_is_unbiased_under_flipped_labels(epsilon, beta):
    """Chowdhury et al. 2024: the mean over labels flipped with probability ε is the loss of the true labels."""
    swapped = [FOUR[2], FOUR[3], FOUR[0], FOUR[1]]
    options = {"beta": beta, "loss_type": "robust", "label_smoothing": epsilon}
    mean = (1 - epsilon) * preference_loss(**options) + epsilon * preference_loss(*swapped, **options)
    assert mean == pytest.approx(preference_loss(beta=beta), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss_type", BY_HAND)
def test_soft_labels_mix_the_losses_of_both_labels(loss_type):
    options = {"beta": 0.7, "loss_type": loss_type, "label_smoothing": 0.1}
    right = preference_loss(**options)
    wrong = preference_loss(FOUR[2], FOUR[3], FOUR[0], FOUR[1], **options)
    assert preference_loss(**options, labels=torch.tensor([0.7], dtype=torch.float64)) == pytest.approx(
        0.7 * right + 0.3 * wrong
    )


def test_gradient_of_a_tie_is_zero_at_the_reference():
    logp = torch.tensor([-1.0], requires_grad=True)
    loss, _ = prefine_loss(
        logp, logp.detach(), FOUR[2], FOUR[2], POSITIVE, beta=1.0, sft_coef=0.0, labels=torch.tensor([0.5])
    )
    loss.backward()
    assert logp.grad.item() == pytest.approx(0.0, abs=1e-9)


def test_weights_apply_to_both_terms_within_each_set():
    batch = [(-1.0, -1.5, 0.2, 0.1, True), (-3.0, -1.0, 0.0, 0.3, True), (-0.5, -0.5, 1.0, 0.2, False)]
    tensors = as_tensors(batch)
    weighted, _ = prefine_loss(*tensors, beta=0.7, sft_coef=0.9, weights=torch.tensor([3.0, 1.0, 5.0]))
    # A weight of 3 equals repeating the row three times. In a set with one row, its weight has no effect.
    repeated, _ = prefine_loss(*as_tensors([batch[0]] * 3 + batch[1:]), beta=0.7, sft_coef=0.9)
    assert weighted.item() == pytest.approx(repeated.item())


def test_row_with_weight_0_is_ignored():
    batch = [(-1.0, -1.5, 0.2, 0.1, True), (-3.0, -1.0, 0.0, 0.3, True), (-0.5, -0.5, 1.0, 0.2, False)]
    without, _ = prefine_loss(*as_tensors(batch), beta=0.7, sft_coef=0.9, weights=torch.tensor([1.0, 0.0, 0.5]))
    assert without.item() == pytest.approx(eq9_by_hand([batch[0], batch[2]], 0.7, 0.9))


def test_loss_is_averaged_over_counterfactuals():
    cf, cf_ref = torch.tensor([[0.4], [-2.0]]), torch.tensor([[-0.9], [0.1]])
    deltas = [DELTA, (-1.3 + 2.0) - (-2.0 - 0.1)]
    found = preference_loss(FOUR[0], FOUR[1], cf, cf_ref, beta=0.7)
    assert found == pytest.approx(np.mean([minus_log_sigmoid(0.7 * delta) for delta in deltas]), rel=1e-6)


def test_log_ratio_bound_limits_large_log_ratios_only():
    def bounded(ratio: float) -> float:
        one = torch.tensor([ratio], dtype=torch.float64)
        zero = torch.zeros_like(one)
        return preference_loss(one, zero, zero, zero, beta=1.0, log_ratio_bound=5.0)

    assert bounded(1e6) == pytest.approx(minus_log_sigmoid(5.0))
    assert bounded(-1e6) == pytest.approx(minus_log_sigmoid(-5.0))
    assert bounded(3.0) == pytest.approx(minus_log_sigmoid(5.0 * math.tanh(0.6)))
    assert bounded(1e-3) == pytest.approx(minus_log_sigmoid(1e-3), rel=1e-9)


def test_log_ratio_bound_does_not_affect_the_sft_term():
    _, metrics = prefine_loss(*FOUR, POSITIVE, beta=1.0, sft_coef=1.0, log_ratio_bound=0.1)
    assert metrics["train/sft_loss"].item() == pytest.approx(1.3)


def test_unknown_loss_type_is_refused():
    with pytest.raises(ValueError, match=r"^loss_type: 'nca' .*sigmoid, "):
        preference_loss(beta=1.0, loss_type="nca")
