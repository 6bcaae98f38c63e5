"""Policies of your own: any ``nn.Module`` that can score and sample its actions."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from sb3_prefine.policies.base import Likelihood


@runtime_checkable
class HasLikelihood(Protocol):
    """
    The methods of a policy of your own: an ``nn.Module``, or a subclass of SB3's ``BasePolicy``.

    P numbers, its parameters, describe the distribution at a state. ``log_prob`` and ``sample`` must depend on the
    state only through them, because the reference's parameters are computed once. Both methods may use weights of the
    module (as a mixture with a decoder does, :class:`~sb3_prefine.policies.CVAEPolicy`); a frozen copy then scores the
    reference's parameters. PREFINE trains the weights that the gradient of ``log_prob`` reaches. Continuous actions are
    in the environment's units; discrete ones are int64, (B, 1) for a ``Discrete`` space.

    A plain ``nn.Module`` also needs ``observation_space`` and ``action_space``, as attributes or from
    ``PREFINE(policy, env=…)``, and, to act deterministically, ``mode(params (B, P)) -> actions (B, A)``.
    """

    def params(self, observations: Any) -> Tensor:
        """
        Compute the parameters of the distribution at each state.

        :param observations: (B, …), or a dict of such tensors; normalised if there is a normaliser.
        :return: Parameters (B, P), with gradient.
        """
        ...

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        Score actions.

        :param params: Parameters (B, P).
        :param actions: Actions (…, B, A), with any leading dimensions.
        :return: The log-prob log π(a|s), (…, B), in nats.
        """
        ...

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """
        Draw one action for each row of parameters.

        :param params: Parameters (B, P).
        :param generator: Random generator to pass to torch's functions; None for torch's global one.
        :return: Actions (B, A).
        """
        ...


class ModulePolicy(BasePolicy):
    """
    Make a plain module an SB3 policy, so that it can act.

    :param observation_space: Space of the normalised observations.
    :param action_space: Space of the actions.
    :param lr_schedule: Unused, but SB3 passes it to every policy.
    :param module: A module with a likelihood.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        *,
        module: nn.Module,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.module = module

    def params(self, observations: Any) -> Tensor:
        return self.module.params(observations)  # type: ignore[operator]

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return self.module.log_prob(params, actions)  # type: ignore[operator]

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.module.sample(params, generator)  # type: ignore[operator]

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        params = self.params(observation)
        if not deterministic:
            actions = self.sample(params, None)
        elif callable(mode := getattr(self.module, "mode", None)):
            actions = mode(params)
        else:
            raise TypeError(
                f"policy: {type(self.module).__name__} has no mode(params), so it cannot act deterministically. "
                "Define it, or pass deterministic=False."
            )
        return actions.reshape(len(actions), *(self.action_space.shape or ()))


def likelihood_of_custom(policy: Any) -> Likelihood:
    """
    Wrap the methods of a policy that is its own likelihood.

    :param policy: A policy with the methods of :class:`HasLikelihood`.
    """
    return Likelihood(
        family=f"{type(getattr(policy, 'module', policy)).__name__}'s own",
        params=lambda policy, inputs: policy.params(inputs),
        log_prob=policy.log_prob,
        sample=policy.sample,
        encode=partial(_encode, policy.action_space),
    )


def check_shapes(likelihood: Likelihood, policy: Any, inputs: Any, n_states: int) -> None:
    """
    Try a likelihood on a few states, so that a wrong shape is an error here instead of a broadcast in the loss.

    :param likelihood: The likelihood to check.
    :param policy: Its policy.
    :param inputs: Inputs of ``n_states`` states.
    :param n_states: Number of states.
    :raises ValueError: If a method returns a wrong shape. The message names the method.
    """
    with torch.no_grad():
        params = likelihood.params(policy, inputs)
        _check_shape(params.dim() == 2 and len(params) == n_states, "params", params, f"({n_states}, P)")
        actions = likelihood.sample(params, None)
        size = int(np.prod(policy.action_space.shape or (1,)))
        _check_shape(actions.shape == (n_states, size), "sample", actions, f"({n_states}, {size})")
        scores = likelihood.log_prob(params, torch.stack((actions, actions, actions)))
        expected = f"(3, {n_states}) for actions (3, {n_states}, A)"
        _check_shape(scores.shape == (3, n_states), "log_prob", scores, expected)


def _check_shape(is_right: bool, method: str, returned: Tensor, expected: str) -> None:
    if not is_right:
        raise ValueError(
            f"policy: its {method} returned the shape {tuple(returned.shape)}, expected {expected}. See "
            "sb3_prefine.policies.HasLikelihood for what each method receives and returns."
        )


def _encode(space: spaces.Space, actions: Tensor) -> Tensor:
    actions = actions.reshape(len(actions), -1)
    return actions.float() if isinstance(space, spaces.Box) else actions.long()
