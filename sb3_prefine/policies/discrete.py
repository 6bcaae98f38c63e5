"""Likelihoods of discrete actions: categorical, multi-categorical and Bernoulli, also masked, and softmax of Q."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs, Needs, actor_latent

# The logit that sb3-contrib gives a forbidden action. It is finite, so that a probability of 0 has the gradient 0
# instead of NaN.
_FORBIDDEN = -1e8


def categorical(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """
    One choice.

    :param space: A ``Discrete`` action space.
    :param needs: Inputs that the policy needs.
    """
    return independent_choices("categorical", [_n_actions(space)], needs)


def multi_categorical(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """
    Several independent choices.

    :param space: A ``MultiDiscrete`` action space.
    :param needs: Inputs that the policy needs.
    """
    assert isinstance(space, spaces.MultiDiscrete)
    return independent_choices("multi-categorical", space.nvec.tolist(), needs)


def bernoulli(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """
    Several independent bits.

    :param space: A ``MultiBinary`` action space.
    :param needs: Inputs that the policy needs.
    """
    if needs == "masks":
        # sb3-contrib gives a maskable Bernoulli two logits for each bit, so that 0 can be forbidden too.
        assert isinstance(space, spaces.MultiBinary)
        return independent_choices("Bernoulli", [2] * int(np.prod(space.shape)), needs)

    def params(policy: Any, inputs: Inputs) -> Tensor:
        return policy.action_net(actor_latent(policy, inputs))

    def log_prob(params: Tensor, actions: Tensor) -> Tensor:
        # log σ(x) for 1, log σ(-x) for 0
        return nn.functional.logsigmoid((2.0 * actions - 1.0) * params).sum(dim=-1)

    def sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.bernoulli(torch.sigmoid(params), generator=generator)

    def encode(actions: Tensor) -> Tensor:
        return actions.float().reshape(len(actions), -1)

    return Likelihood("Bernoulli", params, log_prob, sample, encode, needs)


def softmax_of_q(space: spaces.Space, temperature: float) -> Likelihood:
    """
    The policy softmax(Q / temperature) of DQN or QR-DQN (Boltzmann exploration). QR-DQN's Q is the mean quantile.

    :param space: A ``Discrete`` action space.
    :param temperature: Temperature of the softmax, in units of the Q-values.
    """

    def params(policy: Any, inputs: Inputs) -> Tensor:
        q_values = policy.quantile_net(inputs).mean(dim=1) if hasattr(policy, "quantile_net") else policy.q_net(inputs)
        return torch.log_softmax(q_values / temperature, dim=-1)

    return replace(independent_choices("softmax of Q", [_n_actions(space)], "observations"), params=params)


def independent_choices(family: str, sizes: list[int], needs: Needs) -> Likelihood:
    """
    Independent choices of an actor-critic policy.

    The parameters are the log-probs of all options of all choices, side by side.

    :param family: Name of the likelihood.
    :param sizes: Number of options of each choice.
    :param needs: Inputs that the policy needs.
    """
    offsets = torch.as_tensor(np.cumsum([0, *sizes[:-1]]))

    def params(policy: Any, inputs: Inputs) -> Tensor:
        logits: Tensor = policy.action_net(actor_latent(policy, inputs))
        if isinstance(inputs, MaskedInputs):
            logits = torch.where(inputs.action_masks, logits, _FORBIDDEN)
        return torch.cat([part.log_softmax(dim=-1) for part in logits.split(sizes, dim=-1)], dim=-1)

    def log_prob(params: Tensor, actions: Tensor) -> Tensor:
        table = params.expand(*actions.shape[:-1], params.shape[-1])
        return table.gather(-1, actions + offsets.to(actions)).sum(dim=-1)

    def sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn = [torch.multinomial(part.exp(), 1, generator=generator) for part in params.split(sizes, dim=-1)]
        return torch.cat(drawn, dim=-1)

    def encode(actions: Tensor) -> Tensor:
        # Without this, (N, 1) against (N,) would silently broadcast to (N, N) log-probs.
        return actions.long().reshape(len(actions), len(sizes))

    return Likelihood(family, params, log_prob, sample, encode, needs)


def _n_actions(space: spaces.Space) -> int:
    assert isinstance(space, spaces.Discrete)
    if space.start != 0:
        raise TypeError(
            f"policy: its actions start at {space.start}, but SB3 numbers actions from 0. Give it an environment whose "
            "actions start at 0."
        )
    return int(space.n)
