"""What a likelihood is, for every policy family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sb3_prefine.inputs import Inputs

# What `Likelihood.params` is given: observations, `Masked` or `Sequences`.
Needs = Literal["observations", "masks", "sequences"]


@dataclass(frozen=True)
class Likelihood:
    """
    The likelihood of one policy family, as functions of its distribution parameters.

    Shapes: a batch has B states, the parameters of a state are one row of P numbers, an encoded action is one row of
    A numbers. ``log_prob`` broadcasts: actions may have leading dimensions, as in (K, B, A) -> (K, B).

    :param family: what to call it, e.g. ``"diagonal Gaussian"``
    :param params: (policy, inputs of B states, normalised as the policy expects them) -> parameters (B, P), with
        gradient
    :param log_prob: (parameters (B, P), encoded actions (…, B, A)) -> log π(a|s) (…, B), nats
    :param sample: (parameters (B, P), random generator) -> encoded actions (B, A); call it under ``torch.no_grad()``
    :param encode: environment actions (N, A) -> the encoded actions that ``log_prob`` and ``sample`` speak of
    :param needs: what the inputs are: ``"observations"``, with ``"masks"`` of actions, or in ``"sequences"``
    """

    family: str
    params: Callable[[Any, Inputs], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator | None], Tensor]
    encode: Callable[[Tensor], Tensor]
    needs: Needs = "observations"
