"""
Find the likelihood of a policy: how its actions are scored and sampled.

The distribution at a state is described by a few numbers, its *parameters* (for a Gaussian, mean and log-std). They
come from one forward pass, and everything else is arithmetic on them: the data's action and its counterfactuals are
scored with the same row of parameters, and the rows of the frozen reference are a table that is computed once.
"""

from collections.abc import Callable
from typing import Any

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
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs, Needs, SequenceInputs
from sb3_prefine.policies.custom import HasLikelihood, likelihood_of_custom
from sb3_prefine.policies.discrete import bernoulli, categorical, multi_categorical, softmax_of_q
from sb3_prefine.policies.gaussian import gaussian, gaussian_around_mean, gaussian_of_fixed_std


def likelihood_of(
    policy: nn.Module, log_std_min: float, *, fixed_std: float | None = None, temperature: float | None = None
) -> Likelihood:
    """
    The likelihood of a policy.

    Continuous actions: diagonal Gaussian (PPO, A2C, TRPO, RecurrentPPO) and squashed Gaussian (SAC, TQC, CrossQ), both
    also with generalised state-dependent exploration (gSDE). Discrete actions: categorical, multi-categorical and
    Bernoulli (PPO, A2C, TRPO, RecurrentPPO; with action masks: MaskablePPO). A policy that has ``params``, ``log_prob``
    and ``sample`` (:class:`~sb3_prefine.policies.HasLikelihood`) is its own likelihood.

    Some algorithms define no distribution, so their policies need an option: TD3 and DDPG become a Gaussian around the
    actor (``fixed_std``), DQN and QR-DQN a softmax of the Q-values (``temperature``).

    A diagonal Gaussian scores actions as SB3 does, with the density of the unclipped sample. The environment and the
    data contain clipped actions. Counterfactuals stay unclipped, so that E[∇ log π(a')] = 0 holds exactly.

    With gSDE the log-prob is that of the Gaussian at a state, as in SB3. Each counterfactual has its own noise: with
    one noise matrix for a batch, equal states would get equal samples.

    :param policy: The policy, in evaluation mode.
    :param log_std_min: Floor of the log-std. Without it, supervised fine-tuning on clean data drives the log-std to
        minus infinity.
    :param fixed_std: Standard deviation around a deterministic actor, in units of actions scaled to [-1, 1].
    :param temperature: Temperature of the softmax, in units of the Q-values.
    :raises TypeError: If the policy has no likelihood, or none that is supported.
    :raises ValueError: If ``fixed_std`` or ``temperature`` is given for a policy that does not use it.
    """
    is_custom = isinstance(policy, HasLikelihood)
    is_deterministic = isinstance(policy, TD3Policy) and not is_custom
    has_q_values = _has_q_values(policy) and not is_custom
    for name, option, is_used, algorithms in (
        ("fixed_std", fixed_std, is_deterministic, "TD3 and DDPG"),
        ("temperature", temperature, has_q_values, "DQN and QR-DQN"),
    ):
        if option is not None and not is_used:
            raise ValueError(
                f"{name}: {option} was given for {type(policy).__name__}; it is for {algorithms}. Leave it out."
            )
    if is_custom:
        return likelihood_of_custom(policy)
    space: Any = getattr(policy, "action_space", None)
    needs = _actor_critic_needs(policy)
    actor = getattr(policy, "actor", None) if needs is None else policy
    dist = getattr(actor, "action_dist", None)
    for distributions, discrete in _DISCRETE:
        if needs is not None and _is_one_of(dist, distributions):
            return discrete(space, needs)
    if isinstance(dist, DiagGaussianDistribution | SquashedDiagGaussianDistribution | StateDependentNoiseDistribution):
        return gaussian(policy, log_std_min, needs)
    if is_deterministic and fixed_std is not None:
        return gaussian_of_fixed_std(space, fixed_std)
    if has_q_values and temperature is not None:
        return softmax_of_q(space, temperature)
    raise _unsupported(policy)


def gaussian_around_mode(policy: nn.Module, std: float) -> Likelihood:
    """
    A Gaussian of fixed standard deviation around the policy's deterministic action before clipping.

    Its log-prob is a squared error, see :func:`~sb3_prefine.policies.gaussian.gaussian_around_mean`.

    :param policy: A policy with a Gaussian or squashed Gaussian likelihood, or a deterministic one (TD3, DDPG).
    :param std: Standard deviation, in units of actions scaled to [-1, 1].
    :raises TypeError: If the policy has no mean action through which a gradient flows.
    """
    is_custom = isinstance(policy, HasLikelihood)
    # Only the mean of the policy's own likelihood matters here, so any standard deviation and temperature will do.
    own = likelihood_of(
        policy,
        log_std_min=0.0,
        fixed_std=std if isinstance(policy, TD3Policy) and not is_custom else None,
        temperature=1.0 if _has_q_values(policy) and not is_custom else None,
    )
    space: Any = policy.action_space
    around_mean = gaussian_around_mean(own, space, std)
    if around_mean is None:
        raise TypeError(
            f"fixed_std: {std} was given for {type(policy).__name__}, whose likelihood is {own.family}: it has no "
            "mean action to measure from. Pass fixed_std=None for the policy's own likelihood."
        )
    return around_mean


