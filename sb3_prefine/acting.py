"""The policy's side of a rollout: opening it, asking it for actions, fitting them to the environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor
from torch.distributions import Normal

from sb3_prefine.inputs import actor_latent
from sb3_prefine.offline import OfflineAlgorithm
from sb3_prefine.reference import Reference, load_reference

Policy: TypeAlias = PolicyPredictor | str | Path
Predict: TypeAlias = Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...] | None]]

# Normalised observations, and whether to act by the mode; the policy's own, unscaled actions.
_Act: TypeAlias = Callable[[Any, bool], Tensor]


def open_policy(policy: Policy) -> PolicyPredictor:
    """
    Something with a ``predict`` that takes raw observations.

    :param policy: Such an object; or an SB3 model or a path, which ``load_reference`` opens.
    :raises TypeError: If it is neither.
    """
    if isinstance(policy, str | Path) or (isinstance(policy, BaseAlgorithm) and not hasattr(policy, "wrap_env")):
        return load_reference(policy)
    if not callable(getattr(policy, "predict", None)):
        raise TypeError(
            f"policy: {type(policy).__name__} has no predict(observation, state, episode_start, deterministic). Pass a "
            "PREFINE or another SB3 model, what load_reference() returns, or the path of a saved model."
        )
    return policy


def predict_of(policy: PolicyPredictor) -> Predict:
    """
    The policy's ``predict`` for batches, with the same actions to the last bit, in a third of the time.

    For small networks most of the time of SB3's ``predict`` is not the network's: it tells every module at every call
    that this is no training, builds a torch distribution, and validates it. Here the modules are told once, and
    Gaussian actors are asked for the mean and noise alone. Whatever overrides a method on the way is called as it is.

    :param policy: What :func:`open_policy` returned. Ask anew after somebody else may have changed it.
    """
    inner, normalize = _inner_policy(policy)
    if inner is None or not _inherits(inner, BasePolicy, "predict"):
        return cast(Predict, policy.predict)
    inner.set_training_mode(False)
    act = _act_of(inner)
    space = inner.action_space

    def predict(
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        tensors, _ = inner.obs_to_tensor(normalize(observation))
        with torch.no_grad():
            actions = act(tensors, deterministic).cpu().numpy().reshape((-1, *cast(tuple, space.shape)))
        if isinstance(space, gym.spaces.Box):
            actions = inner.unscale_action(actions) if inner.squash_output else np.clip(actions, space.low, space.high)
        return actions, state

    return predict


def fit_to_space(actions: Any, space: gym.Space, n: int) -> np.ndarray:
    """
    What the environments receive: clipped to a Box's bounds, in the dtype of the space.

    :param actions: (n, ...) what the policy said.
    :param space: The environments' action space.
    :param n: How many there are.
    :return: A new array.
    :raises ValueError: If they do not fit the space, or one is NaN or infinite.
    """
    actions = np.asarray(actions)
    shape = (n, *(space.shape or ()))
    if actions.shape != shape:
        raise ValueError(f"policy: its actions have shape {actions.shape}, those of {space} have shape {shape}.")
    if isinstance(space, gym.spaces.MultiBinary) and np.isin(actions, (0, 1)).all():
        actions = actions.astype(space.dtype)  # SB3 gives them as floats
    if not np.can_cast(actions.dtype, cast(Any, space.dtype), casting="same_kind"):
        raise ValueError(f"policy: its actions are {actions.dtype}, those of {space} are {space.dtype}.")
    if not np.isfinite(actions).all():
        row = int(np.argmin(np.isfinite(actions).reshape(n, -1).all(axis=1)))
        raise ValueError(f"policy: a NaN or infinite action, {actions[row]}. Its weights or its normaliser are broken.")
    if isinstance(space, gym.spaces.Box):
        actions = np.clip(actions, space.low, space.high)
    return actions.astype(space.dtype)


def _inner_policy(policy: PolicyPredictor) -> tuple[BasePolicy | None, Callable[[Any], Any]]:
    """The SB3 policy that acts, and what its observations go through first; None if that is not known."""
    if isinstance(policy, BasePolicy):
        return policy, lambda observation: observation
    if isinstance(policy, Reference) and _inherits(policy, Reference, "predict"):
        return policy.policy, policy.normalize
    if isinstance(policy, OfflineAlgorithm) and _inherits(policy, OfflineAlgorithm, "predict"):
        return policy.policy, policy.reference.normalize
    return None, lambda observation: observation


def _act_of(policy: BasePolicy) -> _Act:
    if isinstance(policy, ActorCriticPolicy) and _inherits(
        policy, ActorCriticPolicy, "_predict", "get_distribution", "_get_action_dist_from_latent"
    ):
        if type(policy.action_dist) is DiagGaussianDistribution:
            return _gaussian_act(policy)
    elif isinstance(policy, SACPolicy) and _inherits(policy, SACPolicy, "_predict"):
        actor: Any = policy.actor
        hooked = actor._forward_hooks or actor._forward_pre_hooks
        as_usual = _inherits(actor, Actor, "forward", "get_action_dist_params") and not hooked
        if type(actor.action_dist) is SquashedDiagGaussianDistribution and as_usual:
            return _squashed_act(actor)
    return policy._predict


def _gaussian_act(policy: ActorCriticPolicy) -> _Act:
    def act(observations: Any, deterministic: bool) -> Tensor:
        mean: Tensor = policy.action_net(actor_latent(policy, observations))
        return mean if deterministic else _sample(mean, policy.log_std)

    return act


def _squashed_act(actor: Actor) -> _Act:
    def act(observations: Any, deterministic: bool) -> Tensor:
        if deterministic:
            latent = actor.latent_pi(actor.extract_features(observations, actor.features_extractor))
            return torch.tanh(actor.mu(latent))
        mean, log_std, _ = actor.get_action_dist_params(observations)
        return torch.tanh(_sample(mean, log_std))

    return act


def _sample(mean: Tensor, log_std: Tensor) -> Tensor:
    # The operations of SB3's DiagGaussianDistribution in their order: others would round otherwise.
    return Normal(mean, torch.ones_like(mean) * log_std.exp(), validate_args=False).rsample()


def _inherits(instance: object, base: type, *names: str) -> bool:
    """Whether these methods of an instance of the class are the class's own."""
    return all(getattr(type(instance), name) is getattr(base, name) and name not in vars(instance) for name in names)
