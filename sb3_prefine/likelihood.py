"""
How each policy family scores and samples actions.

A policy's distribution at a state is a few numbers, its *parameters* (mean and log-std). They come from one forward
pass, and everything else is arithmetic on them: the data's action and its counterfactual are scored under the same
row, and the frozen reference's rows are a table that is computed once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

# Squashed actions are kept this far inside (-1, 1) before atanh: a log-prob at the bound itself is -1e5 and worse,
# just past it NaN (SB3 stores float32 actions, whose rounding alone can reach the bound).
ACTION_MARGIN = 1e-5
# SB3's SquashedDiagGaussianDistribution adds this inside the logarithm of its Jacobian.
_SB3_TANH_EPSILON = 1e-6


@dataclass(frozen=True)
class Likelihood:
    """
    The likelihood of one policy family, as functions of its distribution parameters.

    Shapes: a batch has B states, the parameters of a state are one row of P numbers, an encoded action is one row of
    A numbers. ``log_prob`` broadcasts: actions may have leading dimensions, as in (K, B, A) -> (K, B).

    :param family: what to call it, e.g. ``"diagonal Gaussian"``
    :param params: (policy, observations (B, …), normalised as the policy expects them) -> parameters (B, P),
        with gradient
    :param log_prob: (parameters (B, P), encoded actions (…, B, A)) -> log π(a|s) (…, B), nats
    :param sample: (parameters (B, P), random generator) -> encoded actions (B, A); call it under ``torch.no_grad()``
    :param encode: environment actions (N, A) -> the encoded actions that ``log_prob`` and ``sample`` speak of
    """

    family: str
    params: Callable[[nn.Module, Tensor], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator], Tensor]
    encode: Callable[[Tensor], Tensor]


def likelihood_of(policy: nn.Module, log_std_min: float) -> Likelihood:
    """
    The likelihood of an SB3 policy: diagonal Gaussian (PPO, A2C, TRPO) or squashed Gaussian (SAC, TQC, CrossQ).

    Diagonal Gaussian actions are scored as SB3 does: the density of the unclipped sample. The environment and the
    data see clipped actions, the counterfactuals are not clipped, so that E[∇ log π(a')] = 0 holds exactly.

    :param policy: the policy, in evaluation mode
    :param log_std_min: floor of the log-std: supervised fine-tuning on clean data would drive it to minus infinity
    :raises TypeError: the policy has no likelihood, or one that is not known here
    """
    if isinstance(policy, ActorCriticPolicy):
        if type(policy.action_dist) is DiagGaussianDistribution:
            return Likelihood(
                "diagonal Gaussian",
                partial(_actor_critic_params, log_std_min=log_std_min),
                _gaussian_log_prob,
                _gaussian_sample,
                _identity,
            )
    elif type(getattr(getattr(policy, "actor", None), "action_dist", None)) is SquashedDiagGaussianDistribution:
        assert isinstance(policy.action_space, spaces.Box)
        low, high = torch.as_tensor(policy.action_space.low), torch.as_tensor(policy.action_space.high)
        return Likelihood(
            "squashed Gaussian",
            partial(_squashed_actor_params, log_std_min=log_std_min),
            _squashed_log_prob,
            _gaussian_sample,
            partial(_encode_squashed, low=low, high=high),
        )
    raise TypeError(_why_not(policy))


def trainable_parameters(policy: nn.Module, likelihood: Likelihood, observations: Tensor) -> list[nn.Parameter]:
    """
    The parameters of the policy that its likelihood depends on: the actor's, without critics and value heads.

    :param observations: any batch of normalised observations
    """
    parameters = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(likelihood.params(policy, observations).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _actor_critic_params(policy: nn.Module, observations: Tensor, *, log_std_min: float) -> Tensor:
    # The steps of ActorCriticPolicy.get_distribution without building its torch Normal, whose validation of the
    # arguments waits for the device.
    assert isinstance(policy, ActorCriticPolicy)
    features = super(ActorCriticPolicy, policy).extract_features(observations, policy.pi_features_extractor)
    mean = policy.action_net(policy.mlp_extractor.forward_actor(features))
    assert isinstance(policy.log_std, Tensor)
    return torch.cat((mean, policy.log_std.clamp(min=log_std_min).expand_as(mean)), dim=-1)


def _squashed_actor_params(policy: nn.Module, observations: Tensor, *, log_std_min: float) -> Tensor:
    mean, log_std, _ = policy.actor.get_action_dist_params(observations)  # type: ignore[union-attr, operator]
    return torch.cat((mean, log_std.clamp(min=log_std_min)), dim=-1)


def _gaussian_log_prob(params: Tensor, actions: Tensor) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    z = (actions - mean) * torch.exp(-log_std)
    return -0.5 * (z * z).sum(dim=-1) - (log_std + 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def _gaussian_sample(params: Tensor, generator: torch.Generator) -> Tensor:
    mean, log_std = params.chunk(2, dim=-1)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(log_std) * noise


def _squashed_log_prob(params: Tensor, actions: Tensor) -> Tensor:
    jacobian = torch.log(1.0 - torch.tanh(actions) ** 2 + _SB3_TANH_EPSILON).sum(dim=-1)
    return _gaussian_log_prob(params, actions) - jacobian


def _encode_squashed(actions: Tensor, *, low: Tensor, high: Tensor) -> Tensor:
    # atanh loses half the log-prob of a saturated sample on the way back: samples stay as they were drawn, before
    # tanh, for the policy and the reference alike. Only the data's actions come this way.
    low, high = low.to(actions), high.to(actions)
    scaled = 2.0 * (actions - low) / (high - low) - 1.0
    return torch.atanh(scaled.clamp(-1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN))


def _identity(actions: Tensor) -> Tensor:
    return actions


def _why_not(policy: nn.Module) -> str:
    """The reason why a policy has no likelihood here, and what to do."""
    name = type(policy).__name__
    works = "PREFINE works with Gaussian policies: PPO, A2C, TRPO (diagonal) and SAC, TQC, CrossQ (squashed)."
    if isinstance(policy, TD3Policy):
        return f"policy: {name} (TD3, DDPG) is deterministic: it has no log-prob to compare. {works}"
    if isinstance(policy, DQNPolicy):
        return f"policy: {name} (DQN) gives values of actions, not their probabilities. {works}"
    dist = getattr(policy, "action_dist", None) or getattr(getattr(policy, "actor", None), "action_dist", None)
    if isinstance(dist, StateDependentNoiseDistribution):
        return f"policy: {name} explores with gSDE (use_sde=True), which is not supported. {works}"
    if dist is not None:
        return f"policy: {name} has a {type(dist).__name__}, which is not supported. {works}"
    return f"policy: {name} has no likelihood that is known here. {works}"
