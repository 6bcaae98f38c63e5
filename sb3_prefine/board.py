"""The memory that the processes of a rollout share: one batch of observations, actions and action masks."""

from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Any, Self

import numpy as np

from sb3_prefine.inputs import map_arrays
from sb3_prefine.runner import Observation, Runners


@dataclass(frozen=True, eq=False)
class Board:
    """
    A batch, one row for each environment.

    :param observations: (n, ...), or a dict of such arrays.
    :param actions: (n, ...)
    :param action_masks: (n, n_options), bool; empty if the policy takes none.
    """

    observations: Observation
    actions: np.ndarray
    action_masks: np.ndarray

    def show(self, runners: Runners, rows: slice) -> None:
        """
        Put what a process's environments return now into its rows.

        :raises ValueError: If it is not like what the first of all returned first.
        """
        observations = runners.observations()
        if isinstance(observations, dict):
            for key, part in observations.items():
                _write(self.observations[key], rows, part)
        else:
            _write(self.observations, rows, observations)
        if runners.masked:
            _write(self.action_masks, rows, runners.action_masks())


@dataclass(frozen=True, eq=False)
class Shared:
    """
    A board that can be sent to another process.

    :param observations: A part, or a dict of them.
    :param actions: A part.
    :param action_masks: A part.
    """

    observations: Any
    actions: "_Part"
    action_masks: "_Part"

    @classmethod
    def like(cls, runners: Runners, n: int) -> Self:
        """
        Enough memory for a number of environments like those that have begun an episode.

        :raises ValueError: If their observations are not of numbers.
        """
        space: Any = runners.action_space
        return cls(
            map_arrays(lambda batch: _Part.like(batch, n), runners.observations()),
            _Part.like(np.zeros((1, *space.shape), space.dtype), n),
            _Part.like(runners.action_masks() if runners.masked else np.zeros((1, 0), bool), n),
        )

    def open(self) -> Board:
        """The arrays in the memory."""
        return Board(map_arrays(_Part.open, self.observations), self.actions.open(), self.action_masks.open())


@dataclass(frozen=True, eq=False)
class _Part:
    shape: tuple[int, ...]
    dtype: np.dtype
    memory: Any

    @classmethod
    def like(cls, batch: np.ndarray, n: int) -> Self:
        if batch.dtype.hasobject:
            raise ValueError(
                f"n_workers: observations of dtype {batch.dtype} cannot be in memory that processes share. Leave it at "
                "1."
            )
        shape = (n, *batch.shape[1:])
        # Of no file that would have a name, and would have to be removed whatever happens.
        memory = RawArray("B", max(1, int(np.prod(shape)) * batch.dtype.itemsize))
        return cls(shape, batch.dtype, memory)

    def open(self) -> np.ndarray:
        return np.ndarray(self.shape, self.dtype, self.memory)


def _write(shared: Any, rows: slice, batch: np.ndarray) -> None:
    if batch.dtype != shared.dtype or batch.shape[1:] != shared.shape[1:]:
        raise ValueError(
            f"env: it returned {shared.dtype} of shape {shared.shape[1:]} at first, and then {batch.dtype} of shape "
            f"{batch.shape[1:]}. Processes share memory for one kind: let reset() and step() return what the "
            "observation space says, or leave n_workers at 1."
        )
    shared[rows] = batch
