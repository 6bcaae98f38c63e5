"""Trajectories: whole episodes in columns, in memory and in DSRL's HDF5 files."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_prefine.files import write_atomically

COLUMNS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
FLAGS = ("terminals", "timeouts")
NUMBERS = ("rewards", "costs")


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """
    Whole episodes, one after the other, in columns of N transitions.

    An episode ends where ``terminals | timeouts`` is set, and the last row ends one. There is no empty set.
    ``len(t)`` counts episodes. ``t[i]``, ``t[2:5]``, ``t[[3, 1]]`` and ``t[mask]`` choose episodes and give
    ``Trajectories``; so does every step of ``for episode in t``; ``t1 + t2`` joins two sets.

    The arrays are read-only. An array that its giver could still write to is copied; one that is read-only
    down to its memory is shared.

    :param observations: (N, ...); floats become float32, integers stay as they are (images, discrete)
    :param next_observations: (N, ...), of the observations' shape and dtype; at the end of an episode the
        observation that the episode ended in, not the first of the next one
    :param actions: (N, ...); floats become float32, integers stay as they are
    :param rewards: (N,), float32
    :param costs: (N,), float32, not negative; NaN in all of an episode says that its cost is unknown
    :param terminals: (N,), bool; the environment ended the episode
    :param timeouts: (N,), bool; a time limit, or the recorder, cut the episode
    :raises ValueError: for columns of different lengths, empty, NaN or infinite ones, negative costs, costs that
        are NaN in a part of an episode, flags other than 0 and 1, dtypes that are not numbers, or a last row that
        does not end an episode

    (N, 1) columns of rewards, costs and flags are flattened, as DSRL's own reader does.
    """

    observations: np.ndarray
    next_observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, _as_column(name, getattr(self, name)))
        _check_lengths(self._columns())
        _check_same_rows("observations", self.observations, "next_observations", self.next_observations)
        _check_last_row(self.terminals | self.timeouts)
        for name in ("observations", "next_observations", "actions", "rewards"):
            _check_finite(name, getattr(self, name))
        _check_costs(self.costs, self.episode_starts, self.episode_lengths)

    @classmethod
    def concatenate(cls, sets: Iterable["Trajectories"]) -> "Trajectories":
        """
        The episodes of several sets in one, in the order given. The rows are copied once, so this is also the way
        to build a set from many single episodes.

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
        return cls(**{name: _read_only(np.concatenate([getattr(s, name) for s in sets])) for name in COLUMNS})

    @classmethod
    def from_hdf5(cls, path: str | os.PathLike[str]) -> "Trajectories":
        """
        Read a file in DSRL's layout: one dataset for each column, at the root, under the column's name.

        Float flags and (N, 1) columns are accepted; other datasets and attributes are ignored. An episode at the
        end of the file that does not end is dropped with a warning.

        :param path: the file
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is not HDF5, is cut off or damaged, lacks a column, holds no whole episode,
            or its columns do not make ``Trajectories``; the message begins with the path
        """
        path = Path(path)
        raw = _read_datasets(path)
        try:
            columns = {name: _as_column(name, raw.pop(name)) for name in COLUMNS}
            _check_lengths(columns)
            ends = np.flatnonzero(columns["terminals"] | columns["timeouts"])
            if not len(ends):
                raise ValueError("no row of 'terminals' or 'timeouts' is set, so there is no whole episode.")
            n_whole = int(ends[-1]) + 1
            trajectories = cls(**{name: column[:n_whole] for name, column in columns.items()})
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
        path = Path(path)
        attributes = attributes or {}
        for key, value in attributes.items():
            if not isinstance(value, str | int | float | np.number):
                raise TypeError(f"attributes: {key!r} is a {type(value).__name__}. Give a text or a number.")
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for name, column in self._columns().items():
                # Without times the bytes depend on the data alone.
                file.create_dataset(name, data=column, compression="gzip", track_times=False)
            file.attrs.update(attributes)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())

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
        rows: slice | np.ndarray
        if (np.diff(ids) == 1).all():
            rows = slice(starts[0], starts[-1] + lengths[-1])
        else:
            # Row k of the choice lies in its episode as far from the start as k lies from the episode's place.
            places = np.cumsum(lengths) - lengths
            rows = np.repeat(starts - places, lengths) + np.arange(lengths.sum())
        return Trajectories(**{name: _read_only(column[rows]) for name, column in self._columns().items()})

    def __iter__(self) -> Iterator["Trajectories"]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: "Trajectories") -> "Trajectories":
        return Trajectories.concatenate([self, other]) if isinstance(other, Trajectories) else NotImplemented

    def __reduce__(self) -> tuple[type["Trajectories"], tuple[np.ndarray, ...]]:
        # Unpickled arrays are writable: go through the constructor, which makes them read-only again.
        return Trajectories, tuple(self._columns().values())

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

    @cached_property
    def episode_starts(self) -> np.ndarray:
        """(n_episodes,), int64: each episode's first row."""
        ends = np.flatnonzero(self.terminals | self.timeouts)
        return _read_only(np.concatenate([[0], ends[:-1] + 1]))

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """(n_episodes,), int64: each episode's number of rows."""
        return _read_only(np.diff(self.episode_starts, append=self.n_transitions))

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """(n_episodes,), float64: each episode's sum of rewards, not discounted."""
        return _read_only(np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64))

    @cached_property
    def episode_costs(self) -> np.ndarray:
        """(n_episodes,), float64: each episode's sum of costs, not discounted; NaN where it is unknown."""
        return _read_only(np.add.reduceat(self.costs, self.episode_starts, dtype=np.float64))

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in COLUMNS}


