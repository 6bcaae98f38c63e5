"""The objective of PREFINE: Eq. 6-9 of the paper and its variants, one pure function from log-probs to a loss."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LossType = Literal["sigmoid", "sigmoid_norm", "robust", "hinge", "ipo"]


def prefine_loss(
    logp_data: Tensor,
    logp_data_ref: Tensor,
    logp_cf: Tensor,
    logp_cf_ref: Tensor,
    is_preferred: Tensor,
    *,
    beta: float | Tensor,
    sft_coef: float | Tensor,
    loss_type: LossType = "sigmoid",
    label_smoothing: float = 0.0,
    log_ratio_bound: float | Tensor | None = None,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
    lengths: Tensor | float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Loss of one batch that holds rows of both sets, D_p and D_np (Eq. 9: the mean over D_p plus the mean over D_np).

    The counterfactual action is a sample of the current policy. Its gradient must be stopped before its log-prob is
    taken (sample it under ``torch.no_grad()``); the gradient through the log-prob itself stays. With K counterfactuals
    a row, the preference term is the mean over them.

    A set that has no row in the batch contributes nothing, so that either set can be looked at alone.

    With δ = Δ of Eq. 6, the preference term of a pair is ℓ(δ):

    - ``"sigmoid"``: -log σ(β δ), the paper's (Eq. 7 and 8) and DPO's (Rafailov et al. 2023)
    - ``"sigmoid_norm"``: the same on δ divided by ``lengths``: log-ratios per component
    - ``"hinge"``: max(0, 1 - β δ), SLiC's (Zhao et al. 2023)
    - ``"ipo"``: (δ - 1/(2β))², δ divided by ``lengths`` (Azar et al. 2023)
    - ``"robust"``: the sigmoid's, unbiased if a fraction ``label_smoothing`` of the labels is flipped (Chowdhury et al.
      2024, Eq. 12)

    A label that is right with probability q costs q ℓ(δ) + (1 - q) ℓ(-δ): q is ``labels``, mixed with
    ``label_smoothing`` (conservative DPO).

    :param logp_data: log π_θ(a|s) of the data's actions, shape (n,), nats
    :param logp_data_ref: log π_ref(a|s) of the same actions, shape (n,)
    :param logp_cf: log π_θ(a'|s) of the counterfactual actions a' ~ π_θ(·|s), shape (n,) or (K, n)
    :param logp_cf_ref: log π_ref(a'|s) of the same actions, of the same shape
    :param is_preferred: bool, shape (n,): whether the row comes from D_p
    :param beta: temperature β of the log-ratios, a number or a scalar; 0 leaves supervised fine-tuning (SFT) alone
    :param sft_coef: weight λ of the SFT term; 0 leaves the preference term (vanilla DPO) alone
    :param loss_type: ℓ, one of the above
    :param label_smoothing: the fraction ε of labels taken to be wrong, in [0, 0.5)
    :param log_ratio_bound: b: log-ratios x become b tanh(x/b), so that no single action carries the batch; None leaves
        them
    :param weights: shape (n,), not negative: how much a row counts in the mean over its set, in both terms
    :param labels: shape (n,), in [0, 1]: the probability that the row is of the set it is in (soft labels); acts on the
        preference term
    :param lengths: shape (n,) or a number: over how many components a row's log-probs are sums; read by
        ``"sigmoid_norm"`` and ``"ipo"``
    :return: the loss (a scalar), and detached scalars by the names under which they are logged
    :raises ValueError: an unknown ``loss_type``
    """
    if loss_type not in _LOSSES:
        raise ValueError(f"loss_type: {loss_type!r} is not known. Choose one of {', '.join(_LOSSES)}.")
    preferred = is_preferred.to(logp_data.dtype)
    weight_p, weight_np = preferred, 1.0 - preferred
    if weights is not None:
        weight_p, weight_np = weight_p * weights, weight_np * weights
    weight_p = weight_p / weight_p.sum().clamp(min=torch.finfo(weight_p.dtype).tiny)
    weight_np = weight_np / weight_np.sum().clamp(min=torch.finfo(weight_np.dtype).tiny)

    # Eq. 6: in D_p the data's action is a+ and the counterfactual a-, in D_np it is the other way round.
    log_ratio_data = logp_data - logp_data_ref
    log_ratio_cf = logp_cf - logp_cf_ref
    if log_ratio_bound is not None:
        log_ratio_data = log_ratio_bound * torch.tanh(log_ratio_data / log_ratio_bound)
        log_ratio_cf = log_ratio_bound * torch.tanh(log_ratio_cf / log_ratio_bound)
    delta = (2.0 * preferred - 1.0) * (log_ratio_data - log_ratio_cf)

    # Eq. 7 and 8
    pair_loss = _pair_loss(delta, loss_type, beta, label_smoothing, labels, lengths)
    if pair_loss.dim() > 1:
        pair_loss = pair_loss.mean(dim=0)
    preference_loss = (pair_loss * (weight_p + weight_np)).sum()
    sft_loss = -(logp_data * weight_p).sum()

    # Eq. 9
    loss = preference_loss + sft_coef * sft_loss

    with torch.no_grad():
        reward_data, reward_cf = beta * log_ratio_data, beta * log_ratio_cf
        chosen, rejected = torch.where(is_preferred, logp_data, logp_cf), torch.where(is_preferred, logp_cf, logp_data)
        reward_chosen = _mean(torch.where(is_preferred, reward_data, reward_cf), weights)
        reward_rejected = _mean(torch.where(is_preferred, reward_cf, reward_data), weights)
        metrics = {
            "train/loss": loss.detach(),
            "train/preference_loss": preference_loss.detach(),
            "train/sft_loss": sft_loss.detach(),
            "rewards/chosen": reward_chosen,
            "rewards/rejected": reward_rejected,
            "rewards/margins": reward_chosen - reward_rejected,
            "rewards/accuracies": _mean((delta > 0).to(delta.dtype), weights),
            "logps/chosen": _mean(chosen, weights),
            "logps/rejected": _mean(rejected, weights),
        }
    return loss, metrics


