"""
The columns of a set of transitions: what each may hold, and how it is kept.

A column is an array with a row for each transition. Dict observations are several columns, named by a path, as in
``observations/camera``: so a set of columns is flat everywhere except on the outside.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sb3_prefine.data.memory_map import BLOCK_BYTES, blocks, find_rows, mapping_of, release, rows_in

# What every set of transitions has.
COLUMNS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
# What it may have.
OPTIONAL_COLUMNS = ("action_masks",)
# What may be a dict of columns.
OBSERVATIONS = ("observations", "next_observations")
FLAGS = ("terminals", "timeouts")
NUMBERS = ("rewards", "costs")

Observations = np.ndarray | Mapping[str, np.ndarray]


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name the columns inside dicts by their path; leave out what is optional and None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            if name not in OBSERVATIONS:
                raise ValueError(f"{name}: a dict. Only observations may be one; give one array.")
            if not value:
                raise ValueError(f"{name}: an empty dict. Give an array for each part of the observation.")
            for key, part in value.items():
                if not isinstance(key, str) or not key or "/" in key or isinstance(part, Mapping):
                    raise ValueError(
                        f"{name}: {key!r} cannot be the name of a part of an observation. Give a flat dict of arrays "
                        "whose keys are texts without '/'."
                    )
                flat[f"{name}/{key}"] = part
        elif value is not None or name not in OPTIONAL_COLUMNS:
            flat[name] = value
    return flat


def unflatten(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of :func:`flatten`."""
    values: dict[str, Any] = {}
    for path, column in columns.items():
        name, _, key = path.partition("/")
        if key:
            values.setdefault(name, {})[key] = column
        else:
            values[name] = column
    return values


