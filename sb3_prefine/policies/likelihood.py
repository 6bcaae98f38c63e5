"""
How each policy family scores and samples actions.

A policy's distribution at a state is a few numbers, its *parameters* (mean and log-std). They come from one forward
pass, and everything else is arithmetic on them: the data's action and its counterfactual are scored under the same
row, and the frozen reference's rows are a table that is computed once.
"""

import math
from collections.abc import Callable
from functools import partial
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
from torch import Tensor, nn

from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs, Needs, SequenceInputs
from sb3_prefine.policies.custom import HasLikelihood, likelihood_of_custom
from sb3_prefine.policies.discrete import bernoulli, categorical, multi_categorical, softmax_of_q
from sb3_prefine.policies.gaussian import (
    _actor_critic_gaussian,
    _actor_gaussian,
    _as_rows,
    _deterministic_params,
    _gaussian_log_prob,
    _gaussian_sample,
    _noise_like,
    _scale,
    _squashed_encode,
    _squashed_log_prob,
)


def likelihood_of(
    policy: nn.Module, log_std_min: float, *, fixed_std: float | None = None, temperature: float | None = None
) -> Likelihood:
    """
    The likelihood of a policy.

    Continuous actions: diagonal Gaussian (PPO, A2C, TRPO, RecurrentPPO), squashed Gaussian (SAC, TQC, CrossQ), and both
    with generalised state-dependent exploration (gSDE). Discrete ones: categorical, multi-categorical, Bernoulli (PPO,
    A2C, TRPO, RecurrentPPO; with action masks: MaskablePPO). A policy of your own that has ``params``, ``log_prob`` and
    ``sample`` (:class:`~sb3_prefine.policies.HasLikelihood`) is asked itself.

    On request, because these algorithms define no distribution: a Gaussian around the actor of TD3 and DDPG
    (``fixed_std``), a softmax of the Q-values of DQN and QR-DQN (``temperature``).

    Diagonal Gaussian actions are scored as SB3 does: the density of the unclipped sample. The environment and the
    data see clipped actions, the counterfactuals are not clipped, so that E[∇ log π(a')] = 0 holds exactly.

    gSDE's log-prob is that of its Gaussian at a state, as in SB3. Counterfactuals are drawn from it too, each with its
    own noise: one noise matrix for a batch would give equal states equal samples.

    :param policy: the policy, in evaluation mode
    :param log_std_min: floor of the log-std: supervised fine-tuning on clean data would drive it to minus infinity
    :param fixed_std: standard deviation around a deterministic actor, in units of actions scaled to [-1, 1]
    :param temperature: of the softmax, in units of the Q-values
    :raises TypeError: the policy has no likelihood, or one that is not known here
    :raises ValueError: ``fixed_std`` or ``temperature`` for a policy that it is not for
    """
    has_its_own = isinstance(policy, HasLikelihood)
    is_deterministic = isinstance(policy, TD3Policy) and not has_its_own
    has_q_values = _has_q_values(policy) and not has_its_own
    for name, option, is_used, whom in (
        ("fixed_std", fixed_std, is_deterministic, "TD3 and DDPG"),
        ("temperature", temperature, has_q_values, "DQN and QR-DQN"),
    ):
        if option is not None and not is_used:
            raise ValueError(f"{name}: {option} was given for {type(policy).__name__}; it is for {whom}. Leave it out.")
    if has_its_own:
        return likelihood_of_custom(policy)
    space: Any = getattr(policy, "action_space", None)
    needs = _needs(policy)
    is_actor_critic = needs is not None
    actor = policy if is_actor_critic else getattr(policy, "actor", None)
    dist = getattr(actor, "action_dist", None)
    for kinds, discrete in _DISCRETE:
        if needs is not None and _is_one_of(dist, kinds):
            return discrete(space, needs)
    if isinstance(dist, DiagGaussianDistribution | SquashedDiagGaussianDistribution | StateDependentNoiseDistribution):
        params = _actor_critic_gaussian if is_actor_critic else _actor_gaussian
        squashed = bool(policy.squash_output)
        return Likelihood(
            ("squashed" if squashed else "diagonal") + " Gaussian",
            partial(params, log_std_min=log_std_min),
            _squashed_log_prob if squashed else _gaussian_log_prob,
            _gaussian_sample,
            _squashed_encode(space) if squashed else _as_rows,
            needs or "observations",
        )
    if is_deterministic and fixed_std is not None:
        return Likelihood(
            "Gaussian of fixed std",
            partial(_deterministic_params, log_std=math.log(fixed_std)),
            _gaussian_log_prob,
            _gaussian_sample,
            partial(_scale, space),
        )
    if has_q_values and temperature is not None:
        return softmax_of_q(space, temperature)
    raise TypeError(_why_not(policy))


