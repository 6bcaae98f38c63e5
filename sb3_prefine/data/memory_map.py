"""
Columns on disk: mapped into memory, read slice by slice, and released again.

A mapped array is an ordinary array on top of a ``numpy.memmap``. The system reads a page when it is touched, and counts
it as memory of the process until it needs the room. The functions that pass through a whole column read a slice of rows
at a time and release it, so that data of any size need only a few MiB of memory.
"""

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Size of a slice, over all columns.
SLICE_BYTES = 2**22
# A copy of a mapped column is written to disk if it is larger.
MAX_COPY_BYTES_IN_MEMORY = 2**28


def row_slices(*columns: Any) -> Iterator[slice]:
    """
    Iterate over row slices of about 4 MiB. Mapped columns are released behind each slice.

    :param columns: Columns of one length: arrays, or objects with a shape and dtype that return an array for a slice.
    """
    length = rows_per_slice(columns)
    for start in range(0, len(columns[0]), length):
        rows = slice(start, min(start + length, len(columns[0])))
        yield rows
        for column in columns:
            if isinstance(column, np.ndarray):
                release(column[rows])


def rows_per_slice(columns: Iterable[Any]) -> int:
    """
    Compute the number of rows in a slice of about 4 MiB, at least 1.

    :param columns: The columns that are read side by side.
    """
    return int(max(1, SLICE_BYTES // max(1, sum(_row_bytes(column) for column in columns))))


def find_rows(condition: Callable[..., Any], *columns: Any) -> tuple[int, int]:
    """
    Find the rows that meet a condition.

    :param condition: Function that takes a slice of each column and returns a bool for each row.
    :param columns: Columns of one length.
    :return: The number of rows found, and the index of the first one (-1 if no row was found).
    """
    n_found, first = 0, -1
    for rows in row_slices(*columns):
        found = np.flatnonzero(condition(*(column[rows] for column in columns)))
        if len(found) and first < 0:
            first = rows.start + int(found[0])
        n_found += len(found)
    return n_found, first


def mapping_of(array: np.ndarray) -> np.memmap | None:
    """
    Find the mapped file that an array is a view of.

    :param array: Any array.
    :return: The mapping, or None if the array is in memory or the mapping is writable.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and isinstance(owner.base, mmap.mmap):
            return owner if memoryview(owner.base).readonly else None
        owner = owner.base
    return None


def release(array: np.ndarray) -> None:
    """Give the memory of a mapped array back to the system, which reads the file again when the array is touched."""
    _advise(array, "MADV_DONTNEED")


def prefetch(column: np.ndarray, rows: np.ndarray) -> None:
    """
    Ask the system to start reading rows of a mapped column, because :func:`copy_rows` will need them soon.

    :param column: (N, ...), the column.
    :param rows: (B,), the indices of the rows, mostly consecutive.
    """
    for span in _consecutive_spans(rows):
        _advise(column[span], "MADV_WILLNEED")


def copy_rows(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """
    Copy rows into memory, and release the mapped rows.

    :param column: (N, ...), the column.
    :param rows: (B,), the indices of the rows, mostly consecutive.
    :return: (B, ...), the copy.
    """
    spans = _consecutive_spans(rows)
    copy = np.concatenate([column[:0], *(column[span] for span in spans)])
    for span in spans:
        release(column[span])
    return copy


def copy_spans(column: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    Copy spans of rows. A copy of more than 256 MiB of a mapped column is written to disk.

    :param column: (N, ...), the column.
    :param starts: (n,), the first row of each span.
    :param lengths: (n,), the number of rows of each span, at least 1.
    :return: (sum of lengths, ...), the copy, read-only.
    :raises OSError: If the disk is full, or the folder of the mapped file is not writable.
    """
    return _copy([column], int(lengths.sum()), _read_spans(column, starts, lengths))


def concatenate(columns: Sequence[np.ndarray]) -> np.ndarray:
    """
    Concatenate columns. A copy of more than 256 MiB of mapped columns is written to disk.

    :param columns: Columns of the same dtype and row shape, at least one.
    :return: The rows of all columns in the order given, read-only.
    :raises OSError: If the disk is full, or the folder of the mapped file is not writable.
    """
    parts = (column[rows] for column in columns for rows in row_slices(column))
    return _copy(columns, sum(map(len, columns)), parts)


def _read_spans(column: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of spans, about 4 MiB of whole spans at a time."""
    ends = np.cumsum(lengths)
    offsets, length, first = ends - lengths, rows_per_slice([column]), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, offsets[first] + length, side="right")))
        chosen = slice(first, last)
        # Row k of the copy is row k + shift of the column; the shift is constant within a span.
        shift = np.repeat(starts[chosen] - offsets[chosen], lengths[chosen])
        yield column[shift + np.arange(offsets[first], ends[last - 1])]
        release(column[starts[chosen].min() : (starts + lengths)[chosen].max()])
        first = last


def _copy(sources: Sequence[np.ndarray], n_rows: int, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join parts of the sources into one read-only array of ``n_rows`` rows, in memory or on disk."""
    dtype, shape = sources[0].dtype, (n_rows, *sources[0].shape[1:])
    mapping = next((mapping for source in sources if (mapping := mapping_of(source)) is not None), None)
    copy: np.ndarray
    if mapping is None or n_rows * _row_bytes(sources[0]) <= MAX_COPY_BYTES_IN_MEMORY:
        copy, end = np.empty(shape, dtype), 0
        for part in parts:
            copy[end : end + len(part)] = part
            end += len(part)
        copy.flags.writeable = False
    else:
        # Next to the original, because the folder for temporary files is often in memory. The name of the file
        # disappears at the end of the block, the file itself with the last array that uses it.
        with tempfile.NamedTemporaryFile(dir=Path(str(mapping.filename)).parent, prefix=".sb3-prefine.") as file:
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
            file.flush()
            copy = np.asarray(np.memmap(file, dtype, "r", shape=shape))
    return copy.view()


def _consecutive_spans(rows: np.ndarray) -> list[slice]:
    """Split row indices where they are not consecutive."""
    if not len(rows):
        return []
    spans = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [slice(int(span[0]), int(span[-1]) + 1) for span in spans]


def _advise(array: np.ndarray, advice: str) -> None:
    """Call ``madvise`` for the pages of a mapped array. Does nothing on systems without it (Windows)."""
    mapping = mapping_of(array)
    if mapping is None or not len(array) or not array.flags.c_contiguous or not hasattr(mmap, advice):
        return
    memory: Any = mapping.base
    start = _address(array) - _address(np.frombuffer(memory, np.uint8))
    page = start - start % mmap.PAGESIZE
    memory.madvise(getattr(mmap, advice), page, start + array.nbytes - page)


def _row_bytes(column: Any) -> int:
    return column.dtype.itemsize * int(np.prod(column.shape[1:]))


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
