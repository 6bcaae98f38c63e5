"""The objective of PREFINE: Eq. 6-9 of the paper as one pure function, tensors in, loss and metrics out."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def prefine_loss(
    logp_data: Tensor,
    logp_data_ref: Tensor,
    logp_cf: Tensor,
    logp_cf_ref: Tensor,
    is_preferred: Tensor,
    *,
    beta: float,
    sft_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Loss of one batch that holds rows of both sets, D_p and D_np (Eq. 9: the mean over D_p plus the mean over D_np).

    The counterfactual action is a sample of the current policy. Its gradient must be stopped before its log-prob is
    taken (sample it under ``torch.no_grad()``); the gradient through the log-prob itself stays.

    A set that has no row in the batch contributes nothing, so that either set can be looked at alone.

    :param logp_data: log π_θ(a|s) of the data's actions, shape (n,), nats
    :param logp_data_ref: log π_ref(a|s) of the same actions, shape (n,)
    :param logp_cf: log π_θ(a'|s) of the counterfactual actions a' ~ π_θ(·|s), shape (n,)
    :param logp_cf_ref: log π_ref(a'|s) of the same actions, shape (n,)
    :param is_preferred: bool, shape (n,): whether the row comes from D_p
    :param beta: temperature β of the log-ratios; 0 leaves supervised fine-tuning (SFT) alone
    :param sft_coef: weight λ of the SFT term; 0 leaves the preference term (vanilla DPO) alone
    :return: the loss (a scalar), and detached scalars by the names under which they are logged
    """
    preferred = is_preferred.to(logp_data.dtype)
    weight_p = preferred / preferred.sum().clamp(min=1.0)
    weight_np = (1.0 - preferred) / (1.0 - preferred).sum().clamp(min=1.0)

    # Eq. 6: in D_p the data's action is a+ and the counterfactual a-, in D_np it is the other way round.
    log_ratio_data = logp_data - logp_data_ref
    log_ratio_cf = logp_cf - logp_cf_ref
    delta = (2.0 * preferred - 1.0) * (log_ratio_data - log_ratio_cf)

    # Eq. 7 and 8
    preference_loss = -(logsigmoid(beta * delta) * (weight_p + weight_np)).sum()
    sft_loss = -(logp_data * weight_p).sum()

    # Eq. 9
    loss = preference_loss + sft_coef * sft_loss

    with torch.no_grad():
        reward_data, reward_cf = beta * log_ratio_data, beta * log_ratio_cf
        chosen, rejected = torch.where(is_preferred, logp_data, logp_cf), torch.where(is_preferred, logp_cf, logp_data)
        reward_chosen = torch.where(is_preferred, reward_data, reward_cf).mean()
        reward_rejected = torch.where(is_preferred, reward_cf, reward_data).mean()
        metrics = {
            "train/loss": loss.detach(),
            "train/preference_loss": preference_loss.detach(),
            "train/sft_loss": sft_loss.detach(),
            "rewards/chosen": reward_chosen,
            "rewards/rejected": reward_rejected,
            "rewards/margins": reward_chosen - reward_rejected,
            "rewards/accuracies": (delta > 0).to(delta.dtype).mean(),
            "logps/chosen": chosen.mean(),
            "logps/rejected": rejected.mean(),
        }
    return loss, metrics
