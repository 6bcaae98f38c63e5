"""Policies of your own: any ``nn.Module`` that can score and sample its actions."""

from collections.abc import Callable
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
    What PREFINE asks of a policy of your own, an ``nn.Module`` or a subclass of SB3's ``BasePolicy``.

    The distribution at a state is a row of P numbers, its parameters. ``log_prob`` and ``sample`` depend on the state
    by these numbers alone: the reference's rows are computed once. They may have weights of their own (a mixture with
    a decoder, :class:`~sb3_prefine.policies.CVAEPolicy`): the reference's rows are scored by a frozen copy. What the
    gradient of ``log_prob`` reaches is trained. Continuous actions are those of the environment; discrete ones are
    int64, (B, 1) for a ``Discrete`` space.

    A plain ``nn.Module`` also needs ``observation_space`` and ``action_space``, as attributes or from
    ``PREFINE(policy, env=…)``, and, to act deterministically, ``mode(params (B, P)) -> actions (B, A)``.
    """

    def params(self, observations: Any) -> Tensor:
        """
        :param observations: (B, …), or a dict of such tensors; normalised if there is a normaliser
        :return: parameters (B, P), with gradient
        """
        ...

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        :param params: (B, P)
        :param actions: (…, B, A), with any leading dimensions
        :return: log π(a|s), (…, B), nats
        """
        ...

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """
        :param params: (B, P)
        :param generator: the source of randomness, to hand to torch's functions; None is torch's own
        :return: one action a row, (B, A)
        """
        ...


class ModulePolicy(BasePolicy):
    """
    A plain module as an SB3 policy, so that it can act.

    :param observation_space: of normalised observations
    :param action_space: of its actions
    :param lr_schedule: unused; what SB3 gives every policy
    :param module: a module with a likelihood
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
    The likelihood of a policy that has one itself.

    :param policy: has :class:`HasLikelihood`'s methods
    """
    return Likelihood(
        family=f"of {type(getattr(policy, 'module', policy)).__name__}",
        params=lambda policy, inputs: policy.params(inputs),
        log_prob=policy.log_prob,
        sample=policy.sample,
        encode=_encode(policy.action_space),
    )


def check_shapes(likelihood: Likelihood, policy: Any, inputs: Any, n_states: int) -> None:
    """
    Try a likelihood on a few states: a mistake shows here, not as a broadcast in the loss.

    :param inputs: of ``n_states`` states
    :raises ValueError: names the method whose shape is wrong
    """
    with torch.no_grad():
        params = likelihood.params(policy, inputs)
        _expect(params.dim() == 2 and len(params) == n_states, "params", params, f"({n_states}, P)")
        actions = likelihood.sample(params, None)
        size = int(np.prod(policy.action_space.shape or (1,)))
        _expect(actions.shape == (n_states, size), "sample", actions, f"({n_states}, {size})")
        scores = likelihood.log_prob(params, torch.stack((actions, actions, actions)))
        _expect(scores.shape == (3, n_states), "log_prob", scores, f"(3, {n_states}) for actions (3, {n_states}, A)")


def _expect(as_wanted: bool, method: str, found: Tensor, expected: str) -> None:
    if not as_wanted:
        raise ValueError(
            f"policy: its {method} returned the shape {tuple(found.shape)}, expected {expected}. See "
            "sb3_prefine.policies.HasLikelihood for what each method is given and gives."
        )


def _encode(space: spaces.Space) -> Callable[[Tensor], Tensor]:
    def encode(actions: Tensor) -> Tensor:
        actions = actions.reshape(len(actions), -1)
        return actions.float() if isinstance(space, spaces.Box) else actions.long()

    return encode
