"""Trajectories: whole episodes in columns, in memory and in DSRL's HDF5 files."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sb3_prefine.data.columns import (
    COLUMNS,
    OBSERVATIONS,
    OPTIONAL_COLUMNS,
    Observations,
    as_column,
    check_costs,
    check_finite,
    check_last_row,
    check_lengths,
    check_masks,
    check_same_rows,
    episode_ends,
    episode_sums,
    flatten,
    read_only,
    unflatten,
)
from sb3_prefine.data.memory_map import concatenate, mapping_of, take


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """
    Whole episodes, one after the other, in columns of N transitions.

    An episode ends where ``terminals | timeouts`` is set, and the last row ends one. There is no empty set.
    ``len(t)`` counts episodes. ``t[i]``, ``t[2:5]``, ``t[[3, 1]]`` and ``t[mask]`` choose episodes and give
    ``Trajectories``; so does every step of ``for episode in t``; ``t1 + t2`` joins two sets.

    The arrays are read-only. An array that its giver could still write to is copied; one that is read-only
    down to its memory, or to a file (``numpy.load(…, mmap_mode="r")``), is shared.

    Data larger than the memory stay on disk: ``from_hdf5(path, mmap=True)``. Their arrays are mapped: the system reads
    what is touched. They are checked a few MiB at a time, and PREFINE trains on them without loading them. A pickle or
    ``copy.deepcopy`` of them holds the values. The file must not be written to meanwhile.

    :param observations: (N, ...); floats become float32, integers stay as they are (images, discrete). For a Dict
        observation space a dict of such arrays
    :param next_observations: (N, ...), of the observations' shape and dtype; at the end of an episode the
        observation that the episode ended in, not the first of the next one
    :param actions: (N, ...); floats become float32, integers stay as they are
    :param rewards: (N,), float32
    :param costs: (N,), float32, not negative; NaN in all of an episode says that its cost is unknown
    :param terminals: (N,), bool; the environment ended the episode
    :param timeouts: (N,), bool; a time limit, or the recorder, cut the episode
    :param action_masks: (N, n_options), bool: which discrete actions were allowed at each observation, in the layout
        of sb3-contrib's MaskablePPO (the options of all choices side by side); None if all were
    :raises ValueError: for columns of different lengths, empty, NaN or infinite ones, negative costs, costs that
        are NaN in a part of an episode, flags other than 0 and 1, dtypes that are not numbers, or a last row that
        does not end an episode

    (N, 1) columns of rewards, costs and flags are flattened, as DSRL's own reader does.
    """

    observations: Observations
    next_observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    action_masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        columns = {name: as_column(name, value) for name, value in self._columns().items()}
        for name, value in unflatten(columns).items():
            object.__setattr__(self, name, value)
        check_lengths(columns)
        _check_successors(columns)
        check_last_row(episode_ends(self.terminals, self.timeouts), self.n_transitions)
        for name, column in columns.items():
            if name != "costs":
                check_finite(name, column)
        if self.action_masks is not None:
            check_masks(self.action_masks)
        check_costs(self.costs, self.episode_starts, self.episode_lengths)

    @classmethod
    def concatenate(cls, sets: Iterable["Trajectories"]) -> "Trajectories":
        """
        The episodes of several sets in one, in the order given. The rows are copied once, so this is also the way
        to build a set from many single episodes. Of a single set nothing is copied.

        :param sets: at least one, all of the same observation and action shapes and dtypes
        :raises TypeError: if one of them is something else than ``Trajectories``
        :raises ValueError: if there are none, or shapes or dtypes differ
        """
        sets = list(sets)
        if not sets:
            raise ValueError("sets: there is nothing to concatenate. Give at least one Trajectories.")
        for position, other in enumerate(sets):
            if not isinstance(other, Trajectories):
                raise TypeError(f"sets: number {position} is a {type(other).__name__}, not Trajectories.")
            check_same_layout("set 0", sets[0], f"set {position}", other)
        if len(sets) == 1:
            return sets[0]
        columns = [s._columns() for s in sets]
        return _of_checked({name: concatenate([c[name] for c in columns]) for name in columns[0]})

    @classmethod
    def from_hdf5(cls, path: str | os.PathLike[str], mmap: bool = False) -> "Trajectories":
        """
        Read a file in DSRL's layout: one dataset for each column, at the root, under the column's name.

        Float flags and (N, 1) columns are accepted; other datasets and attributes are ignored. An episode at the
        end of the file that does not end is dropped with a warning.

        With ``mmap=True`` the data stay on disk, whatever their size. Columns that lie in the file in one piece, in the
        dtype that is kept here, are mapped where they lie. Compressed ones, as in DSRL's files, and other dtypes are
        written once into a copy beside the file, ``data.hdf5.mmap`` for ``data.hdf5``, which is used until the file
        changes and may be deleted. Choosing episodes that do not follow each other copies them, as in memory; a copy of
        more than 256 MiB a column lies on disk too, in the same folder, for as long as it is used.

        :param path: the file
        :param mmap: leave the data on disk
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is not HDF5, is cut off or damaged, lacks a column, holds no whole episode,
            or its columns do not make ``Trajectories``; the message begins with the path
        :raises OSError: if the copy beside the file cannot be written
        """
        # It brings h5py, which `import sb3_prefine` does not wait for.
        from sb3_prefine.data.hdf5 import map_columns, read_columns

        path = Path(path)
        try:
            columns = map_columns(path) if mmap else read_columns(path)
            check_lengths(columns)
            ends = episode_ends(columns["terminals"], columns["timeouts"])
            if not len(ends):
                raise ValueError("no row of 'terminals' or 'timeouts' is set, so there is no whole episode.")
            n_whole = int(ends[-1]) + 1
            trajectories = cls(**unflatten({name: column[:n_whole] for name, column in columns.items()}))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        n_dropped = len(columns["rewards"]) - n_whole
        if n_dropped:
            warnings.warn(
                f"{path}: dropped the last {n_dropped} transitions, which belong to an episode that does not end.",
                stacklevel=2,
            )
        return trajectories

    def to_hdf5(
        self, path: str | os.PathLike[str], attributes: Mapping[str, str | int | float | np.number] | None = None
    ) -> None:
        """
        Write a file in DSRL's layout: flat, gzip-compressed datasets; floats are float32, flags are bool.

        The file appears whole or not at all: a failure leaves what was there before. The same data and attributes
        give the same bytes. Missing folders are made.

        :param path: the file, replaced if it is there
        :param attributes: what to note about the data at the file's root (versions, seeds); not read back
        :raises TypeError: if an attribute is not a text or a number
        """
        from sb3_prefine.data.hdf5 import write_columns

        path = Path(path)
        attributes = attributes or {}
        for key, value in attributes.items():
            if not isinstance(value, str | int | float | np.number):
                raise TypeError(f"attributes: {key!r} is a {type(value).__name__}. Give a text or a number.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_columns(path, self._columns(), attributes)

    def __len__(self) -> int:
        return len(self.episode_starts)

    def __getitem__(
        self, index: int | np.integer | slice | Sequence[int] | Sequence[bool] | np.ndarray
    ) -> "Trajectories":
        """
        Choose episodes. Consecutive ones share memory with this set, others are copied.

        :param index: an episode's number, a slice, numbers (in any order, also repeated), or one bool an episode
        :raises IndexError: if an episode does not exist, or a mask has another length than the set
        :raises TypeError: if the numbers are not integers
        :raises ValueError: if no episode is chosen
        """
        ids = _episode_ids(index, len(self))
        starts, lengths = self.episode_starts[ids], self.episode_lengths[ids]
        if (np.diff(ids) == 1).all():
            first, end = starts[0], starts[-1] + lengths[-1]
            return _of_checked({name: column[first:end] for name, column in self._columns().items()})
        return _of_checked({name: take(column, starts, lengths) for name, column in self._columns().items()})

    def __iter__(self) -> Iterator["Trajectories"]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: "Trajectories") -> "Trajectories":
        return Trajectories.concatenate([self, other]) if isinstance(other, Trajectories) else NotImplemented

    def __reduce__(self) -> tuple[type["Trajectories"], tuple[Any, ...]]:
        # Unpickled arrays are writable: go through the constructor, which makes them read-only again.
        return Trajectories, tuple(getattr(self, name) for name in COLUMNS + OPTIONAL_COLUMNS)

    def __repr__(self) -> str:
        known = self.episode_costs[~np.isnan(self.episode_costs)]
        cost = f"{known.mean():.2f}" if len(known) else "unknown"
        if 0 < len(known) < len(self):
            cost += f" (known in {len(known)})"
        return (
            f"Trajectories(episodes={len(self)}, transitions={self.n_transitions}, "
            f"mean_return={self.episode_returns.mean():.2f}, mean_cost={cost})"
        )

    @property
    def n_transitions(self) -> int:
        """The number of rows N, over all episodes."""
        return len(self.rewards)

    @property
    def is_mapped(self) -> bool:
        """Whether columns lie on disk."""
        return any(mapping_of(column) is not None for column in self._columns().values())

    @cached_property
    def episode_starts(self) -> np.ndarray:
        """(n_episodes,), int64: each episode's first row."""
        ends = episode_ends(self.terminals, self.timeouts)
        return read_only(np.concatenate([[0], ends[:-1] + 1]))

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """(n_episodes,), int64: each episode's number of rows."""
        return read_only(np.diff(self.episode_starts, append=self.n_transitions))

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """(n_episodes,), float64: each episode's sum of rewards, not discounted."""
        return read_only(episode_sums(self.rewards, self.episode_starts))

    @cached_property
    def episode_costs(self) -> np.ndarray:
        """(n_episodes,), float64: each episode's sum of costs, not discounted; NaN where it is unknown."""
        return read_only(episode_sums(self.costs, self.episode_starts))

    def _columns(self) -> dict[str, np.ndarray]:
        """By their path, as in ``observations/camera`` for a dict of observations."""
        return flatten({name: getattr(self, name) for name in COLUMNS + OPTIONAL_COLUMNS})


