"""Transitions as critics read them: vectors of normalised observations, and actions scaled to [-1, 1]."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.draw_rows import UPDATES_PER_DRAW
from sb3_prefine.training.transition_tables import normalized


@dataclass(frozen=True, eq=False)
class Transitions:
    """
    N transitions.

    :param observations: normalised, as the network sees them, (N, O)
    :param actions: scaled to [-1, 1], (N, A)
    :param next_observations: as the observations, (N, O)
    :param continues: (N,): 0 where the environment ended the episode (``terminals``), so that no value lies behind it;
        1 elsewhere, also where a time limit cut it (``timeouts``)
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    continues: Tensor

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def inputs(self) -> Tensor:
        """What a critic of states and actions reads, (N, O + A)."""
        return torch.cat((self.observations, self.actions), dim=1)

    def at(self, rows: Tensor) -> Self:
        """:param rows: (B,)"""
        return type(self)(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))


def transitions_of(name: str, trajectories: Trajectories, reference: Reference, policy: BasePolicy) -> Transitions:
    """
    All transitions of the data, on the policy's device.

    :param name: what to call the data in errors
    :raises ValueError: an observation is not finite after normalisation
    """

    def observations(raw: object) -> Tensor:
        rows = normalized(name, raw, reference, policy)
        assert isinstance(rows, Tensor)  # check_vectors
        return rows

    return Transitions(
        observations=observations(trajectories.observations),
        actions=torch.tensor(policy.scale_action(trajectories.actions), dtype=torch.float32, device=policy.device),
        next_observations=observations(trajectories.next_observations),
        continues=torch.tensor(~trajectories.terminals, dtype=torch.float32, device=policy.device),
    )


def draw_rows(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The rows of one batch after another (batch_size,), without end, drawn with replacement from ``n``."""
    while True:
        yield from torch.randint(n, (UPDATES_PER_DRAW, batch_size), generator=generator, device=generator.device)


def check_vectors(algorithm: str, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param algorithm: what to call it in errors
    :raises TypeError: the spaces are others than Boxes of vectors of floats
    """
    for kind, space in (("observation", observation_space), ("action", action_space)):
        is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
        if not is_vector:
            raise TypeError(
                f"{kind}_space: the critics of {algorithm} read vectors of numbers, found {space}. Take BC or PREFINE, "
                "which read whatever the policy does."
            )
