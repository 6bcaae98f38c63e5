"""The objective of PREFINE: Eq. 6-9 of the paper and its variants, from log-probs to a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    objective = Objective(beta, sft_coef, loss_type, label_smoothing, log_ratio_bound, lengths)
    logp, logp_ref = _stacked(logp_data, logp_cf), _stacked(logp_data_ref, logp_cf_ref)
    sets = Sets(is_preferred, weights, logp.dtype)
    terms = objective.terms(logp, logp_ref, sets, labels)
    return terms.loss, objective.metrics(terms, sets)


@dataclass(frozen=True)
class Objective:
    """Eq. 9 with its hyperparameters, which are those of :func:`prefine_loss`."""

    beta: float | Tensor
    sft_coef: float | Tensor
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    log_ratio_bound: float | Tensor | None = None
    lengths: Tensor | float = 1.0

    def terms(self, logp: Tensor, logp_ref: Tensor, sets: "Sets", labels: Tensor | None = None) -> "Terms":
        """
        The loss and what it is made of.

        :param logp: log π_θ of the data's actions and of K counterfactuals, shape (1 + K, n), nats
        :param logp_ref: log π_ref of the same actions, of the same shape
        :param sets: of the rows
        :param labels: as in :func:`prefine_loss`
        :raises ValueError: an unknown ``loss_type``
        """
        if self.loss_type not in _LOSSES:
            raise ValueError(f"loss_type: {self.loss_type!r} is not known. Choose one of {', '.join(_LOSSES)}.")
        log_ratio = logp - logp_ref
        if self.log_ratio_bound is not None:
            log_ratio = self.log_ratio_bound * torch.tanh(log_ratio / self.log_ratio_bound)

        # Eq. 6: in D_p the data's action is a+ and the counterfactual a-, in D_np it is the other way round.
        log_ratio_data, log_ratio_cf = log_ratio.split((1, len(log_ratio) - 1))
        delta = sets.sign * (log_ratio_data - log_ratio_cf)

        # Eq. 7 and 8
        preference_loss = _mean(self._pair_loss(delta, labels), sets.of_each)
        sft_loss = -_mean(logp[:1], sets.of_preferred)

        # Eq. 9
        return Terms(preference_loss + self.sft_coef * sft_loss, preference_loss, sft_loss, logp, log_ratio, delta)

    @torch.no_grad()
    def metrics(self, terms: "Terms", sets: "Sets") -> dict[str, Tensor]:
        """Detached scalars by the names under which they are logged."""

        def mean_of_chosen(data: Tensor, counterfactuals: Tensor) -> Tensor:
            return _mean(torch.where(sets.is_preferred, data, counterfactuals), sets.of_all)

        def mean_of_rejected(data: Tensor, counterfactuals: Tensor) -> Tensor:
            return _mean(torch.where(sets.is_preferred, counterfactuals, data), sets.of_all)

        rewards = self.beta * terms.log_ratio
        chosen, rejected = mean_of_chosen(rewards[:1], rewards[1:]), mean_of_rejected(rewards[:1], rewards[1:])
        return {
            "train/loss": terms.loss.detach(),
            "train/preference_loss": terms.preference_loss.detach(),
            "train/sft_loss": terms.sft_loss.detach(),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": _mean((terms.delta > 0).to(terms.delta.dtype), sets.of_all),
            "logps/chosen": mean_of_chosen(terms.logp[:1], terms.logp[1:]),
            "logps/rejected": mean_of_rejected(terms.logp[:1], terms.logp[1:]),
        }

    def _pair_loss(self, delta: Tensor, labels: Tensor | None) -> Tensor:
        """ℓ of every pair, expected over what its label may be; the shape of ``delta``."""
        loss, beta, smoothing = _LOSSES[self.loss_type], self.beta, self.label_smoothing
        if self.loss_type in ("sigmoid_norm", "ipo"):
            delta = delta / self.lengths
        if labels is None and smoothing == 0.0:
            return loss(delta, beta)
        right, wrong = 1.0 - smoothing, smoothing
        if self.loss_type == "robust":
            # The inverse of the flip, not the flip: its expectation over flipped labels is the loss of the true ones.
            right, wrong = right / (1.0 - 2.0 * smoothing), -smoothing / (1.0 - 2.0 * smoothing)
        if labels is None:
            return right * loss(delta, beta) + wrong * loss(-delta, beta)
        labels = labels.to(delta.dtype)
        as_labelled, flipped = labels * right + (1.0 - labels) * wrong, labels * wrong + (1.0 - labels) * right
        return as_labelled * loss(delta, beta) + flipped * loss(-delta, beta)


@dataclass(frozen=True, eq=False)
class Sets:
    """
    Which set each row of a batch is of, and how much it counts. The means of the loss are taken from here, where they
    are computed once: an update is many small operations, and batch after batch shares these.

    :param is_preferred: bool, shape (n,): whether the row comes from D_p
    :param weights: shape (n,), not negative: how much a row counts in the mean over its set; None is 1 for all
    :param dtype: of the log-probs
    """

    is_preferred: Tensor
    weights: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @cached_property
    def sign(self) -> Tensor:
        """1 for rows of D_p, -1 for those of D_np, (n,)."""
        return 2.0 * self.is_preferred - 1.0

    @cached_property
    def of_preferred(self) -> Tensor:
        """``values @ of_preferred`` is the mean over D_p; 0 if the batch has none of it, (n,)."""
        return _normalized(self._counts * self.is_preferred)

    @cached_property
    def of_each(self) -> Tensor:
        """``values @ of_each`` is the mean over D_p plus that over D_np, (n,)."""
        return self.of_preferred + _normalized(self._counts * ~self.is_preferred)

    @cached_property
    def of_all(self) -> Tensor:
        """``values @ of_all`` is the mean over all rows, (n,)."""
        return _normalized(self._counts)

    @property
    def _counts(self) -> Tensor:
        if self.weights is None:
            return torch.ones_like(self.is_preferred, dtype=self.dtype)
        return self.weights.to(self.dtype)


class Terms(NamedTuple):
    """
    The loss of Eq. 9 and what it is made of. Where there is one for each action, that of the data comes first.

    :param loss: a scalar
    :param preference_loss: of Eq. 7 and 8
    :param sft_loss: minus the mean log-prob of the preferred data
    :param logp: (1 + K, n), nats
    :param log_ratio: of the policy to the reference, bounded, (1 + K, n)
    :param delta: δ of each pair, (K, n)
    """

    loss: Tensor
    preference_loss: Tensor
    sft_loss: Tensor
    logp: Tensor
    log_ratio: Tensor
    delta: Tensor


def _sigmoid(delta: Tensor, beta: float | Tensor) -> Tensor:
    # -log σ(β δ)
    return softplus(-beta * delta)


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


def _stacked(data: Tensor, counterfactuals: Tensor) -> Tensor:
    """(n,) and (n,) or (K, n) -> (1 + K, n)"""
    return torch.cat((data[None], counterfactuals if counterfactuals.dim() > 1 else counterfactuals[None]))


def _mean(values: Tensor, shares: Tensor) -> Tensor:
    """
    :param values: (K, n)
    :param shares: of the rows in the mean, (n,)
    """
    of_rows = values.squeeze(0) if len(values) == 1 else values.mean(dim=0)
    return of_rows @ shares


def _normalized(counts: Tensor) -> Tensor:
    """To a sum of one, unless all are zero."""
    return counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
