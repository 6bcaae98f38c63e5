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
    OBSERVATION_COLUMNS,
    OPTIONAL_COLUMNS,
    Observations,
    check_action_masks,
    check_costs,
    check_finite,
    check_last_row,
    check_lengths,
    check_same_format,
    episode_ends,
    episode_sums,
    flatten,
    make_column,
    read_only,
    unflatten,
)
from sb3_prefine.data.hdf5 import map_columns, read_columns, write_columns
from sb3_prefine.data.memory_map import concatenate, copy_spans, mapping_of


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """
    Whole episodes, one after the other, in columns of N transitions.

    An episode ends where ``terminals | timeouts`` is set, and the last row ends one. An empty ``Trajectories`` is not
    allowed. ``len(t)`` counts episodes. ``t[i]``, ``t[2:5]``, ``t[[3, 1]]`` and ``t[mask]`` choose episodes and return
    ``Trajectories``, as does each step of ``for episode in t``; ``t1 + t2`` concatenates two sets.

    The arrays are read-only. An array that other code could still write to is copied. An array that is read-only down
    to its memory, or to a file (``numpy.load(…, mmap_mode="r")``), is shared.

    Data larger than the memory stay on disk: ``from_hdf5(path, mmap=True)``. Their arrays are mapped, so the system
    reads only what is used. The checks read a few MiB at a time, and PREFINE trains on mapped data without loading
    them. A pickle or ``copy.deepcopy`` of them contains the values. Do not write to the file while it is mapped.

    :param observations: (N, ...). Floats become float32, integers (images, discrete observations) keep their dtype.
        For a Dict observation space, a dict of such arrays.
    :param next_observations: (N, ...), in the shape and dtype of the observations. At the end of an episode, the
        observation in which the episode ended, not the first one of the next episode.
    :param actions: (N, ...). Floats become float32, integers keep their dtype.
    :param rewards: (N,), float32.
    :param costs: (N,), float32, not negative. NaN in a whole episode means that its cost is unknown.
    :param terminals: (N,), bool. The environment ended the episode.
    :param timeouts: (N,), bool. A time limit, or the recorder, cut the episode.
    :param action_masks: (N, n_options), bool: which discrete actions were allowed at each observation, in the layout
        of sb3-contrib's MaskablePPO (the options of all choices side by side). None if all actions were allowed.
    :raises ValueError: If columns have different lengths, are empty, or contain NaN or infinite values; if costs are
        negative, or NaN in a part of an episode; if flags are neither 0 nor 1; if a dtype is not a number; or if the
        last row does not end an episode.

    Columns of shape (N, 1) for rewards, costs and flags are flattened, as by DSRL's own reader.
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
        columns = {name: make_column(name, value) for name, value in self._columns().items()}
        for name, value in unflatten(columns).items():
            object.__setattr__(self, name, value)
        check_lengths(columns)
        _check_next_observations(columns)
        check_last_row(episode_ends(self.terminals, self.timeouts), self.n_transitions)
        for name, column in columns.items():
            if name != "costs":
                check_finite(name, column)
        if self.action_masks is not None:
            check_action_masks(self.action_masks)
        check_costs(self.costs, self.episode_starts, self.episode_lengths)

    @classmethod
    def concatenate(cls, sets: Iterable["Trajectories"]) -> "Trajectories":
        """
        Concatenate the episodes of several sets.

        The rows are copied once, so this is also the way to build a set from many single episodes. A single set is
        not copied.

        :param sets: At least one set. All have the same shapes and dtypes of observations and actions.
        :return: The episodes of all sets, in the order given.
        :raises TypeError: If an element is not ``Trajectories``.
        :raises ValueError: If no set is given, or shapes or dtypes differ.
        """
        sets = list(sets)
        if not sets:
            raise ValueError("sets: there is nothing to concatenate. Give at least one Trajectories.")
        for position, other in enumerate(sets):
            if not isinstance(other, Trajectories):
                raise TypeError(f"sets[{position}]: expected Trajectories, found {type(other).__name__}.")
            check_same_layout(f"sets[{position}]", other, "sets[0]", sets[0])
        if len(sets) == 1:
            return sets[0]
        columns = [s._columns() for s in sets]
        return _from_checked_columns({name: concatenate([c[name] for c in columns]) for name in columns[0]})

    @classmethod
    def from_hdf5(cls, path: str | os.PathLike[str], mmap: bool = False) -> "Trajectories":
        """
        Read a file in DSRL's layout: one dataset for each column, at the root, under the name of the column.

        Float flags and columns of shape (N, 1) are accepted; other datasets and attributes are ignored. If the last
        episode of the file does not end, it is dropped with a warning.

        With ``mmap=True`` the data stay on disk, whatever their size. Columns that are contiguous in the file, in the
        stored dtype, are mapped in place. Compressed columns, as in DSRL's files, and other dtypes are written once to
        a copy next to the file (``data.hdf5.mmap`` for ``data.hdf5``), which is used until the file changes and may be
        deleted. Choosing episodes that are not consecutive copies them, as in memory. Such a copy is on disk too if it
        has more than 256 MiB in a column: in the same folder, for as long as it is used.

        :param path: The path of the file.
        :param mmap: Whether to leave the data on disk.
        :return: The episodes of the file, in its order.
        :raises FileNotFoundError: If the file does not exist.
        :raises ValueError: If the file is not HDF5, is cut off or damaged, lacks a column, contains no whole episode,
            or its columns are not valid ``Trajectories``. The message begins with the path.
        :raises OSError: If the copy next to the file cannot be written.
        """
        path = Path(path)
        try:
            columns = map_columns(path) if mmap else read_columns(path)
            check_lengths(columns)
            ends = episode_ends(columns["terminals"], columns["timeouts"])
            if not len(ends):
                raise ValueError("timeouts: no episode ends. Set 'terminals' or 'timeouts' where one ends.")
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

        The file is written atomically: after a failure, an existing file stays as it was. The same data and attributes
        give the same bytes. Missing folders are created.

        :param path: The path of the file. An existing file is replaced.
        :param attributes: Notes about the data (versions, seeds) for the root of the file. They are not read back.
        :raises TypeError: If an attribute is not a string or a number.
        """
        path = Path(path)
        attributes = attributes or {}
        for key, value in attributes.items():
            if not isinstance(value, str | int | float | np.number):
                raise TypeError(f"attributes: {key!r} is a {type(value).__name__}. Give a string or a number.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_columns(path, self._columns(), attributes)

    def __len__(self) -> int:
        return len(self.episode_starts)

    def __getitem__(
        self, index: int | np.integer | slice | Sequence[int] | Sequence[bool] | np.ndarray
    ) -> "Trajectories":
        """
        Choose episodes. Consecutive episodes share memory with this set, others are copied.

        :param index: The index of an episode, a slice, several indices (in any order, also repeated), or one bool for
            each episode.
        :return: The chosen episodes.
        :raises IndexError: If an episode does not exist, or a mask does not have one bool for each episode.
        :raises TypeError: If the indices are not integers.
        :raises ValueError: If no episode is chosen.
        """
        ids = _episode_ids(index, len(self))
        starts, lengths = self.episode_starts[ids], self.episode_lengths[ids]
        if (np.diff(ids) == 1).all():
            first, end = starts[0], starts[-1] + lengths[-1]
            return _from_checked_columns({name: column[first:end] for name, column in self._columns().items()})
        return _from_checked_columns(
            {name: copy_spans(column, starts, lengths) for name, column in self._columns().items()}
        )

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
        """Number of rows N, over all episodes."""
        return len(self.rewards)

    @property
    def is_mapped(self) -> bool:
        """Whether any column is on disk."""
        return any(mapping_of(column) is not None for column in self._columns().values())

    @cached_property
    def episode_starts(self) -> np.ndarray:
        """(n_episodes,), int64: the first row of each episode."""
        ends = episode_ends(self.terminals, self.timeouts)
        return read_only(np.concatenate([[0], ends[:-1] + 1]))

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """(n_episodes,), int64: the number of rows of each episode."""
        return read_only(np.diff(self.episode_starts, append=self.n_transitions))

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """(n_episodes,), float64: the undiscounted sum of rewards of each episode."""
        return read_only(episode_sums(self.rewards, self.episode_starts))

    @cached_property
    def episode_costs(self) -> np.ndarray:
        """(n_episodes,), float64: the undiscounted sum of costs of each episode; NaN if it is unknown."""
        return read_only(episode_sums(self.costs, self.episode_starts))

    def _columns(self) -> dict[str, np.ndarray]:
        """Return the columns by their path, as in ``observations/camera`` for a dict of observations."""
        return flatten({name: getattr(self, name) for name in COLUMNS + OPTIONAL_COLUMNS})


def check_same_layout(name: str, episodes: Trajectories, other_name: str, other: Trajectories) -> None:
    """
    Check that two sets can be used together.

    :param name: The name of the first set in messages.
    :param episodes: The set to check.
    :param other_name: The name of the other set in messages.
    :param other: The set to compare with.
    :raises ValueError: If the sets have different columns, or observations, actions or action masks differ in shape or
        dtype.
    """
    a, b = episodes._columns(), other._columns()
    if a.keys() != b.keys():
        only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        raise ValueError(
            f"{name}: it does not have the columns of {other_name}: only {name} has {only_a or 'none'}, only "
            f"{other_name} has {only_b or 'none'}. Record them in one environment, behind the same wrappers."
        )
    for column in a:
        if column.partition("/")[0] in ("observations", "actions", "action_masks"):
            check_same_format(f"{name}: {column}", a[column], other_name, b[column])


def _from_checked_columns(columns: Mapping[str, np.ndarray]) -> Trajectories:
    """Make a set of whole, checked episodes. Checking them again would read all data on disk again."""
    trajectories = object.__new__(Trajectories)
    for name, value in unflatten(columns).items():
        object.__setattr__(trajectories, name, value)
    return trajectories


def _check_next_observations(columns: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless observations and next observations have the same parts, shapes and dtypes."""
    parts, next_parts = (
        {name: column for name, column in columns.items() if name.partition("/")[0] == observations}
        for observations in OBSERVATION_COLUMNS
    )
    if {f"next_{name}" for name in parts} != set(next_parts):
        raise ValueError(
            f"next_observations: they are {', '.join(next_parts)}, but the observations are {', '.join(parts)}. Give "
            "both the same parts."
        )
    for name, column in parts.items():
        check_same_format(f"next_{name}", next_parts[f"next_{name}"], name, column)


def _episode_ids(index: Any, n_episodes: int) -> np.ndarray:
    """Return the indices of the episodes that ``index`` chooses, (n,), each from 0 to ``n_episodes - 1``."""
    if isinstance(index, slice):
        ids = np.arange(n_episodes)[index]
    else:
        ids = np.asarray(index)
        if ids.dtype == bool:
            if ids.shape != (n_episodes,):
                raise IndexError(
                    f"index: a mask of shape {ids.shape} for {n_episodes} episodes. Give one bool for each."
                )
            ids = np.flatnonzero(ids)
        ids = np.atleast_1d(ids)
    if ids.ndim != 1:
        raise IndexError(f"index: an array of shape {ids.shape}. Give a 1-D array of indices.")
    if not len(ids):
        raise ValueError(f"index: it chooses none of the {n_episodes} episodes. Choose at least one.")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"index: the dtype is {ids.dtype}. Choose episodes by integers, bools or a slice.")
    outside = (ids < -n_episodes) | (ids >= n_episodes)
    if outside.any():
        raise IndexError(f"index: there is no episode {ids[outside][0]}. Choose from 0 to {n_episodes - 1}.")
    return np.where(ids < 0, ids + n_episodes, ids).astype(np.int64)
