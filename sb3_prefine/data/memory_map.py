"""
Columns that lie on disk: mapped into memory, read some rows at a time, let go of again.

A mapped array is an ordinary one (``numpy.memmap`` below it). The system reads a page of it when it is touched, and
counts it as memory of the process until it needs the room. What goes through a whole column here takes it in blocks and
gives each one back, so that data of any size pass through a few MiB.
"""

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Of a block, all columns together.
BLOCK_BYTES = 2**22
# Copies of mapped columns lie on disk too if they are larger.
_LARGE = 2**28


def blocks(*columns: Any) -> Iterator[slice]:
    """
    Some rows after the others of columns of one length, 4 MiB at a time.

    :param columns: arrays, or what has their shape and dtype and gives one for a slice
    """
    length = rows_in(BLOCK_BYTES, columns)
    for start in range(0, len(columns[0]), length):
        rows = slice(start, min(start + length, len(columns[0])))
        yield rows
        for column in columns:
            if isinstance(column, np.ndarray):
                release(column[rows])


def rows_in(n_bytes: int, columns: Iterable[Any]) -> int:
    """How many rows of these columns, side by side, take so many bytes: at least one."""
    return int(max(1, n_bytes // max(1, sum(_row_bytes(column) for column in columns))))


def find_rows(is_wrong: Callable[..., Any], *columns: Any) -> tuple[int, int]:
    """
    Look through columns of one length.

    :param is_wrong: (a block of each column) -> a bool for each row
    :return: how many rows are wrong, and the number of the first
    """
    n_wrong, first = 0, -1
    for rows in blocks(*columns):
        wrong = np.flatnonzero(is_wrong(*(column[rows] for column in columns)))
        if len(wrong) and first < 0:
            first = rows.start + int(wrong[0])
        n_wrong += len(wrong)
    return n_wrong, first


def mapping_of(array: np.ndarray) -> np.memmap | None:
    """The mapping of a file that an array is a part of, if nobody can write to it through memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and isinstance(owner.base, mmap.mmap):
            return owner if memoryview(owner.base).readonly else None
        owner = owner.base
    return None


def release(array: np.ndarray) -> None:
    """Give the memory of a mapped array back to the system; it is read from the file again when it is touched."""
    _advise(array, "MADV_DONTNEED")


def copy_rows(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """
    Copy rows into memory, and let go of what lies on disk.

    :param rows: (B,), their numbers, most of them one after the other
    """
    spans = _spans(rows)
    copy = np.concatenate([column[:0], *(column[span] for span in spans)])
    for span in spans:
        release(column[span])
    return copy


def prefetch(column: np.ndarray, rows: np.ndarray) -> None:
    """Let the system begin to read rows of a mapped column, which :func:`copy_rows` will need soon."""
    for span in _spans(rows):
        _advise(column[span], "MADV_WILLNEED")


def take(column: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    Copy runs of rows. A large copy (256 MiB) of a mapped column lies on disk too.

    :param starts: (n,), the first row of each run
    :param lengths: (n,), their numbers of rows, at least 1 each
    :return: (N, ...), read-only
    :raises OSError: the disk is full, or the folder of the mapped file cannot be written to
    """
    return _copy([column], int(lengths.sum()), _runs(column, starts, lengths))


def concatenate(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Copy columns into one, the rows of the first before those of the second; where it lies: as in :func:`take`."""
    parts = (column[rows] for column in columns for rows in blocks(column))
    return _copy(columns, sum(map(len, columns)), parts)


def _runs(column: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of runs, as many runs at a time as make a block."""
    ends = np.cumsum(lengths)
    places, length, first = ends - lengths, rows_in(BLOCK_BYTES, [column]), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, places[first] + length, side="right")))
        run = slice(first, last)
        # Row k of these lies in its run as far from the start as k lies from the run's place.
        shift = np.repeat(starts[run] - places[run], lengths[run])
        yield column[shift + np.arange(places[first], ends[last - 1])]
        release(column[starts[run].min() : (starts + lengths)[run].max()])
        first = last


def _copy(sources: Sequence[np.ndarray], n_rows: int, parts: Iterable[np.ndarray]) -> np.ndarray:
    """The parts, one after the other, as one read-only array of ``n_rows``."""
    dtype, shape = sources[0].dtype, (n_rows, *sources[0].shape[1:])
    mapping = next((mapping for source in sources if (mapping := mapping_of(source)) is not None), None)
    copy: np.ndarray
    if mapping is None or n_rows * _row_bytes(sources[0]) <= _LARGE:
        copy, end = np.empty(shape, dtype), 0
        for part in parts:
            copy[end : end + len(part)] = part
            end += len(part)
        copy.flags.writeable = False
    else:
        # Beside the original, where there is room for it: the folder for temporary files often lies in memory. Its name
        # is gone at once, the file itself with the last array.
        with tempfile.NamedTemporaryFile(dir=Path(str(mapping.filename)).parent, prefix=".sb3-prefine.") as file:
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
            file.flush()
            copy = np.asarray(np.memmap(file, dtype, "r", shape=shape))
    return copy.view()


def _spans(rows: np.ndarray) -> list[slice]:
    """The runs of numbers that follow each other."""
    if not len(rows):
        return []
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs]


def _advise(array: np.ndarray, advice: str) -> None:
    """Tell the system about the pages of a mapped array; nothing where it takes no advice (Windows)."""
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
