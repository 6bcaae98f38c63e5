"""
The columns of a set of transitions: what each may contain, and how it is stored.

A column is an array with one row for each transition. Dict observations are several columns with paths as names, such
as ``observations/camera``. Inside this package a set of columns is therefore always flat.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sb3_prefine.data.memory_map import find_rows, mapping_of, release, row_slices, rows_per_slice

# Every set of transitions has these.
COLUMNS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
OPTIONAL_COLUMNS = ("action_masks",)
# These may be a dict of columns.
OBSERVATION_COLUMNS = ("observations", "next_observations")
SCALAR_COLUMNS = ("rewards", "costs")
FLAG_COLUMNS = ("terminals", "timeouts")

Observations = np.ndarray | Mapping[str, np.ndarray]


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Name the columns inside dicts by their path.

    :param values: The value of each column; observations may be dicts.
    :return: The columns, without the optional ones that are None.
    :raises ValueError: If another column is a dict, or a key of a dict cannot be part of a path.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            if name not in OBSERVATION_COLUMNS:
                raise ValueError(f"{name}: a dict. Only observations may be one; give one array.")
            if not value:
                raise ValueError(f"{name}: an empty dict. Give an array for each part of the observation.")
            for key, part in value.items():
                if not isinstance(key, str) or not key or "/" in key or isinstance(part, Mapping):
                    raise ValueError(
                        f"{name}: {key!r} cannot be the name of a part of an observation. Give a flat dict of arrays "
                        "whose keys are strings without '/'."
                    )
                flat[f"{name}/{key}"] = part
        elif value is not None or name not in OPTIONAL_COLUMNS:
            flat[name] = value
    return flat


def unflatten(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Undo :func:`flatten`."""
    values: dict[str, Any] = {}
    for path, column in columns.items():
        name, _, key = path.partition("/")
        if key:
            values.setdefault(name, {})[key] = column
        else:
            values[name] = column
    return values


