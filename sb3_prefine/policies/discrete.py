"""Likelihoods of discrete actions: categorical, multi-categorical, Bernoulli; with masks, and over Q-values."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs, Needs, actor_latent

# What sb3-contrib gives a forbidden action; finite, so that a probability of 0 has a gradient of 0 and not NaN.
_FORBIDDEN = -1e8


def categorical(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """One choice of PPO's, A2C's, TRPO's, MaskablePPO's or RecurrentPPO's."""
    return multi_categorical_of("categorical", [_n_actions(space)], needs)


def multi_categorical(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """Several independent choices."""
    assert isinstance(space, spaces.MultiDiscrete)
    return multi_categorical_of("multi-categorical", space.nvec.tolist(), needs)


def bernoulli(space: spaces.Space, needs: Needs = "observations") -> Likelihood:
    """Several independent yes or no."""
    if needs == "masks":
        # sb3-contrib gives a maskable Bernoulli two logits a bit, so that "no" can be forbidden too.
        assert isinstance(space, spaces.MultiBinary)
        return multi_categorical_of("Bernoulli", [2] * int(np.prod(space.shape)), needs)

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
    DQN and QR-DQN, taken as the policy softmax(Q / temperature) (Boltzmann exploration).

    QR-DQN's Q is the mean of its quantiles.
    """
    n_actions = _n_actions(space)

    def params(policy: Any, inputs: Inputs) -> Tensor:
        q_values = policy.quantile_net(inputs).mean(dim=1) if hasattr(policy, "quantile_net") else policy.q_net(inputs)
        return torch.log_softmax(q_values / temperature, dim=-1)

    base = multi_categorical_of("softmax of Q", [n_actions], "observations")
    return Likelihood(base.family, params, base.log_prob, base.sample, base.encode, base.needs)


def multi_categorical_of(family: str, sizes: list[int], needs: Needs) -> Likelihood:
    """Independent choices; the parameters are the log-probs of every option of every choice, side by side."""
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
        # (N, 1) against (N,) would broadcast to (N, N) log-probs without a word.
        return actions.long().reshape(len(actions), len(sizes))

    return Likelihood(family, params, log_prob, sample, encode, needs)


def _n_actions(space: spaces.Space) -> int:
    assert isinstance(space, spaces.Discrete)
    if space.start != 0:
        raise TypeError(
            f"policy: its actions start at {space.start}, and SB3 numbers them from 0. Give it an environment whose "
            "actions do so too."
        )
    return int(space.n)