def as_column(name: str, value: Any) -> np.ndarray:
    """``value`` as the read-only array that the column ``name`` keeps."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not one array ({error}). Give one with a row for each transition.") from error
    dtype, shape = kept_dtype(name, array.dtype, array.shape)
    array = array.reshape(shape)
    check_flags(name, array)
    if array.dtype != dtype:
        array = convert(array, dtype)
    elif not _is_read_only_to_its_memory(array):
        array = array.copy()
    # A view of read-only memory cannot be made writable again.
    return read_only(array).view()


def kept_dtype(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """
    The dtype and shape that the column ``name`` keeps numbers of these in.

    :raises ValueError: they are no numbers, or no rows of them
    """
    if dtype.kind not in "biuf":
        raise ValueError(f"{name}: the dtype is {dtype}. Give an array of numbers.")
    if name in NUMBERS + FLAGS:
        if len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]
        if len(shape) != 1:
            raise ValueError(f"{name}: the shape is {shape}. Give one number for each transition, (N,).")
    if not shape:
        raise ValueError(f"{name}: a single number. Give an array with a row for each transition.")
    if name in FLAGS + OPTIONAL_COLUMNS:
        return np.dtype(bool), shape
    if name in NUMBERS or dtype.kind == "f":
        return np.dtype(np.float32), shape
    return dtype.newbyteorder("="), shape


def convert(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Numbers in the dtype that a column keeps. One too large for float32 becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def check_flags(name: str, column: Any) -> None:
    """
    Refuse flags other than 0 and 1; other columns pass.

    :param column: an array, or what is read like one
    """
    if name not in FLAGS + OPTIONAL_COLUMNS:
        return
    each = "option, 1 where it was allowed" if name in OPTIONAL_COLUMNS else "transition"
    _refuse_rows(name, column, _are_no_flags, "neither 0 nor 1", f"Give a flag for each {each}.")


def _are_no_flags(block: np.ndarray) -> np.ndarray:
    if block.dtype == bool:  # of a damaged file: NumPy takes any byte for True
        block = np.ascontiguousarray(block).view(np.uint8)
    return ((block != 0) & (block != 1)).any(axis=tuple(range(1, block.ndim)))


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _is_read_only_to_its_memory(array: np.ndarray) -> bool:
    """Whether nobody holds a writable array over the same memory."""
    if mapping_of(array) is not None:
        return True
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None


def check_lengths(columns: Mapping[str, np.ndarray]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"The columns have different lengths: {found}. Give each a row for each transition.")
    if not lengths["rewards"]:
        raise ValueError("observations: there are no transitions. Give at least one whole episode.")


def episode_ends(terminals: np.ndarray, timeouts: np.ndarray) -> np.ndarray:
    """The rows in which an episode ends, int64."""
    ends = [
        np.flatnonzero(terminals[rows] | timeouts[rows]).astype(np.int64) + rows.start
        for rows in blocks(terminals, timeouts)
    ]
    return np.concatenate(ends)


def episode_sums(
    column: np.ndarray, starts: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> np.ndarray:
    """
    Sum a column over each episode, in float64, some MiB of whole episodes at a time.

    :param column: (N,)
    :param starts: (n_episodes,), their first rows
    :param of: what of the column to sum
    """
    ends = np.append(starts[1:], len(column))
    sums = np.empty(len(starts))
    length, first = rows_in(BLOCK_BYTES, [column]), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + length, side="right")))
        rows = column[starts[first] : ends[last - 1]]
        sums[first:last] = np.add.reduceat(of(rows), starts[first:last] - starts[first], dtype=np.float64)
        release(rows)
        first = last
    return sums


def check_last_row(ends: np.ndarray, n_rows: int) -> None:
    """:param ends: the rows in which an episode ends"""
    n_open = n_rows - 1 - int(ends[-1]) if len(ends) else n_rows
    if n_open:
        raise ValueError(
            f"timeouts: the last {n_open} of {n_rows} rows belong to an episode that does not end (neither "
            "'terminals' nor 'timeouts' is set in the last row). Set timeouts[-1] if the recording stopped there, or "
            "remove these rows."
        )


def check_finite(name: str, column: np.ndarray) -> None:
    if column.dtype.kind == "f":
        advice = "Remove those episodes or repair the data."
        _refuse_rows(name, column, _are_not_finite, "NaN or infinite as float32", advice)


def _are_not_finite(block: np.ndarray) -> np.ndarray:
    return ~np.isfinite(block).reshape(len(block), -1).all(axis=1)


def check_costs(costs: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    _refuse_rows("costs", costs, np.isinf, "infinite as float32", "Repair them, or make unknown ones NaN.")
    _refuse_rows("costs", costs, lambda block: block < 0, "negative", "A cost counts harm: give 0 or more.")
    n_unknown = episode_sums(costs, starts, np.isnan).astype(np.int64)
    partly = np.flatnonzero((n_unknown > 0) & (n_unknown < lengths))
    if len(partly):
        first = partly[0]
        raise ValueError(
            f"costs: {len(partly)} of {len(starts)} episodes are NaN in some rows only (first: episode {first}, "
            f"{n_unknown[first]} of its {lengths[first]} rows). NaN says that an episode's cost is unknown: repair "
            "these costs, or make them NaN in the whole episode."
        )


def check_masks(masks: np.ndarray) -> None:
    if masks.ndim != 2:
        raise ValueError(f"action_masks: the shape is {masks.shape}. Give a flag for each option, (N, n_options).")
    n_forbidden, first = find_rows(lambda block: ~block.any(axis=1), masks)
    if n_forbidden:
        raise ValueError(
            f"action_masks: {n_forbidden} of {len(masks)} rows allow no action (first: row {first}). A mask is True "
            "where an action was allowed."
        )


def _refuse_rows(
    name: str, column: Any, are_wrong: Callable[[np.ndarray], np.ndarray], problem: str, advice: str
) -> None:
    """Raise ``ValueError`` if any row is wrong: ``are_wrong`` gives a bool for each row of a block."""
    n_wrong, first = find_rows(are_wrong, column)
    if n_wrong:
        row = f"row {first}" + (f", {column[first : first + 1][0]}" if len(column.shape) == 1 else "")
        raise ValueError(f"{name}: {n_wrong} of {len(column)} rows are {problem} (first: {row}). {advice}")


def check_same_rows(name: str, first: np.ndarray, other_name: str, second: np.ndarray) -> None:
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        raise ValueError(
            f"{name} have shape {first.shape[1:]} and dtype {first.dtype}, {other_name} have {second.shape[1:]} and "
            f"{second.dtype}. Give both the same: record them in one environment, behind the same wrappers."
        )