def make_column(name: str, value: Any) -> np.ndarray:
    """
    Make the read-only array that is stored for a column.

    :param name: The name of the column.
    :param value: Anything that NumPy can make an array of.
    :return: The column. It shares memory with ``value`` if no other code can write to that memory.
    :raises ValueError: If the value is not an array of numbers with one row for each transition, or a flag is neither
        0 nor 1.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not one array ({error}). Give one with a row for each transition.") from error
    dtype, shape = storage_format(name, array.dtype, array.shape)
    array = array.reshape(shape)
    check_flags(name, array)
    if array.dtype != dtype:
        array = cast(array, dtype)
    elif not _is_immutable(array):
        array = array.copy()
    # A view of read-only memory cannot be made writable again.
    return read_only(array).view()


def storage_format(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """
    Choose the dtype and shape in which a column is stored.

    :param name: The name of the column.
    :param dtype: The dtype that was given.
    :param shape: The shape that was given.
    :raises ValueError: If these are not numbers, or not one row for each transition.
    """
    if dtype.kind not in "biuf":
        raise ValueError(f"{name}: the dtype is {dtype}. Give an array of numbers.")
    if name in SCALAR_COLUMNS + FLAG_COLUMNS:
        if len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]
        if len(shape) != 1:
            raise ValueError(f"{name}: the shape is {shape}. Give one number for each transition, (N,).")
    if not shape:
        raise ValueError(f"{name}: a single number. Give an array with a row for each transition.")
    if name in FLAG_COLUMNS + OPTIONAL_COLUMNS:
        return np.dtype(bool), shape
    if name in SCALAR_COLUMNS or dtype.kind == "f":
        return np.dtype(np.float32), shape
    return dtype.newbyteorder("="), shape


def cast(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Cast to the stored dtype. Numbers too large for float32 become infinite, which a later check refuses."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def read_only(array: np.ndarray) -> np.ndarray:
    """Make an array read-only, and return it."""
    array.flags.writeable = False
    return array


def _is_immutable(array: np.ndarray) -> bool:
    """Return True if no writable array shares the memory."""
    if mapping_of(array) is not None:
        return True
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None


# Episodes


def episode_ends(terminals: np.ndarray, timeouts: np.ndarray) -> np.ndarray:
    """
    Find the last row of each episode.

    :param terminals: (N,), bool.
    :param timeouts: (N,), bool.
    :return: (n_episodes,), int64.
    """
    ends = [
        np.flatnonzero(terminals[rows] | timeouts[rows]).astype(np.int64) + rows.start
        for rows in row_slices(terminals, timeouts)
    ]
    return np.concatenate(ends)


def episode_sums(
    column: np.ndarray, starts: np.ndarray, transform: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> np.ndarray:
    """
    Sum a column over each episode in float64, reading about 4 MiB of whole episodes at a time.

    :param column: (N,), the values.
    :param starts: (n_episodes,), the first row of each episode.
    :param transform: Function of a part of the column, whose results are summed.
    :return: (n_episodes,), float64.
    """
    ends = np.append(starts[1:], len(column))
    sums = np.empty(len(starts))
    length, first = rows_per_slice([column]), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + length, side="right")))
        rows = column[starts[first] : ends[last - 1]]
        sums[first:last] = np.add.reduceat(transform(rows), starts[first:last] - starts[first], dtype=np.float64)
        release(rows)
        first = last
    return sums


# Checks: each raises ValueError with the name of the column, what was found, and what to do.


def check_lengths(columns: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless all columns have the same number of rows, at least one."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"columns: different lengths: {found}. Give each column one row for each transition.")
    if not lengths["rewards"]:
        raise ValueError("columns: there are no transitions. Give at least one whole episode.")


def check_last_row(ends: np.ndarray, n_rows: int) -> None:
    """
    Raise ValueError unless the last row ends an episode.

    :param ends: (n_episodes,), the last row of each episode.
    :param n_rows: Number of rows.
    """
    n_open = n_rows - 1 - int(ends[-1]) if len(ends) else n_rows
    if n_open:
        raise ValueError(
            f"timeouts: the last {n_open} of {n_rows} rows belong to an episode that does not end (neither "
            "'terminals' nor 'timeouts' is set in the last row). Set timeouts[-1] if the recording stopped there, or "
            "remove these rows."
        )


def check_flags(name: str, column: Any) -> None:
    """
    Raise ValueError if a flag is neither 0 nor 1. Does nothing for columns that are not flags.

    :param name: The name of the column.
    :param column: An array, or an object with a shape that returns an array for a slice.
    """
    if name in FLAG_COLUMNS + OPTIONAL_COLUMNS:
        each = "option, 1 where it was allowed" if name in OPTIONAL_COLUMNS else "transition"
        _check_rows(name, column, _not_flags, "neither 0 nor 1", f"Give a flag for each {each}.")


def check_action_masks(masks: np.ndarray) -> None:
    """Raise ValueError unless there is one mask for each transition, and each mask allows an action."""
    if masks.ndim != 2:
        raise ValueError(f"action_masks: the shape is {masks.shape}. Give a flag for each option, (N, n_options).")
    n_forbidden, first = find_rows(lambda rows: ~rows.any(axis=1), masks)
    if n_forbidden:
        raise ValueError(
            f"action_masks: {n_forbidden} of {len(masks)} rows allow no action (first: row {first}). Set the flag of "
            "each action that was allowed."
        )


def check_finite(name: str, column: np.ndarray) -> None:
    """Raise ValueError if a row has a NaN or an infinite value."""
    if column.dtype.kind == "f":
        advice = "Remove those episodes or repair the data."
        _check_rows(name, column, _not_finite, "NaN or infinite as float32", advice)


def check_costs(costs: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Raise ValueError if a cost is negative or infinite, or NaN in a part of an episode only."""
    _check_rows("costs", costs, np.isinf, "infinite as float32", "Repair them, or make unknown ones NaN.")
    _check_rows("costs", costs, lambda rows: rows < 0, "negative", "A cost counts harm: give 0 or more.")
    n_unknown = episode_sums(costs, starts, np.isnan).astype(np.int64)
    partly = np.flatnonzero((n_unknown > 0) & (n_unknown < lengths))
    if len(partly):
        first = partly[0]
        raise ValueError(
            f"costs: {len(partly)} of {len(starts)} episodes are NaN in some rows only (first: episode {first}, "
            f"{n_unknown[first]} of its {lengths[first]} rows). NaN means that an episode's cost is unknown: repair "
            "these costs, or make them NaN in the whole episode."
        )


def check_same_format(name: str, column: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """
    Raise ValueError unless the rows of two columns have the same shape and dtype.

    :param name: The name of the column in the message.
    :param column: The column to check.
    :param other_name: The name of the other column in the message.
    :param other: The column to compare with.
    """
    if column.shape[1:] != other.shape[1:] or column.dtype != other.dtype:
        raise ValueError(
            f"{name}: the rows have shape {column.shape[1:]} and dtype {column.dtype}, those of {other_name} have "
            f"{other.shape[1:]} and {other.dtype}. Record both in one environment, behind the same wrappers."
        )


def _check_rows(
    name: str, column: Any, is_wrong: Callable[[np.ndarray], np.ndarray], problem: str, advice: str
) -> None:
    """Raise ValueError if ``is_wrong``, which returns a bool for each row of a slice, is True for any row."""
    n_wrong, first = find_rows(is_wrong, column)
    if n_wrong:
        row = f"row {first}" + (f", {column[first : first + 1][0]}" if len(column.shape) == 1 else "")
        raise ValueError(f"{name}: {n_wrong} of {len(column)} rows are {problem} (first: {row}). {advice}")


def _not_flags(rows: np.ndarray) -> np.ndarray:
    if rows.dtype == bool:  # In a damaged file any byte may stand for True, so look at the bytes.
        rows = np.ascontiguousarray(rows).view(np.uint8)
    return ((rows != 0) & (rows != 1)).any(axis=tuple(range(1, rows.ndim)))


def _not_finite(rows: np.ndarray) -> np.ndarray:
    return ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
