"""The Bradley-Terry loss compared with its formula in NumPy, and its gradient with the closed form."""

import math

import numpy as np
import pytest
import torch

from sb3_prefine.baselines.bradley_terry import bradley_terry_loss, pair_metrics, weighted_mean

SCORES = torch.tensor([[0.5, -2.0, 1.0], [0.25, -1.0, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)


def likelihood(better: float, worse: float, bias: float) -> float:
    return math.exp(better) / (math.exp(better) + math.exp(bias * worse))


@pytest.mark.parametrize("bias", [1.0, 0.5])
@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_is_the_negative_log_likelihood_of_the_order(bias, labels, weights):
    q = np.ones(3) if labels is None else labels.numpy()
    w = np.ones(3) if weights is None else weights.numpy()
    losses = [
        -q[i] * math.log(likelihood(first, second, bias)) - (1 - q[i]) * math.log(likelihood(second, first, bias))
        for i, (first, second) in enumerate(SCORES.T.tolist())
    ]
    expected = (w * losses).sum() / w.sum()
    assert float(bradley_terry_loss(SCORES, labels, weights, bias)) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_the_probability_of_the_other_order():
    """∂ℓ/∂s⁺ = -σ(λ s⁻ - s⁺), ∂ℓ/∂s⁻ = λ σ(λ s⁻ - s⁺)"""
    scores, bias = SCORES.clone().requires_grad_(), 0.5
    bradley_terry_loss(scores, bias=bias).backward()
    preferred, dispreferred = SCORES.numpy()
    wrong = 1 / (1 + np.exp(preferred - bias * dispreferred))
    np.testing.assert_allclose(scores.grad, [-wrong / 3, bias * wrong / 3])


def test_a_bias_below_one_lowers_the_loss_of_likely_segments():
    """Both scores are raised by the same number."""
    for bias, is_lower in ((1.0, False), (0.5, True)):
        before, after = (float(bradley_terry_loss(SCORES + by, bias=bias)) for by in (0.0, 1.0))
        assert (after < before - 0.01) == is_lower
        if not is_lower:
            assert after == pytest.approx(before, rel=1e-12)


def test_the_loss_of_distant_scores_is_finite():
    scores = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = bradley_terry_loss(scores)
    loss.backward()
    assert float(loss.detach()) == 1e4
    np.testing.assert_array_equal(scores.grad, [[0.0, -0.5], [0.0, 0.5]])


def test_metrics_are_weighted_means_over_the_pairs():
    logp = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -7.0]], dtype=torch.float64)
    metrics = {name: float(value) for name, value in pair_metrics(SCORES, logp, WEIGHTS).items()}
    w = WEIGHTS.numpy() / WEIGHTS.sum().item()
    preferred, dispreferred = SCORES.numpy()
    assert metrics == pytest.approx(
        {
            "rewards/chosen": w @ preferred,
            "rewards/rejected": w @ dispreferred,
            "rewards/margins": w @ (preferred - dispreferred),
            "rewards/accuracies": w[0],
            "logps/chosen": w @ logp[0].numpy(),
            "logps/rejected": w @ logp[1].numpy(),
        }
    )
    assert float(pair_metrics(SCORES, logp, None)["rewards/accuracies"]) == pytest.approx(1 / 3)


def test_the_mean_is_zero_if_all_weights_are():
    assert float(weighted_mean(SCORES[0], torch.zeros(3, dtype=torch.float64))) == 0.0
