"""Transitions for critics: vectors of normalised observations, and actions scaled to [-1, 1]."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.transition_tables import normalized


@dataclass(frozen=True, eq=False)
class Transitions:
    """
    N transitions on the device.

    :param observations: Normalised observations, as the networks read them, (N, O).
    :param actions: Actions scaled to [-1, 1], (N, A).
    :param next_observations: Normalised next observations, (N, O).
    :param continues: 0 where the environment ended the episode (``terminals``), so that the next state has no value;
        1 elsewhere, also where a time limit ended it (``timeouts``), (N,).
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    continues: Tensor

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def inputs(self) -> Tensor:
        """Observations and actions, as critics of both read them, (N, O + A)."""
        return torch.cat((self.observations, self.actions), dim=1)

    def at(self, rows: Tensor) -> Self:
        """Gather the transitions of these rows, (B,)."""
        return type(self)(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))


def transitions_of(name: str, trajectories: Trajectories, reference: Reference, policy: BasePolicy) -> Transitions:
    """
    Move all transitions of the data to the policy's device.

    :param name: Name of the data in errors.
    :param trajectories: The data.
    :param reference: The reference, whose normaliser is applied.
    :param policy: The policy, which scales the actions.
    :raises ValueError: If an observation is not finite after normalisation.
    """

    def observations(raw: object) -> Tensor:
        rows = normalized(name, raw, reference, policy)
        assert isinstance(rows, Tensor)  # vector_sizes
        return rows

    return Transitions(
        observations=observations(trajectories.observations),
        actions=torch.tensor(policy.scale_action(trajectories.actions), dtype=torch.float32, device=policy.device),
        next_observations=observations(trajectories.next_observations),
        continues=torch.tensor(~trajectories.terminals, dtype=torch.float32, device=policy.device),
    )


def vector_sizes(algorithm: str, observation_space: spaces.Space, action_space: spaces.Space) -> tuple[int, int]:
    """
    Get the dimensions of observations and actions, and refuse other spaces than Boxes of vectors of floats.

    :param algorithm: Name of the algorithm in the error.
    :param observation_space: Space of the observations.
    :param action_space: Space of the actions.
    :return: Dimensions of an observation and of an action.
    :raises TypeError: If a space is not such a Box.
    """
    sizes = []
    for kind, space in (("observation", observation_space), ("action", action_space)):
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)):
            raise TypeError(
                f"{kind}_space: found {space}, but the critics of {algorithm} read vectors of numbers. Use BC or "
                "PREFINE, which read all observations that the policy reads."
            )
        sizes.append(space.shape[0])
    return sizes[0], sizes[1]
