"""Gaussian likelihoods: diagonal, squashed, with gSDE, and around a deterministic actor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    StateDependentNoiseDistribution,
)
from torch import Tensor

from sb3_prefine.policies.base import Inputs, actor_latent

# Squashed actions are kept this far inside (-1, 1) before atanh: a log-prob at the bound itself is -1e5 and worse,
# just past it NaN (SB3 stores float32 actions, whose rounding alone can reach the bound).
ACTION_MARGIN = 1e-5


# SB3's SquashedDiagGaussianDistribution adds this inside the logarithm of its Jacobian.
_SB3_TANH_EPSILON = 1e-6


def _actor_critic_gaussian(policy: Any, inputs: Inputs, *, log_std_min: float) -> Tensor:
    latent = actor_latent(policy, inputs)
    mean: Tensor = policy.action_net(latent)
    log_std: Tensor = policy.log_std
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        log_std = _gsde_log_std(policy.action_dist, log_std, latent)
    return torch.cat((mean, log_std.clamp(min=log_std_min).expand_as(mean)), dim=-1)


def _actor_gaussian(policy: Any, inputs: Inputs, *, log_std_min: float) -> Tensor:
    mean, log_std, latent = policy.actor.get_action_dist_params(inputs)
    if latent:
        log_std = _gsde_log_std(policy.actor.action_dist, log_std, latent["latent_sde"])
    return torch.cat((mean, log_std.clamp(min=log_std_min)), dim=-1)


def _deterministic_params(policy: Any, inputs: Inputs, *, log_std: float) -> Tensor:
    mean: Tensor = policy.actor(inputs)
    return torch.cat((mean, torch.full_like(mean, log_std)), dim=-1)


def _gsde_log_std(dist: StateDependentNoiseDistribution, log_std: Tensor, latent: Tensor) -> Tensor:
    latent = latent if dist.learn_features else latent.detach()
    return 0.5 * torch.log((latent**2) @ (dist.get_std(log_std) ** 2) + dist.epsilon)


def _gaussian_log_prob(params: Tensor, actions: Tensor) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    z = (actions - mean) * torch.exp(-log_std)
    log_volume = log_std.sum(dim=-1) + 0.5 * math.log(2.0 * math.pi) * log_std.shape[-1]
    return torch.sub(-log_volume, z.square().sum(dim=-1), alpha=0.5)


def _gaussian_sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    return mean + torch.exp(log_std) * _noise_like(mean, generator)


def _noise_like(values: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)


def _squashed_log_prob(params: Tensor, actions: Tensor) -> Tensor:
    jacobian = torch.log(1.0 - torch.tanh(actions) ** 2 + _SB3_TANH_EPSILON).sum(dim=-1)
    return _gaussian_log_prob(params, actions) - jacobian


def _squashed_encode(space: spaces.Box) -> Callable[[Tensor], Tensor]:
    # atanh loses half the log-prob of a saturated sample on the way back: samples stay as they were drawn, before
    # tanh, for the policy and the reference alike. Only the data's actions come this way.
    def encode(actions: Tensor) -> Tensor:
        return torch.atanh(_scale(space, actions).clamp(-1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN))

    return encode


def _scale(space: spaces.Box, actions: Tensor) -> Tensor:
    """SB3's ``scale_action``: from the bounds to [-1, 1]; then as :func:`_as_rows`."""
    low, high = (torch.as_tensor(bound).to(actions.device, torch.float32) for bound in (space.low, space.high))
    return _as_rows(2.0 * (actions - low) / (high - low) - 1.0)


def _as_rows(actions: Tensor) -> Tensor:
    """(N, …) of any numbers to floats (N, A)."""
    return actions.float().reshape(len(actions), -1)