def _of_checked(columns: Mapping[str, np.ndarray]) -> Trajectories:
    """Whole episodes of sets that were checked, not checked again: that would read all that lies on disk once more."""
    trajectories = object.__new__(Trajectories)
    for name, value in unflatten(columns).items():
        object.__setattr__(trajectories, name, value)
    return trajectories


def check_same_layout(name: str, first: Trajectories, other_name: str, second: Trajectories) -> None:
    """
    Raise ``ValueError`` if observations, actions or action masks differ in what they are made of; the names are the
    message's.
    """
    a, b = first._columns(), second._columns()
    if a.keys() != b.keys():
        only_first, only_second = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        raise ValueError(
            f"{name} and {other_name} do not have the same columns: only {name} has {only_first or 'none'}, only "
            f"{other_name} has {only_second or 'none'}. Record them in one environment, behind the same wrappers."
        )
    for column in a:
        if column.partition("/")[0] in ("observations", "actions", "action_masks"):
            check_same_rows(f"{column} of {name}", a[column], f"{column} of {other_name}", b[column])


def _check_successors(columns: Mapping[str, np.ndarray]) -> None:
    """Observations and next observations are of the same parts, shapes and dtypes."""
    parts, next_parts = ({name: c for name, c in columns.items() if name.partition("/")[0] == o} for o in OBSERVATIONS)
    if {f"next_{name}" for name in parts} != set(next_parts):
        raise ValueError(
            f"next_observations: they are {', '.join(next_parts)}, where the observations are {', '.join(parts)}. Give "
            "both the same parts."
        )
    for name, column in parts.items():
        check_same_rows(name, column, f"next_{name}", next_parts[f"next_{name}"])


def _episode_ids(index: Any, n_episodes: int) -> np.ndarray:
    """The episodes that ``index`` chooses, as a 1-D array of numbers from 0 to ``n_episodes - 1``."""
    if isinstance(index, slice):
        ids = np.arange(n_episodes)[index]
    else:
        ids = np.asarray(index)
        if ids.dtype == bool:
            if ids.shape != (n_episodes,):
                raise IndexError(f"A mask of shape {ids.shape} does not fit {n_episodes} episodes: give one bool each.")
            ids = np.flatnonzero(ids)
        ids = np.atleast_1d(ids)
    if ids.ndim != 1:
        raise IndexError(f"Episodes are chosen by a 1-D array of numbers; this one has shape {ids.shape}.")
    if not len(ids):
        raise ValueError(f"This index chooses none of the {n_episodes} episodes, and there are no empty Trajectories.")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"Episodes are chosen by integers, bools or a slice, not by {ids.dtype}.")
    outside = (ids < -n_episodes) | (ids >= n_episodes)
    if outside.any():
        raise IndexError(f"There is no episode {ids[outside][0]}: this set has {n_episodes} (0 to {n_episodes - 1}).")
    return np.where(ids < 0, ids + n_episodes, ids).astype(np.int64)
