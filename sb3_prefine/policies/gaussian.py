"""
Gaussian likelihoods: diagonal, squashed by tanh, and with a fixed standard deviation.

The parameters at a state are the mean and the log-std, side by side.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor

from sb3_prefine.policies.base import Inputs, Likelihood, Needs, actor_latent

# Distance from the bounds of (-1, 1) that squashed actions keep before atanh. At a bound the log-prob is -1e5 or less,
# beyond it NaN; SB3 stores actions as float32, whose rounding alone can reach the bound.
ACTION_MARGIN = 1e-5

# SB3's SquashedDiagGaussianDistribution adds this inside the logarithm of its Jacobian.
_SB3_TANH_EPSILON = 1e-6


def gaussian(policy: Any, log_std_min: float, needs: Needs | None) -> Likelihood:
    """
    The Gaussian of a policy that outputs its mean and its standard deviation, with or without gSDE.

    It is diagonal (PPO, A2C, TRPO, RecurrentPPO), or squashed by tanh (SAC, TQC, CrossQ, and gSDE with
    ``squash_output``).

    :param policy: An actor-critic policy, or a policy with a separate ``actor``.
    :param log_std_min: Floor of the log-std.
    :param needs: Inputs that an actor-critic policy needs; None for a policy with a separate actor.
    """
    params = partial(_actor_params if needs is None else _actor_critic_params, log_std_min=log_std_min)
    if policy.squash_output:
        encode: Callable[[Tensor], Tensor] = partial(_encode_squashed, policy.action_space)
        return Likelihood("squashed Gaussian", params, _squashed_log_prob, _sample, encode, needs or "observations")
    return Likelihood("diagonal Gaussian", params, _log_prob, _sample, _as_rows, needs or "observations")


def gaussian_of_fixed_std(space: spaces.Box, std: float) -> Likelihood:
    """
    A Gaussian around the action of a deterministic actor (TD3, DDPG), in units of actions scaled to [-1, 1].

    :param space: Action space of the policy.
    :param std: Standard deviation, in the same units.
    """
    params = partial(_deterministic_params, log_std=math.log(std))
    return Likelihood("Gaussian of fixed std", params, _log_prob, _sample, partial(_scale, space))


def gaussian_around_mean(likelihood: Likelihood, space: spaces.Box, std: float) -> Likelihood | None:
    """
    A Gaussian with another, fixed standard deviation around the mean of a Gaussian likelihood.

    Its parameters are that mean, as an action scaled to [-1, 1], (B, A). Its log-prob is a squared error:
    -||a - mean||² / (2 std²). The normalising constant, equal for all actions, is left out.

    :param likelihood: A likelihood of this module.
    :param space: Action space of its policy.
    :param std: Standard deviation, in units of actions scaled to [-1, 1].
    :return: The likelihood; None if the given one is not Gaussian.
    """
    to_scaled: dict[str, Callable[[Tensor], Tensor]] = {
        "diagonal Gaussian": partial(_scale, space),
        "squashed Gaussian": torch.tanh,
        "Gaussian of fixed std": _as_rows,
    }
    if likelihood.family not in to_scaled:
        return None
    scale_mean = to_scaled[likelihood.family]
    return Likelihood(
        "Gaussian around the mode",
        lambda policy, inputs: scale_mean(likelihood.params(policy, inputs).chunk(2, dim=-1)[0]),
        lambda params, actions: -0.5 * ((actions - params) / std).square().sum(dim=-1),
        lambda params, generator: params + std * _standard_normal_like(params, generator),
        partial(_scale, space),
        likelihood.needs,
    )


# The parameters of each kind of policy


def _actor_critic_params(policy: Any, inputs: Inputs, *, log_std_min: float) -> Tensor:
    latent = actor_latent(policy, inputs)
    mean: Tensor = policy.action_net(latent)
    log_std: Tensor = policy.log_std
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        log_std = _gsde_log_std(policy.action_dist, log_std, latent)
    return torch.cat((mean, log_std.clamp(min=log_std_min).expand_as(mean)), dim=-1)


def _actor_params(policy: Any, inputs: Inputs, *, log_std_min: float) -> Tensor:
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


# Log-probs and samples


def _log_prob(params: Tensor, actions: Tensor) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    z = (actions - mean) * torch.exp(-log_std)
    log_volume = log_std.sum(dim=-1) + 0.5 * math.log(2.0 * math.pi) * log_std.shape[-1]
    return torch.sub(-log_volume, z.square().sum(dim=-1), alpha=0.5)


def _squashed_log_prob(params: Tensor, actions: Tensor) -> Tensor:
    jacobian = torch.log(1.0 - torch.tanh(actions) ** 2 + _SB3_TANH_EPSILON).sum(dim=-1)
    return _log_prob(params, actions) - jacobian


def _sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    return mean + torch.exp(log_std) * _standard_normal_like(mean, generator)


def _standard_normal_like(values: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)


# Actions of the environment, encoded


def _encode_squashed(space: spaces.Box, actions: Tensor) -> Tensor:
    """Actions of the data as they were before tanh. Samples never leave that form: atanh(tanh(x)) loses large x."""
    return torch.atanh(_scale(space, actions).clamp(-1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN))


def _scale(space: spaces.Box, actions: Tensor) -> Tensor:
    """SB3's ``scale_action``, from the bounds to [-1, 1], as rows of floats (N, A)."""
    low, high = (torch.as_tensor(bound).to(actions.device, torch.float32) for bound in (space.low, space.high))
    return _as_rows(2.0 * (actions - low) / (high - low) - 1.0)


def _as_rows(actions: Tensor) -> Tensor:
    """Actions (N, …) of any dtype as rows of floats (N, A)."""
    return actions.float().reshape(len(actions), -1)
