"""
The columns of a set of transitions: what each may hold, and how it is kept.

A column is an array with a row for each transition. Dict observations are several columns, named by a path, as in
``observations/camera``: so a set of columns is flat everywhere except on the outside.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: the dtype is {array.dtype}. Give an array of numbers.")
    if name in NUMBERS + FLAGS:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise ValueError(f"{name}: the shape is {array.shape}. Give one number for each transition, (N,).")
    if array.ndim == 0:
        raise ValueError(f"{name}: a single number. Give an array with a row for each transition.")

    if name in FLAGS + OPTIONAL_COLUMNS:
        wrong = ((array != 0) & (array != 1)).any(axis=tuple(range(1, array.ndim)))
        each = "option, 1 where it was allowed" if name in OPTIONAL_COLUMNS else "transition"
        _refuse_rows(name, array, wrong, "neither 0 nor 1", f"Give a flag for each {each}.")
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
    return read_only(array).view()


def read_only(array: np.ndarray) -> np.ndarray:
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


def check_lengths(columns: Mapping[str, np.ndarray]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"The columns have different lengths: {found}. Give each a row for each transition.")
    if not lengths["rewards"]:
        raise ValueError("observations: there are no transitions. Give at least one whole episode.")


def check_last_row(ends: np.ndarray) -> None:
    if not ends[-1]:
        n_open = int(np.argmax(ends[::-1])) if ends.any() else len(ends)
        raise ValueError(
            f"timeouts: the last {n_open} of {len(ends)} rows belong to an episode that does not end (neither "
            "'terminals' nor 'timeouts' is set in the last row). Set timeouts[-1] if the recording stopped there, or "
            "remove these rows."
        )


def check_finite(name: str, column: np.ndarray) -> None:
    if column.dtype.kind != "f":
        return
    finite = np.isfinite(column)
    if not finite.all():
        wrong = ~finite.reshape(len(column), -1).all(axis=1)
        _refuse_rows(name, column, wrong, "NaN or infinite as float32", "Remove those episodes or repair the data.")


def check_costs(costs: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
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


def check_same_rows(name: str, first: np.ndarray, other_name: str, second: np.ndarray) -> None:
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        raise ValueError(
            f"{name} have shape {first.shape[1:]} and dtype {first.dtype}, {other_name} have {second.shape[1:]} and "
            f"{second.dtype}. Give both the same: record them in one environment, behind the same wrappers."
        )
