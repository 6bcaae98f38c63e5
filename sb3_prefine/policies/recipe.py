"""Build a policy from its class, its spaces and its arguments."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import FloatSchedule

# Packages of SB3's policies. Unless they learn without gradients, these policies build an optimizer.
RL_PACKAGES = ("stable_baselines3.", "sb3_contrib.")


@dataclass(frozen=True, eq=False)
class PolicyRecipe:
    """
    Everything needed to build a policy, except its weights.

    :param policy_class: Class of the policy, e.g. ``ActorCriticPolicy``.
    :param observation_space: Space of the observations.
    :param action_space: Space of the actions.
    :param kwargs: Keyword arguments of the constructor, except the spaces and the learning rate.
    """

    policy_class: type[BasePolicy]
    observation_space: spaces.Space
    action_space: spaces.Space
    kwargs: Mapping[str, Any]

    def build(self) -> BasePolicy:
        """
        Build a policy with fresh weights on the CPU, without an optimizer.

        :return: The policy. It names the optimizer of the recipe, so that a copy made by SB3 has that optimizer.
        """
        # The user's module stays unchanged: every policy gets a copy.
        kwargs: dict[str, Any] = {
            key: copy.deepcopy(value) if isinstance(value, torch.nn.Module) else value
            for key, value in self.kwargs.items()
        }
        parameters = inspect.signature(self.policy_class).parameters
        if "lr_schedule" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            kwargs["lr_schedule"] = FloatSchedule(3e-4)
        # ARS, which learns without gradients, has no such argument.
        has_known_optimizer = "optimizer_class" in parameters and self.policy_class.__module__.startswith(RL_PACKAGES)
        if has_known_optimizer:
            kwargs["optimizer_class"] = _NoOptimizer
        policy = self.policy_class(self.observation_space, self.action_space, **kwargs)
        if has_known_optimizer:
            default = parameters["optimizer_class"].default
            policy.optimizer_class = self.kwargs.get("optimizer_class", default)
            # None selects SB3's own arguments, which depend on the class.
            policy.optimizer_kwargs = self.kwargs.get("optimizer_kwargs")  # type: ignore[assignment]
        return policy


class _NoOptimizer:
    """
    Replaces a policy's own optimizer, which this package does not use.

    The first real optimizer of a process makes torch import its compiler, which takes longer than everything else in
    opening a checkpoint.
    """

    def __init__(self, parameters: Any, lr: float, **kwargs: Any) -> None:
        pass
