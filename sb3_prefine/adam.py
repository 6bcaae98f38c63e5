"""Steps of torch's fused Adam."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


@torch.no_grad()
def adam_step(optimizer: torch.optim.Adam, found_inf: Tensor) -> None:
    """
    One step as ``optimizer.step()`` makes it, in half the time: for a small network most of that is bookkeeping.

    :param optimizer: fused, with one group of parameters
    :param found_inf: 0.0, or 1.0 to leave weights and moments as they are
    """
    [group] = optimizer.param_groups
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    states = [optimizer.state[parameter] for parameter in parameters]
    if not all(states):
        # The first step makes them.
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        optimizer.step()
        return
    # Older versions of torch do not know it.
    decoupled: dict[str, Any] = {"decoupled_weight_decay": True} if group.get("decoupled_weight_decay") else {}
    adam(
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        fused=True,
        found_inf=found_inf,
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
        **decoupled,
    )