def check_same_layout(name: str, first: Trajectories, other_name: str, second: Trajectories) -> None:
    """Raise ``ValueError`` if the shapes or dtypes of observations or actions differ; the names are the message's."""
    for column in ("observations", "actions"):
        a, b = getattr(first, column), getattr(second, column)
        _check_same_rows(f"{column} of {name}", a, f"{column} of {other_name}", b)


def _check_same_rows(name: str, first: np.ndarray, other_name: str, second: np.ndarray) -> None:
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        raise ValueError(
            f"{name} have shape {first.shape[1:]} and dtype {first.dtype}, {other_name} have {second.shape[1:]} and "
            f"{second.dtype}. Give both the same: record them in one environment, behind the same wrappers."
        )


def _as_column(name: str, value: Any) -> np.ndarray:
    """``value`` as the read-only array that the column ``name`` keeps."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not one array ({error}). Give one with a row for each transition.") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: the dtype is {array.dtype}. Give an array of numbers.")
    if name in NUMBERS + FLAGS:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise ValueError(f"{name}: the shape is {array.shape}. Give one number for each transition, (N,).")
    if array.ndim == 0:
        raise ValueError(f"{name}: a single number. Give an array with a row for each transition.")

    if name in FLAGS:
        _refuse_rows(name, array, (array != 0) & (array != 1), "neither 0 nor 1", "Give a flag for each transition.")
        dtype: np.dtype[Any] = np.dtype(bool)
    elif name in NUMBERS or array.dtype.kind == "f":
        dtype = np.dtype(np.float32)
    else:
        dtype = array.dtype.newbyteorder("=")
    if array.dtype != dtype:
        # A number too large for float32 becomes infinite here and is refused as such.
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    elif not _is_read_only_to_its_memory(array):
        array = array.copy()
    # A view of read-only memory cannot be made writable again.
    return _read_only(array).view()


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _is_read_only_to_its_memory(array: np.ndarray) -> bool:
    """Whether nobody holds a writable array over the same memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None


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


def _check_lengths(columns: Mapping[str, np.ndarray]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"The columns have different lengths: {found}. Give each a row for each transition.")
    if not lengths["rewards"]:
        raise ValueError("observations: there are no transitions. Give at least one whole episode.")


def _check_last_row(ends: np.ndarray) -> None:
    if not ends[-1]:
        n_open = int(np.argmax(ends[::-1])) if ends.any() else len(ends)
        raise ValueError(
            f"timeouts: the last {n_open} of {len(ends)} rows belong to an episode that does not end (neither "
            "'terminals' nor 'timeouts' is set in the last row). Set timeouts[-1] if the recording stopped there, or "
            "remove these rows."
        )


def _check_finite(name: str, column: np.ndarray) -> None:
    if column.dtype.kind != "f":
        return
    finite = np.isfinite(column)
    if not finite.all():
        wrong = ~finite.reshape(len(column), -1).all(axis=1)
        _refuse_rows(name, column, wrong, "NaN or infinite as float32", "Remove those episodes or repair the data.")


def _check_costs(costs: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    _refuse_rows("costs", costs, np.isinf(costs), "infinite as float32", "Repair them, or make unknown ones NaN.")
    _refuse_rows("costs", costs, costs < 0, "negative", "A cost counts harm: give 0 or more.")
    n_unknown = np.add.reduceat(np.isnan(costs), starts, dtype=np.int64)
    partly = np.flatnonzero((n_unknown > 0) & (n_unknown < lengths))
    if len(partly):
        first = partly[0]
        raise ValueError(
            f"costs: {len(partly)} of {len(starts)} episodes are NaN in some rows only (first: episode {first}, "
            f"{n_unknown[first]} of its {lengths[first]} rows). NaN says that an episode's cost is unknown: repair "
            "these costs, or make them NaN in the whole episode."
        )


def _refuse_rows(name: str, column: np.ndarray, wrong: np.ndarray, problem: str, advice: str) -> None:
    """Raise ``ValueError`` if any row is ``wrong``, a bool for each."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        first = f"row {rows[0]}" + (f", {column[rows[0]]}" if column.ndim == 1 else "")
        raise ValueError(f"{name}: {len(rows)} of {len(column)} rows are {problem} (first: {first}). {advice}")


def _read_datasets(path: Path) -> dict[str, np.ndarray]:
    """The seven datasets as they lie in the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if not h5py.is_hdf5(path):
        with path.open("rb") as start:
            head = start.read(24)
        raise ValueError(
            f"{path}: not an HDF5 file (it begins with {head!r}). If it was downloaded, download it again: "
            "an error page or a pointer may have been saved in its place."
        )
    try:
        with h5py.File(path, "r") as file:
            found = [str(name) for name in file]  # a damaged name comes as bytes
            datasets = {name: file[name] for name in COLUMNS if isinstance(file.get(name), h5py.Dataset)}
            columns = {name: _read_only(np.asarray(dataset[()])) for name, dataset in datasets.items()}
    except (OSError, RuntimeError, ValueError) as error:  # h5py's words for bytes that make no sense
        if isinstance(error, OSError) and error.errno is not None:  # the operating system's refusal: not about bytes
            raise
        raise ValueError(f"{path}: cut off or damaged ({error}). Download or write it again.") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: lacks {', '.join(missing)}; at its root are {', '.join(found) or 'no datasets'}. "
            f"Trajectories need the datasets {', '.join(COLUMNS)} there."
        )
    return columns
