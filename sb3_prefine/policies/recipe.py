"""How to build a policy of the same kind again."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import FloatSchedule

# Packages whose policies SB3 builds with an optimizer of their own.
RL_PACKAGES = ("stable_baselines3.", "sb3_contrib.")


@dataclass(frozen=True, eq=False)
class PolicyRecipe:
    """
    How to build a policy anew.

    :param policy_class: e.g. ``ActorCriticPolicy``
    :param kwargs: its keyword arguments beside the spaces and the learning rate
    """

    policy_class: type[BasePolicy]
    observation_space: spaces.Space
    action_space: spaces.Space
    kwargs: Mapping[str, Any]

    def build(self) -> BasePolicy:
        """A new policy with fresh weights, on the CPU. Its own optimizers are not used."""
        # A module of somebody's own stays theirs: every policy gets a copy.
        kwargs: dict[str, Any] = {
            key: copy.deepcopy(value) if isinstance(value, torch.nn.Module) else value
            for key, value in self.kwargs.items()
        }
        parameters = inspect.signature(self.policy_class).parameters
        if "lr_schedule" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            kwargs["lr_schedule"] = FloatSchedule(3e-4)
        # Otherwise learnt without gradients: ARS.
        has_known_optimizer = "optimizer_class" in parameters and self.policy_class.__module__.startswith(RL_PACKAGES)
        if has_known_optimizer:
            kwargs["optimizer_class"] = _NoOptimizer
        policy = self.policy_class(self.observation_space, self.action_space, **kwargs)
        if has_known_optimizer:
            default = parameters["optimizer_class"].default
            policy.optimizer_class = self.kwargs.get("optimizer_class", default)
            # None: SB3's own, which depend on the class.
            policy.optimizer_kwargs = self.kwargs.get("optimizer_kwargs")  # type: ignore[assignment]
        return policy


class _NoOptimizer:
    """
    In the place of a policy's own optimizer, which nothing here uses. The first real one of a process makes torch
    import its compiler, which takes longer than all else that opening a checkpoint does.
    """

    def __init__(self, parameters: Any, lr: float, **kwargs: Any) -> None:
        pass
