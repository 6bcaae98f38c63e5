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
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
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
    The likelihood of an SB3 policy.

    Continuous actions: diagonal Gaussian (PPO, A2C, TRPO), squashed Gaussian (SAC, TQC, CrossQ), and both with
    generalised state-dependent exploration (gSDE). Discrete ones (PPO, A2C, TRPO): categorical, multi-categorical,
    Bernoulli.

    Diagonal Gaussian actions are scored as SB3 does: the density of the unclipped sample. The environment and the
    data see clipped actions, the counterfactuals are not clipped, so that E[∇ log π(a')] = 0 holds exactly.

    gSDE's log-prob is that of its Gaussian at a state, as in SB3. Counterfactuals are drawn from it too, each with its
    own noise: one noise matrix for a batch would give equal states equal samples.

    :param policy: the policy, in evaluation mode
    :param log_std_min: floor of the log-std: supervised fine-tuning on clean data would drive it to minus infinity
    :raises TypeError: the policy has no likelihood, or one that is not known here
    """
    is_actor_critic = isinstance(policy, ActorCriticPolicy) and not hasattr(policy, "lstm_actor")
    space: Any = getattr(policy, "action_space", None)
    actor = policy if is_actor_critic else getattr(policy, "actor", None)
    dist = getattr(actor, "action_dist", None)
    if is_actor_critic and type(dist) in _DISCRETE:
        return _DISCRETE[type(dist)](space)
    if isinstance(dist, DiagGaussianDistribution | SquashedDiagGaussianDistribution | StateDependentNoiseDistribution):
        params = _actor_critic_gaussian if is_actor_critic else _actor_gaussian
        squashed = bool(policy.squash_output)
        return Likelihood(
            ("squashed" if squashed else "diagonal") + " Gaussian",
            partial(params, log_std_min=log_std_min),
            _squashed_log_prob if squashed else _gaussian_log_prob,
            _gaussian_sample,
            _squashed_encode(space) if squashed else _identity,
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


def _actor_critic_latent(policy: nn.Module, observations: Tensor) -> Tensor:
    # The steps of ActorCriticPolicy.get_distribution without building its torch distribution, whose validation of the
    # arguments waits for the device.
    assert isinstance(policy, ActorCriticPolicy)
    features = super(ActorCriticPolicy, policy).extract_features(observations, policy.pi_features_extractor)
    return policy.mlp_extractor.forward_actor(features)


def _actor_critic_gaussian(policy: nn.Module, observations: Tensor, *, log_std_min: float) -> Tensor:
    latent = _actor_critic_latent(policy, observations)
    mean: Tensor = policy.action_net(latent)  # type: ignore[operator]
    dist, log_std = policy.action_dist, policy.log_std
    assert isinstance(log_std, Tensor)
    if isinstance(dist, StateDependentNoiseDistribution):
        log_std = _gsde_log_std(dist, log_std, latent)
    return torch.cat((mean, log_std.clamp(min=log_std_min).expand_as(mean)), dim=-1)


def _actor_gaussian(policy: nn.Module, observations: Tensor, *, log_std_min: float) -> Tensor:
    actor = policy.actor
    mean, log_std, latent = actor.get_action_dist_params(observations)  # type: ignore[union-attr, operator]
    if latent:
        log_std = _gsde_log_std(actor.action_dist, log_std, latent["latent_sde"])  # type: ignore[union-attr, arg-type]
    return torch.cat((mean, log_std.clamp(min=log_std_min)), dim=-1)


def _gsde_log_std(dist: StateDependentNoiseDistribution, log_std: Tensor, latent: Tensor) -> Tensor:
    latent = latent if dist.learn_features else latent.detach()
    return 0.5 * torch.log((latent**2) @ (dist.get_std(log_std) ** 2) + dist.epsilon)


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


def _squashed_encode(space: spaces.Space) -> Callable[[Tensor], Tensor]:
    # atanh loses half the log-prob of a saturated sample on the way back: samples stay as they were drawn, before
    # tanh, for the policy and the reference alike. Only the data's actions come this way.
    assert isinstance(space, spaces.Box)
    bounds = torch.as_tensor(space.low), torch.as_tensor(space.high)

    def encode(actions: Tensor) -> Tensor:
        low, high = (bound.to(actions) for bound in bounds)
        scaled = 2.0 * (actions - low) / (high - low) - 1.0
        return torch.atanh(scaled.clamp(-1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN))

    return encode


def _identity(actions: Tensor) -> Tensor:
    return actions


def _categorical(space: spaces.Space) -> Likelihood:
    assert isinstance(space, spaces.Discrete)
    if space.start != 0:
        raise TypeError(
            f"policy: its actions start at {space.start}, and SB3 numbers them from 0. Give it an environment whose "
            "actions do so too."
        )
    return _multi_categorical_of("categorical", [int(space.n)])


def _multi_categorical(space: spaces.Space) -> Likelihood:
    assert isinstance(space, spaces.MultiDiscrete)
    return _multi_categorical_of("multi-categorical", space.nvec.tolist())


def _multi_categorical_of(family: str, sizes: list[int]) -> Likelihood:
    """Independent choices; the parameters are the log-probs of every option of every choice, side by side."""
    offsets = torch.as_tensor(np.cumsum([0, *sizes[:-1]]))

    def params(policy: nn.Module, observations: Tensor) -> Tensor:
        logits: Tensor = policy.action_net(_actor_critic_latent(policy, observations))  # type: ignore[operator]
        return torch.cat([part.log_softmax(dim=-1) for part in logits.split(sizes, dim=-1)], dim=-1)

    def log_prob(params: Tensor, actions: Tensor) -> Tensor:
        table = params.expand(*actions.shape[:-1], params.shape[-1])
        return table.gather(-1, actions + offsets.to(actions)).sum(dim=-1)

    def sample(params: Tensor, generator: torch.Generator) -> Tensor:
        drawn = [torch.multinomial(part.exp(), 1, generator=generator) for part in params.split(sizes, dim=-1)]
        return torch.cat(drawn, dim=-1)

    def encode(actions: Tensor) -> Tensor:
        # (N, 1) against (N,) would broadcast to (N, N) log-probs without a word.
        return actions.long().reshape(len(actions), len(sizes))

    return Likelihood(family, params, log_prob, sample, encode)


def _bernoulli(space: spaces.Space) -> Likelihood:
    def params(policy: nn.Module, observations: Tensor) -> Tensor:
        return policy.action_net(_actor_critic_latent(policy, observations))  # type: ignore[operator]

    def log_prob(params: Tensor, actions: Tensor) -> Tensor:
        # log σ(x) for 1, log σ(-x) for 0
        return nn.functional.logsigmoid((2.0 * actions - 1.0) * params).sum(dim=-1)

    def sample(params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(torch.sigmoid(params), generator=generator)

    def encode(actions: Tensor) -> Tensor:
        return actions.float().reshape(len(actions), -1)

    return Likelihood("Bernoulli", params, log_prob, sample, encode)


_DISCRETE: dict[type, Callable[[spaces.Space], Likelihood]] = {
    CategoricalDistribution: _categorical,
    MultiCategoricalDistribution: _multi_categorical,
    BernoulliDistribution: _bernoulli,
}


def _why_not(policy: nn.Module) -> str:
    """The reason why a policy has no likelihood here, and what to do."""
    name = type(policy).__name__
    works = "PREFINE works with the policies of PPO, A2C, TRPO, SAC, TQC and CrossQ."
    if isinstance(policy, TD3Policy):
        return f"policy: {name} (TD3, DDPG) is deterministic: it has no log-prob to compare. {works}"
    if isinstance(policy, DQNPolicy):
        return f"policy: {name} (DQN) gives values of actions, not their probabilities. {works}"
    if hasattr(policy, "lstm_actor"):
        return f"policy: {name} is recurrent: its log-probs depend on the steps before, which is not supported. {works}"
    dist = getattr(policy, "action_dist", None)
    if dist is not None:
        return f"policy: {name} has a {type(dist).__name__}, which is not supported. {works}"
    return f"policy: {name} has no likelihood that is known here. {works}"
