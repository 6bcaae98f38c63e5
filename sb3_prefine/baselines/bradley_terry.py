"""The Bradley-Terry model of PPL and CPL: the probability that a segment is preferred to another, from their scores."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry_loss(
    scores: Tensor, labels: Tensor | None = None, weights: Tensor | None = None, bias: float = 1.0
) -> Tensor:
    """
    Compute the mean negative log-likelihood that the preferred segment of each pair is the better one.

    P[+ over -] = exp(s⁺) / (exp(s⁺) + exp(λ s⁻)), which is σ(s⁺ - s⁻) for λ = 1 (Bradley & Terry 1952). If the order of
    a pair is right with probability q, its loss is q ℓ(s⁺, s⁻) + (1 - q) ℓ(s⁻, s⁺).

    :param scores: Scores s⁺ and s⁻, (2, n).
    :param labels: Probabilities q, (n,), in [0, 1]. None means 1.
    :param weights: Weights of the pairs in the mean, (n,), not negative. None means equal weights.
    :param bias: Bias λ, in (0, 1].
    :return: The loss, a scalar.
    """
    preferred, dispreferred = scores
    loss = softplus(bias * dispreferred - preferred)
    if labels is not None:
        loss = labels * loss + (1.0 - labels) * softplus(bias * preferred - dispreferred)
    return weighted_mean(loss, weights)


def pair_metrics(scores: Tensor, logp: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """
    Compute the metrics of a batch of pairs, under PREFINE's names.

    :param scores: Scores of the segments, those of D_p first, (2, n).
    :param logp: Mean log-prob of each segment's steps, (2, n), in nats.
    :param weights: Weights of the pairs, (n,). None means equal weights.
    :return: The metrics, scalars.
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
    """Weighted mean over all values. It is 0 if all weights are 0; without weights, it is the mean."""
    if weights is None:
        return values.mean()
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