def _sigmoid(delta: Tensor, beta: float | Tensor) -> Tensor:
    return -logsigmoid(beta * delta)


def _hinge(delta: Tensor, beta: float | Tensor) -> Tensor:
    return torch.relu(1.0 - beta * delta)


def _ipo(delta: Tensor, beta: float | Tensor) -> Tensor:
    return (delta - 1.0 / (2.0 * beta)) ** 2


_LOSSES: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid,
    "robust": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
}


def _pair_loss(
    delta: Tensor,
    loss_type: LossType,
    beta: float | Tensor,
    label_smoothing: float,
    labels: Tensor | None,
    lengths: Tensor | float,
) -> Tensor:
    """ℓ of every pair, expected over what its label may be; the shape of ``delta``."""
    loss = _LOSSES[loss_type]
    if loss_type in ("sigmoid_norm", "ipo"):
        delta = delta / lengths
    if labels is None and label_smoothing == 0.0:
        return loss(delta, beta)
    right, wrong = 1.0 - label_smoothing, label_smoothing
    if loss_type == "robust":
        # The inverse of the flip, not the flip: its expectation over flipped labels is the loss of the true ones.
        right, wrong = right / (1.0 - 2.0 * label_smoothing), -label_smoothing / (1.0 - 2.0 * label_smoothing)
    if labels is None:
        return right * loss(delta, beta) + wrong * loss(-delta, beta)
    as_labelled, flipped = labels * right + (1.0 - labels) * wrong, labels * wrong + (1.0 - labels) * right
    return as_labelled * loss(delta, beta) + flipped * loss(-delta, beta)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Over all rows, and over counterfactuals if there are several."""
    return values.mean() if weights is None else (values * weights).mean() / weights.mean()
