"""The objective of PREFINE: from log-probs to a loss, by Eq. 6-9 of the paper and their variants."""

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
    Compute the loss of one batch with rows of both sets D_p and D_np, and its metrics: Eq. 6-9 for four log-probs.

    This is the public function. It calls :meth:`Objective.terms`, as :meth:`PREFINE.train
    <sb3_prefine.prefine.PREFINE.train>` does; ``train`` leaves out the metrics, which it computes later.

    Eq. 9 is the mean over D_p plus the mean over D_np. A set without rows in the batch contributes nothing, so you can
    compute the loss of one set. With K counterfactuals per row, the preference term is their mean.

    The counterfactual action is a sample of the current policy. Stop its gradient before you compute its log-prob
    (sample it under ``torch.no_grad()``); keep the gradient of the log-prob itself.

    With δ = Δ of Eq. 6, the preference term of a pair is ℓ(δ):

    - ``"sigmoid"``: -log σ(β δ), as in the paper (Eq. 7 and 8) and in DPO (Rafailov et al. 2023)
    - ``"sigmoid_norm"``: the same with δ divided by ``lengths``: log-ratios per component
    - ``"hinge"``: max(0, 1 - β δ), as in SLiC (Zhao et al. 2023)
    - ``"ipo"``: (δ - 1/(2β))², with δ divided by ``lengths`` (Azar et al. 2023)
    - ``"robust"``: the sigmoid, unbiased if a fraction ``label_smoothing`` of the labels is flipped (Chowdhury et al.
      2024, Eq. 12)

    A label that is right with probability q costs q ℓ(δ) + (1 - q) ℓ(-δ). Here q is the label, mixed with
    ``label_smoothing`` (conservative DPO).

    :param logp_data: Log-probs log π_θ(a|s) of the data's actions, in nats, (n,).
    :param logp_data_ref: Log-probs log π_ref(a|s) of the same actions, (n,).
    :param logp_cf: Log-probs log π_θ(a'|s) of the counterfactual actions a' ~ π_θ(·|s), (n,) or (K, n).
    :param logp_cf_ref: Log-probs log π_ref(a'|s) of the same actions, with the same shape.
    :param is_preferred: Whether each row comes from D_p, bool, (n,).
    :param beta: Temperature β of the log-ratios, a number or a scalar tensor. 0 leaves supervised fine-tuning (SFT).
    :param sft_coef: Weight λ of the SFT term. 0 leaves the preference term (vanilla DPO).
    :param loss_type: ℓ, one of the list above.
    :param label_smoothing: Fraction ε of labels assumed to be wrong, in [0, 0.5).
    :param log_ratio_bound: Bound b. Log-ratios x become b tanh(x/b), so that no single action dominates the batch. None
        leaves them unchanged.
    :param weights: Weight of each row in the mean over its set, for both terms, not negative, (n,).
    :param labels: Probability that each row belongs to its set (soft labels), in [0, 1], (n,). Affects the preference
        term.
    :param lengths: Number of components over which the log-probs of each row are sums, (n,) or a number. Used by
        ``"sigmoid_norm"`` and ``"ipo"``.
    :return: The loss (a scalar), and detached scalar metrics by the names under which they are logged.
    :raises ValueError: If the ``loss_type`` is unknown.
    """
    objective = Objective(beta, sft_coef, loss_type, label_smoothing, log_ratio_bound, lengths)
    logp, logp_ref = _stack(logp_data, logp_cf), _stack(logp_data_ref, logp_cf_ref)
    sets = Sets(is_preferred, weights, logp.dtype)
    terms = objective.terms(logp, logp_ref, sets, labels)
    return terms.loss, objective.metrics(terms, sets)


@dataclass(frozen=True)
class Objective:
    """Eq. 9 with its hyperparameters, which :func:`prefine_loss` describes."""

    beta: float | Tensor
    sft_coef: float | Tensor
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    log_ratio_bound: float | Tensor | None = None
    lengths: Tensor | float = 1.0

    def terms(self, logp: Tensor, logp_ref: Tensor, sets: "Sets", labels: Tensor | None = None) -> "Terms":
        """
        Compute the loss and its terms, without the metrics; :func:`prefine_loss` is the public function for both.

        :param logp: Log-probs log π_θ of the data's actions and of K counterfactuals, in nats, (1 + K, n).
        :param logp_ref: Log-probs log π_ref of the same actions, with the same shape.
        :param sets: Set and weight of each row.
        :param labels: Probability that each row belongs to its set, (n,); None stands for 1.
        :return: The loss and its terms.
        :raises ValueError: If the ``loss_type`` is unknown.
        """
        if self.loss_type not in _LOSSES:
            raise ValueError(f"loss_type: {self.loss_type!r} is not known. Choose one of {', '.join(_LOSSES)}.")
        log_ratio = logp - logp_ref
        if self.log_ratio_bound is not None:
            log_ratio = self.log_ratio_bound * torch.tanh(log_ratio / self.log_ratio_bound)

        # Eq. 6: in D_p the data's action is a+ and the counterfactual a-, in D_np it is the reverse.
        log_ratio_data, log_ratio_cf = log_ratio.split((1, len(log_ratio) - 1))
        delta = sets.sign * (log_ratio_data - log_ratio_cf)

        # Eq. 7 and 8
        preference_loss = _mean(self._pair_loss(delta, labels), sets.mean_weights_of_both_sets)
        sft_loss = -_mean(logp[:1], sets.mean_weights_of_preferred)

        # Eq. 9
        return Terms(preference_loss + self.sft_coef * sft_loss, preference_loss, sft_loss, logp, log_ratio, delta)

    @torch.no_grad()
    def metrics(self, terms: "Terms", sets: "Sets") -> dict[str, Tensor]:
        """
        Compute the metrics.

        :param terms: Terms of the loss.
        :param sets: Set and weight of each row.
        :return: Detached scalars by the names under which they are logged.
        """

        def mean_of_chosen(data: Tensor, counterfactuals: Tensor) -> Tensor:
            return _mean(torch.where(sets.is_preferred, data, counterfactuals), sets.mean_weights_of_all_rows)

        def mean_of_rejected(data: Tensor, counterfactuals: Tensor) -> Tensor:
            return _mean(torch.where(sets.is_preferred, counterfactuals, data), sets.mean_weights_of_all_rows)

        rewards = self.beta * terms.log_ratio
        chosen, rejected = mean_of_chosen(rewards[:1], rewards[1:]), mean_of_rejected(rewards[:1], rewards[1:])
        return {
            "train/loss": terms.loss.detach(),
            "train/preference_loss": terms.preference_loss.detach(),
            "train/sft_loss": terms.sft_loss.detach(),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": _mean((terms.delta > 0).to(terms.delta.dtype), sets.mean_weights_of_all_rows),
            "logps/chosen": mean_of_chosen(terms.logp[:1], terms.logp[1:]),
            "logps/rejected": mean_of_rejected(terms.logp[:1], terms.logp[1:]),
        }

    def _pair_loss(self, delta: Tensor, labels: Tensor | None) -> Tensor:
        """Compute the expectation of ℓ over the label of each pair, with the shape of ``delta``."""
        loss, beta, smoothing = _LOSSES[self.loss_type], self.beta, self.label_smoothing
        if self.loss_type in ("sigmoid_norm", "ipo"):
            delta = delta / self.lengths
        if labels is None and smoothing == 0.0:
            return loss(delta, beta)
        right, wrong = 1.0 - smoothing, smoothing
        if self.loss_type == "robust":
            # These coefficients invert the flip: the mean over flipped labels is the loss of the true labels.
            right, wrong = right / (1.0 - 2.0 * smoothing), -smoothing / (1.0 - 2.0 * smoothing)
        if labels is None:
            return right * loss(delta, beta) + wrong * loss(-delta, beta)
        labels = labels.to(delta.dtype)
        as_labelled, flipped = labels * right + (1.0 - labels) * wrong, labels * wrong + (1.0 - labels) * right
        return as_labelled * loss(delta, beta) + flipped * loss(-delta, beta)


@dataclass(frozen=True, eq=False)
class Sets:
    """
    Set and weight of each row of a batch, and the row weights of the means in Eq. 9.

    Without ``weights``, all batches share one object, so that these row weights are computed only once.

    :param is_preferred: Whether each row comes from D_p, bool, (n,).
    :param weights: Weight of each row in the mean over its set, not negative, (n,); None stands for 1.
    :param dtype: Data type of the log-probs.
    """

    is_preferred: Tensor
    weights: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @cached_property
    def sign(self) -> Tensor:
        """1 for rows of D_p, -1 for rows of D_np, (n,)."""
        return 2.0 * self.is_preferred - 1.0

    @cached_property
    def mean_weights_of_preferred(self) -> Tensor:
        """``values @ mean_weights_of_preferred`` is the mean over D_p, or 0 if the batch has no row of it, (n,)."""
        return _normalize(self._row_weights * self.is_preferred)

    @cached_property
    def mean_weights_of_both_sets(self) -> Tensor:
        """``values @ mean_weights_of_both_sets`` is the mean over D_p plus the mean over D_np, (n,)."""
        return self.mean_weights_of_preferred + _normalize(self._row_weights * ~self.is_preferred)

    @cached_property
    def mean_weights_of_all_rows(self) -> Tensor:
        """``values @ mean_weights_of_all_rows`` is the mean over all rows, (n,)."""
        return _normalize(self._row_weights)

    @property
    def _row_weights(self) -> Tensor:
        if self.weights is None:
            return torch.ones_like(self.is_preferred, dtype=self.dtype)
        return self.weights.to(self.dtype)


class Terms(NamedTuple):
    """
    The loss of Eq. 9 and its terms. Where a dimension has 1 + K entries, the first is the data's action.

    :param loss: The loss, a scalar.
    :param preference_loss: The preference term, Eq. 7 and 8.
    :param sft_loss: Minus the mean log-prob of the preferred data.
    :param logp: Log-probs log π_θ, in nats, (1 + K, n).
    :param log_ratio: Log-ratios log π_θ/π_ref, bounded, (1 + K, n).
    :param delta: δ of each pair, (K, n).
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


def _stack(data: Tensor, counterfactuals: Tensor) -> Tensor:
    """Stack (n,) and (n,) or (K, n) to (1 + K, n)."""
    return torch.cat((data[None], counterfactuals if counterfactuals.dim() > 1 else counterfactuals[None]))


def _mean(values: Tensor, mean_weights: Tensor) -> Tensor:
    """
    Average over the actions of a row, then over the rows.

    :param values: Values, (K, n).
    :param mean_weights: Weight of each row in the mean, (n,).
    :return: A scalar.
    """
    row_means = values.squeeze(0) if len(values) == 1 else values.mean(dim=0)
    return row_means @ mean_weights


def _normalize(weights: Tensor) -> Tensor:
    """Scale to a sum of one, unless all are zero."""
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
