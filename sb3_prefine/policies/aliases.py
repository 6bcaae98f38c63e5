"""New policies by a short name, such as ``"GaussianPolicy"``."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.networks import default_extractor
from sb3_prefine.policies.recipe import PolicyRecipe

_GAUSSIAN = (ActorCriticPolicy, {"net_arch": {"pi": [256, 256], "vf": []}, "activation_fn": nn.ReLU})

# For each name, the class and the arguments that differ from its defaults. The value head or critic of these classes
# is not trained, so it is as small as they allow.
ALIASES: dict[str, tuple[type[BasePolicy], dict[str, Any]]] = {
    "MlpPolicy": _GAUSSIAN,
    "GaussianPolicy": _GAUSSIAN,
    "SquashedPolicy": (SACPolicy, {"net_arch": {"pi": [256, 256], "qf": []}, "n_critics": 1}),
    "CVAEPolicy": (CVAEPolicy, {}),
}


def make_policy(
    policy: str | type[BasePolicy],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    policy_kwargs: Mapping[str, Any] | None = None,
) -> BasePolicy:
    """
    Make a new policy. The networks of an alias have two hidden layers of 256 units, as in the paper.

    :param policy: ``"GaussianPolicy"`` or ``"MlpPolicy"`` (PPO's policy), ``"SquashedPolicy"`` (SAC's policy),
        ``"CVAEPolicy"``, or a class.
    :param observation_space: Space of the observations, normalised if there is a normaliser.
    :param action_space: Space of the actions.
    :param policy_kwargs: Further arguments of the policy's constructor.
    :return: The policy, with fresh weights on the CPU.
    :raises ValueError: If there is no such alias.
    """
    if isinstance(policy, str) and policy not in ALIASES:
        raise ValueError(f"policy: {policy!r} is not known. Choose one of {', '.join(ALIASES)}, or give a class.")
    policy_class, defaults = ALIASES[policy] if isinstance(policy, str) else (policy, {})
    kwargs = {"features_extractor_class": default_extractor(observation_space), **defaults, **(policy_kwargs or {})}
    return PolicyRecipe(policy_class, observation_space, action_space, kwargs).build()
