"""A policy's ``predict`` for the loop that steps environments: the same actions, in a third of the time."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import Tensor, nn

from sb3_prefine.acting import inherits
from sb3_prefine.reference import Reference

Predict: TypeAlias = Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...] | None]]

# Normalised observations, and whether to act by the mode; the policy's own, unscaled actions.
_Act: TypeAlias = Callable[[Any, bool], Tensor]


def fast_predict(policy: PolicyPredictor) -> Predict:
    """
    The policy's ``predict`` for batches, with the same actions to the last bit.

    For small networks most of the time of SB3's ``predict`` is not the network's: it tells every module at every call
    that this is no training, and builds a torch distribution and validates it. Here the modules are told once, and of
    Gaussian actors only the layers and the noise are computed. What overrides a method on the way is called as it is.

    :param policy: Anything with ``predict``; those of SB3 and references are known.
    :return: Takes ``predict``'s arguments. Ask for it anew after somebody else may have changed the policy.
    """
    inner, normalize = _inner_policy(policy)
    if inner is None or not inherits(inner, BasePolicy, "predict", "obs_to_tensor"):
        return cast(Predict, policy.predict)
    inner.set_training_mode(False)
    act = _act_of(inner)
    space: Any = inner.action_space

    def predict(
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        with torch.no_grad():
            actions = act(normalize(observation), deterministic).cpu().numpy().reshape((-1, *space.shape))
        if isinstance(space, spaces.Box):
            actions = inner.unscale_action(actions) if inner.squash_output else np.clip(actions, space.low, space.high)
        return actions, state

    return predict


def _inner_policy(policy: PolicyPredictor) -> tuple[BasePolicy | None, Callable[[Any], Any]]:
    """The SB3 policy that acts, and what its observations go through first; None if that is not known."""
    if isinstance(policy, BasePolicy):
        return policy, lambda observation: observation
    if isinstance(policy, Reference) and inherits(policy, Reference, "predict"):
        return policy.policy, policy.normalize
    return None, lambda observation: observation


def _act_of(policy: BasePolicy) -> _Act:
    if isinstance(policy, ActorCriticPolicy):
        methods = ("_predict", "get_distribution", "_get_action_dist_from_latent")
        layers: Any = policy.mlp_extractor
        if (
            inherits(policy, ActorCriticPolicy, *methods)
            and inherits(layers, MlpExtractor, "forward_actor")
            and type(policy.action_dist) is DiagGaussianDistribution
        ):
            return _gaussian_act(policy)
    elif isinstance(policy, SACPolicy):
        actor: Any = policy.actor
        if (
            inherits(policy, SACPolicy, "_predict")
            and inherits(actor, Actor, "forward", "get_action_dist_params", "extract_features")
            and not _is_hooked(actor)
            and type(actor.action_dist) is SquashedDiagGaussianDistribution
        ):
            return _squashed_act(policy)
    return lambda observation, deterministic: policy._predict(policy.obs_to_tensor(observation)[0], deterministic)


def _gaussian_act(policy: ActorCriticPolicy) -> _Act:
    features_of = _features(policy, policy, policy.pi_features_extractor)
    mean_of = _chain(policy.mlp_extractor.policy_net, policy.action_net)

    def act(observation: Any, deterministic: bool) -> Tensor:
        mean = mean_of(features_of(observation))
        return mean if deterministic else _sample(mean, policy.log_std)

    return act


def _squashed_act(policy: SACPolicy) -> _Act:
    actor = policy.actor
    features_of = _features(policy, actor, actor.features_extractor)
    latent_of, mean_of, log_std_of = _chain(actor.latent_pi), _chain(actor.mu), _chain(cast(nn.Module, actor.log_std))

    def act(observation: Any, deterministic: bool) -> Tensor:
        latent = latent_of(features_of(observation))
        mean = mean_of(latent)
        if deterministic:
            return torch.tanh(mean)
        return torch.tanh(_sample(mean, torch.clamp(log_std_of(latent), LOG_STD_MIN, LOG_STD_MAX)))

    return act


def _sample(mean: Tensor, log_std: Tensor) -> Tensor:
    # The operations of torch's Normal.rsample: others would round otherwise.
    return mean + torch.randn_like(mean) * log_std.exp()


def _features(policy: BasePolicy, model: BaseModel, extractor: Any) -> Callable[[Any], Tensor]:
    """What the layers see of observations. Of vectors it is the vectors, which SB3 finds out at every call."""
    space, device = policy.observation_space, policy.device
    are_vectors = (
        type(space) is spaces.Box
        and len(space.shape) == 1
        and type(extractor) is FlattenExtractor
        and not _is_hooked(extractor)
    )

    def features(observation: Any) -> Tensor:
        # Of another shape: SB3 says what is wrong with it.
        if are_vectors and observation.shape[1:] == space.shape:
            return torch.as_tensor(observation, device=device).float()
        return BaseModel.extract_features(model, policy.obs_to_tensor(observation)[0], extractor)

    return features


def _chain(*modules: nn.Module) -> Callable[[Tensor], Tensor]:
    """One module after the other. What torch does around each of them takes longer than a small layer itself."""
    functions = [function for module in modules for function in _functions(module)]

    def forward(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return forward


def _functions(module: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    if not _is_hooked(module) and "forward" not in vars(module):
        if type(module) is nn.Sequential:
            return [function for child in module for function in _functions(child)]
        if type(module) is nn.Linear:
            return [partial(nn.functional.linear, weight=module.weight, bias=module.bias)]
        if type(module) in (nn.Tanh, nn.ReLU):
            return [torch.tanh if type(module) is nn.Tanh else torch.relu]
    return [module]


def _is_hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
