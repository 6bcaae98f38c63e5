"""New policies by a short name."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.networks import default_extractor
from sb3_prefine.policies.recipe import PolicyRecipe


def make_policy(
    policy: str | type[BasePolicy],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    policy_kwargs: Mapping[str, Any] | None = None,
) -> BasePolicy:
    """
    A new policy; the networks of an alias have two hidden layers of 256 units, as the paper's.

    :param policy: ``"GaussianPolicy"`` (``"MlpPolicy"`` is the same): that of PPO; ``"SquashedPolicy"``: that of SAC;
        ``"CVAEPolicy"``; or a class
    :param policy_kwargs: further arguments of its constructor
    :raises ValueError: no alias; names those that there are
    """
    if isinstance(policy, str) and policy not in ALIASES:
        raise ValueError(f"policy: {policy!r} is not known. Choose one of {', '.join(ALIASES)}, or give a class.")
    policy_class, defaults = ALIASES[policy] if isinstance(policy, str) else (policy, {})
    kwargs = {"features_extractor_class": default_extractor(observation_space), **defaults, **(policy_kwargs or {})}
    return PolicyRecipe(policy_class, observation_space, action_space, kwargs).build()


_GAUSSIAN = (ActorCriticPolicy, {"net_arch": {"pi": [256, 256], "vf": []}, "activation_fn": nn.ReLU})


# By name, the class and those of its arguments that are not its defaults. What these classes have beside the actor, a
# value head or a critic, is as small as they allow, and is not trained.
ALIASES: dict[str, tuple[type[BasePolicy], dict[str, Any]]] = {
    "MlpPolicy": _GAUSSIAN,
    "GaussianPolicy": _GAUSSIAN,
    "SquashedPolicy": (SACPolicy, {"net_arch": {"pi": [256, 256], "qf": []}, "n_critics": 1}),
    "CVAEPolicy": (CVAEPolicy, {}),
}