def gaussian_around_mode(policy: nn.Module, std: float) -> Likelihood:
    """
    A Gaussian of fixed standard deviation around the action that a policy takes deterministically, before it is
    clipped. Its log-prob is a squared error: the normalising constant, a number for every action, is left out.

    Its parameters are that action, scaled to [-1, 1], (B, A).

    :param policy: with a Gaussian or squashed Gaussian likelihood, or deterministic (TD3, DDPG)
    :param std: in units of actions scaled to [-1, 1]
    :raises TypeError: the policy has no single such action that a gradient goes through
    """
    has_its_own = isinstance(policy, HasLikelihood)
    # Of the policy's own likelihood only the mean is read: any standard deviation and temperature will do.
    own = likelihood_of(
        policy,
        log_std_min=0.0,
        fixed_std=std if isinstance(policy, TD3Policy) and not has_its_own else None,
        temperature=1.0 if _has_q_values(policy) and not has_its_own else None,
    )
    space: Any = policy.action_space
    to_scaled: dict[str, Callable[[Tensor], Tensor]] = {
        "diagonal Gaussian": partial(_scale, space),
        "squashed Gaussian": torch.tanh,
        "Gaussian of fixed std": _as_rows,
    }
    if own.family not in to_scaled:
        raise TypeError(
            f"fixed_std: {std} was given for {type(policy).__name__}, whose likelihood is {own.family}: there is no "
            "mean action to measure from. Pass fixed_std=None for the policy's own likelihood."
        )
    return Likelihood(
        "Gaussian around the mode",
        lambda policy, inputs: to_scaled[own.family](own.params(policy, inputs).chunk(2, dim=-1)[0]),
        lambda params, actions: -0.5 * ((actions - params) / std).square().sum(dim=-1),
        lambda params, generator: params + std * _noise_like(params, generator),
        partial(_scale, space),
        own.needs,
    )


def trainable_parameters(policy: nn.Module, likelihood: Likelihood, inputs: Inputs) -> list[nn.Parameter]:
    """
    The parameters of the policy that its likelihood depends on: the actor's, without critics and value heads.

    :param inputs: any batch of what the likelihood needs
    """
    parameters = [p for p in policy.parameters() if p.requires_grad]
    params = likelihood.params(policy, inputs)
    with torch.no_grad():
        # A generator of its own: torch's global one goes on as if nothing had been drawn.
        actions = likelihood.sample(params, torch.Generator(params.device).manual_seed(0))
    # Of a log-prob, not of the parameters: those of a policy of one's own may be scored by further weights.
    gradients = torch.autograd.grad(likelihood.log_prob(params, actions).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def example_inputs(policy: Any, likelihood: Likelihood, observations: PyTorchObs) -> Inputs:
    """
    What the likelihood needs, of observations that come with nothing else: all actions allowed, one sequence.

    :param observations: normalised, (B, …) or a dict of such tensors
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


def _needs(policy: nn.Module) -> Needs | None:
    """What the likelihood of an actor-critic policy needs; None if it is none."""
    if hasattr(policy, "lstm_actor"):
        return "sequences"
    if isinstance(policy, ActorCriticPolicy):
        return "observations"
    # sb3-contrib may not be installed, so its classes are known by name.
    return "masks" if _is_one_of(policy, ("MaskableActorCriticPolicy",)) else None


def _is_one_of(instance: object, kinds: tuple[str, ...]) -> bool:
    return any(kind.__name__ in kinds for kind in type(instance).__mro__)


_DISCRETE: tuple[tuple[tuple[str, ...], Callable[[spaces.Space, Needs], Likelihood]], ...] = (
    # A maskable Bernoulli is a multi-categorical by inheritance.
    ((BernoulliDistribution.__name__, "MaskableBernoulliDistribution"), bernoulli),
    ((CategoricalDistribution.__name__, "MaskableCategoricalDistribution"), categorical),
    ((MultiCategoricalDistribution.__name__, "MaskableMultiCategoricalDistribution"), multi_categorical),
)


def _has_q_values(policy: nn.Module) -> bool:
    return isinstance(policy, DQNPolicy) or _is_one_of(policy, ("QRDQNPolicy",))


def _why_not(policy: nn.Module) -> str:
    """The reason why a policy has no likelihood here, and what to do."""
    name = type(policy).__name__
    works = (
        "PREFINE works with the policies of PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, SAC, TQC and CrossQ, and with "
        "your own that has params, log_prob and sample."
    )
    if isinstance(policy, TD3Policy):
        return (
            f"policy: {name} (TD3, DDPG) is deterministic: it has no log-prob to compare. Pass fixed_std=0.1 to take "
            "it for a Gaussian of that standard deviation (in units of actions scaled to [-1, 1])."
        )
    if _has_q_values(policy):
        return (
            f"policy: {name} (DQN, QR-DQN) gives values of actions, not their probabilities. Pass temperature=1.0 to "
            "take it for a softmax of its Q-values over that temperature (in units of the Q-values)."
        )
    dist = getattr(policy, "action_dist", None)
    if dist is not None:
        return f"policy: {name} has a {type(dist).__name__}, which is not supported. {works}"
    return f"policy: {name} has no likelihood that is known here. {works}"
