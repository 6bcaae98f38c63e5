"""The model of preferences under PPL and CPL: which of two segments is better, from a score of each."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry_loss(
    scores: Tensor, labels: Tensor | None = None, weights: Tensor | None = None, bias: float = 1.0
) -> Tensor:
    """
    Minus the log-likelihood that the preferred segment of each pair is the better one, the mean over the pairs.

    P[+ over -] = exp(s⁺) / (exp(s⁺) + exp(λ s⁻)), which is σ(s⁺ - s⁻) for λ = 1 (Bradley & Terry 1952). A pair whose
    order is right with probability q costs q ℓ(s⁺, s⁻) + (1 - q) ℓ(s⁻, s⁺).

    :param scores: s⁺ and s⁻, shape (2, n)
    :param labels: q, shape (n,), in [0, 1]; None is 1 for all
    :param weights: shape (n,), not negative: how much a pair counts in the mean; None is 1 for all
    :param bias: λ, in (0, 1]
    :return: a scalar
    """
    preferred, dispreferred = scores
    loss = softplus(bias * dispreferred - preferred)
    if labels is not None:
        loss = labels * loss + (1.0 - labels) * softplus(bias * preferred - dispreferred)
    return weighted_mean(loss, weights)


def pair_metrics(scores: Tensor, logp: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """
    What is logged of a batch of pairs, under PREFINE's names.

    :param scores: of the segments, those of D_p first, (2, n)
    :param logp: mean log-probs of their steps, (2, n), nats
    :param weights: of the pairs, (n,)
    """
    (chosen, rejected), (logp_chosen, logp_rejected) = scores, logp
    return {
        "rewards/chosen": weighted_mean(chosen, weights),
        "rewards/rejected": weighted_mean(rejected, weights),
        "rewards/margins": weighted_mean(chosen - rejected, weights),
        "rewards/accuracies": weighted_mean((chosen > rejected).to(scores.dtype), weights),
        "logps/chosen": weighted_mean(logp_chosen, weights),
        "logps/rejected": weighted_mean(logp_rejected, weights),
    }


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over all values; 0 if all weights are."""
    if weights is None:
        return values.mean()
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