def trainable_parameters(policy: nn.Module, likelihood: Likelihood, inputs: Inputs) -> list[nn.Parameter]:
    """
    Find the parameters that the likelihood depends on: those of the actor, without critics and value heads.

    :param policy: The policy to train.
    :param likelihood: Its likelihood.
    :param inputs: Any batch of the inputs that the likelihood needs.
    """
    parameters = [p for p in policy.parameters() if p.requires_grad]
    params = likelihood.params(policy, inputs)
    with torch.no_grad():
        # A separate generator leaves torch's global one unchanged.
        actions = likelihood.sample(params, torch.Generator(params.device).manual_seed(0))
    # Differentiate the log-prob instead of the parameters: a custom policy may score them with further weights.
    gradients = torch.autograd.grad(likelihood.log_prob(params, actions).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def example_inputs(policy: Any, likelihood: Likelihood, observations: PyTorchObs) -> Inputs:
    """
    Make inputs for a likelihood from observations alone: all actions allowed, a single sequence.

    :param policy: The policy, whose number of options or size of the LSTM is used.
    :param likelihood: Its likelihood.
    :param observations: Normalised observations, (B, …), or a dict of such tensors.
    """
    if likelihood.needs == "masks":
        n_states = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        n_options = policy.action_net.out_features
        return MaskedInputs(observations, torch.ones((n_states, n_options), dtype=torch.bool, device=policy.device))
    if likelihood.needs == "sequences":
        lstm = policy.lstm_actor
        zeros = torch.zeros((lstm.num_layers, 1, lstm.hidden_size), device=policy.device)
        return SequenceInputs(observations, (zeros, zeros))
    return observations


# Names of distribution classes, and the likelihood for each.
_DISCRETE: tuple[tuple[tuple[str, ...], Callable[[spaces.Space, Needs], Likelihood]], ...] = (
    # First, because a maskable Bernoulli is a subclass of the maskable multi-categorical.
    ((BernoulliDistribution.__name__, "MaskableBernoulliDistribution"), bernoulli),
    ((CategoricalDistribution.__name__, "MaskableCategoricalDistribution"), categorical),
    ((MultiCategoricalDistribution.__name__, "MaskableMultiCategoricalDistribution"), multi_categorical),
)


def _actor_critic_needs(policy: nn.Module) -> Needs | None:
    """The inputs that an actor-critic policy needs; None for any other policy."""
    if hasattr(policy, "lstm_actor"):
        return "sequences"
    if isinstance(policy, ActorCriticPolicy):
        return "observations"
    return "masks" if _is_one_of(policy, ("MaskableActorCriticPolicy",)) else None


def _has_q_values(policy: nn.Module) -> bool:
    return isinstance(policy, DQNPolicy) or _is_one_of(policy, ("QRDQNPolicy",))


def _is_one_of(instance: object, class_names: tuple[str, ...]) -> bool:
    # By name, because sb3-contrib may not be installed.
    return any(parent.__name__ in class_names for parent in type(instance).__mro__)


def _unsupported(policy: nn.Module) -> TypeError:
    """The error for a policy without a likelihood: the reason, and what to do."""
    name = type(policy).__name__
    if isinstance(policy, TD3Policy):
        return TypeError(
            f"policy: {name} (TD3, DDPG) is deterministic, so it has no log-prob to compare. Pass fixed_std=0.1 to use "
            "a Gaussian of that standard deviation around its actions (in units of actions scaled to [-1, 1])."
        )
    if _has_q_values(policy):
        return TypeError(
            f"policy: {name} (DQN, QR-DQN) has values of actions, not their probabilities. Pass temperature=1.0 to "
            "use the softmax of its Q-values, divided by that temperature (in units of the Q-values)."
        )
    dist = getattr(policy, "action_dist", None)
    found = "no likelihood" if dist is None else f"a {type(dist).__name__}"
    return TypeError(
        f"policy: {name} has {found}, which is not supported. Pass the policy of PPO, A2C, TRPO, MaskablePPO, "
        "RecurrentPPO, SAC, TQC or CrossQ, or a policy of your own with params, log_prob and sample."
    )
