"""A policy's ``predict`` for the loop that steps environments: the same actions, in less than half of the time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import Tensor, nn

from sb3_prefine.policies.gsde import renew_noise
from sb3_prefine.reference.reference import Reference
from sb3_prefine.rollout.predictor import clip, inherits

Predict: TypeAlias = Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...] | None]]

# Normalised observations, and whether to act by the mode; the policy's own, unscaled actions.
_Act: TypeAlias = Callable[[Any, bool], np.ndarray]


def fast_predict(policy: PolicyPredictor) -> Predict:
    """
    The policy's ``predict`` for batches, with the same actions to the last bit.

    For small networks most of the time of SB3's ``predict`` is not the network's: it tells every module at every call
    that this is no training, and builds a torch distribution and validates it. Here the modules are told once, and of
    Gaussian actors only the layers and the noise are computed. What overrides a method on the way is called as it is.
    The noise of gSDE is drawn anew at every call: ``predict`` leaves that to its caller.

    :param policy: Anything with ``predict``; those of SB3 and references are known.
    :return: Takes ``predict``'s arguments. Ask for it anew after somebody else may have changed the policy.
    """
    inner, normalize = _inner_policy(policy)
    if inner is None:
        return cast(Predict, policy.predict)
    if not inherits(inner, BasePolicy, "predict", "obs_to_tensor"):
        return _with_new_noise(policy, inner)
    inner.set_training_mode(False)
    act = _act_of(inner)
    space: Any = inner.action_space

    def predict(
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        actions = act(normalize(observation), deterministic)
        if isinstance(space, spaces.Box):
            actions = inner.unscale_action(actions) if inner.squash_output else clip(actions, space)
        return actions, state

    return predict


def _with_new_noise(policy: PolicyPredictor, inner: BasePolicy) -> Predict:
    """Its own ``predict``, such as that of recurrent policies, with gSDE's noise drawn anew at every call."""

    def predict(
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        **masks: np.ndarray,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        if not deterministic:
            renew_noise(inner, _batch_size(observation))
        return policy.predict(observation, state, episode_start, deterministic, **masks)

    return predict


def _batch_size(observation: Any) -> int:
    return len(next(iter(observation.values())) if isinstance(observation, dict) else observation)


def _inner_policy(policy: PolicyPredictor) -> tuple[BasePolicy | None, Callable[[Any], Any]]:
    """The SB3 policy that acts, and what its observations go through first; None if that is not known."""
    if isinstance(policy, BasePolicy):
        return policy, lambda observation: observation
    if isinstance(policy, Reference) and inherits(policy, Reference, "predict"):
        return policy.policy, policy.normalize
    return None, lambda observation: observation


def _act_of(policy: BasePolicy) -> _Act:
    space: Any = policy.action_space

    @torch.no_grad()
    def act(observation: Any, deterministic: bool) -> np.ndarray:
        inputs = policy.obs_to_tensor(observation)[0]
        if not deterministic:
            renew_noise(policy, _batch_size(inputs))
        actions = policy._predict(inputs, deterministic)
        return actions.cpu().numpy().reshape((-1, *space.shape))

    if isinstance(policy, ActorCriticPolicy) and _is_gaussian(policy):
        return _in_memory(policy, _gaussian_program, act)
    if isinstance(policy, SACPolicy) and _is_squashed_gaussian(policy):
        return _in_memory(policy, _squashed_program, act)
    return act


def _is_gaussian(policy: ActorCriticPolicy) -> bool:
    layers: Any = policy.mlp_extractor
    return (
        inherits(policy, ActorCriticPolicy, "_predict", "get_distribution", "_get_action_dist_from_latent")
        and inherits(layers, MlpExtractor, "forward_actor")
        and type(policy.action_dist) is DiagGaussianDistribution
        and _sees_vectors(policy, policy.pi_features_extractor)
        and _are_plain(layers.policy_net, policy.action_net)
    )


def _is_squashed_gaussian(policy: SACPolicy) -> bool:
    actor: Any = policy.actor
    return (
        inherits(policy, SACPolicy, "_predict")
        and inherits(actor, Actor, "forward", "get_action_dist_params", "extract_features")
        and _is_as_made(actor)
        and type(actor.action_dist) is SquashedDiagGaussianDistribution
        and _sees_vectors(policy, actor.features_extractor)
        and _are_plain(actor.latent_pi, actor.mu, actor.log_std)
    )


def _sees_vectors(policy: BasePolicy, extractor: nn.Module) -> bool:
    """Whether the first layer sees the observations themselves, which SB3 finds out at every call."""
    space = policy.observation_space
    return (
        type(space) is spaces.Box
        and len(space.shape) == 1
        and type(extractor) is FlattenExtractor
        and _is_as_made(extractor)
    )


def _are_plain(*modules: nn.Module) -> bool:
    """Whether they are nothing but linear layers with activations behind them, and nobody sees what goes through."""
    parts = [_layers(module) for module in modules]
    return all(
        all(_is_as_made(layer) and (type(layer) is nn.Linear or _is_activation(layer)) for layer in layers)
        and (not layers or type(layers[0]) is nn.Linear)
        for layers in parts
    )


def _is_activation(layer: nn.Module) -> bool:
    return type(layer).__module__ == nn.Tanh.__module__ and next(layer.parameters(), None) is None


def _layers(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential and _is_as_made(module):
        return [layer for child in module for layer in _layers(child)]
    return [module]


def _is_as_made(module: Any) -> bool:
    """Whether nobody listens to a module or has replaced its forward."""
    return not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)


@dataclass(frozen=True, eq=False)
class _Program:
    """
    What an actor computes of n observations: calls without arguments, each of which writes into memory that is there.

    Between two steps a simulation takes the processor's caches. Whatever torch and Python do around a small product,
    over much code, takes longer then than the product: here nothing is allocated, chosen or recorded for a gradient.

    :param observations: (n, size) where the calls find the observations
    :param mode: the calls that lead to the modes, and (n, ...) where these are then
    :param sample: the calls that lead to samples, and (n, ...) where these are then
    """

    observations: Tensor
    mode: "tuple[_Calls, Tensor]"
    sample: "tuple[_Calls, Tensor]"


_Calls: TypeAlias = list[Callable[[], Any]]


def _in_memory(policy: BasePolicy, program_of: Callable[[Any, int], _Program], otherwise: _Act) -> _Act:
    shape: Any = policy.observation_space.shape
    on_cpu = policy.device.type == "cpu"
    n = 0
    program = program_of(policy, n)

    def act(observation: np.ndarray, deterministic: bool) -> np.ndarray:
        nonlocal n, program
        if observation.shape[1:] != shape:
            return otherwise(observation, deterministic)  # SB3 says what is wrong with it
        if observation.shape[0] != n:
            n = observation.shape[0]
            program = program_of(policy, n)
        if on_cpu:
            program.observations.numpy()[...] = observation
        else:
            program.observations.copy_(torch.as_tensor(observation))
        calls, actions = program.mode if deterministic else program.sample
        for call in calls:
            call()
        return actions.numpy() if on_cpu else actions.cpu().numpy()

    return act


def _gaussian_program(policy: ActorCriticPolicy, n: int) -> _Program:
    observations = _memory(policy, n)
    calls, mean = _run(observations, policy.mlp_extractor.policy_net, policy.action_net)
    draw, sample = _draw(mean, policy.log_std.detach().exp())
    return _Program(observations, (calls, mean), (calls + draw, sample))


def _squashed_program(policy: SACPolicy, n: int) -> _Program:
    actor: Any = policy.actor
    observations = _memory(policy, n)
    to_latent, latent = _run(observations, actor.latent_pi)
    to_mean, mean = _run(latent, actor.mu)
    to_std, std = _run(latent, actor.log_std)
    to_std += [partial(std.clamp_, LOG_STD_MIN, LOG_STD_MAX), std.exp_]
    draw, sample = _draw(mean, std)
    calls = to_latent + to_mean
    return _Program(observations, ([*calls, mean.tanh_], mean), ([*calls, *to_std, *draw, sample.tanh_], sample))


def _memory(policy: BasePolicy, n: int) -> Tensor:
    shape: Any = policy.observation_space.shape
    return torch.empty((n, *shape), device=policy.device)


def _run(x: Tensor, *modules: nn.Module) -> tuple[_Calls, Tensor]:
    calls: _Calls = []
    for layer in (layer for module in modules for layer in _layers(module)):
        if isinstance(layer, nn.Linear):
            out, weight = x.new_empty(len(x), layer.out_features), layer.weight.detach().t()
            if layer.bias is None:
                calls.append(partial(torch.mm, x, weight, out=out))
            else:
                calls.append(partial(torch.addmm, layer.bias.detach(), x, weight, out=out))
            x = out
        elif type(layer) in _IN_PLACE:
            calls.append(partial(_IN_PLACE[type(layer)], x))
        else:
            calls.append(partial(_overwrite, x, layer))
    return calls, x


_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.Tanh: torch.tanh_, nn.ReLU: torch.relu_}


def _overwrite(x: Tensor, activation: nn.Module) -> None:
    x.copy_(activation(x))


def _draw(mean: Tensor, std: Tensor) -> tuple[_Calls, Tensor]:
    # The operations of torch's Normal.rsample: others would round otherwise.
    sample = torch.empty_like(mean)
    return [sample.normal_, partial(sample.mul_, std), partial(sample.add_, mean)], sample
