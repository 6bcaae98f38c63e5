"""Columns on disk: slices cover them, copies equal them, and released pages leave the memory."""

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.data import memory_map
from sb3_prefine.data.memory_map import (
    concatenate,
    copy_rows,
    copy_spans,
    find_rows,
    mapping_of,
    prefetch,
    release,
    row_slices,
)

COLUMN = np.arange(60, dtype=np.float32).reshape(20, 3)


def on_disk(path: Path, column: np.ndarray, offset: int = 0) -> np.ndarray:
    """Write a column to a file, and map it."""
    path.write_bytes(b"x" * offset + column.tobytes())
    return np.asarray(np.memmap(path, column.dtype, "r", offset, column.shape))


@given(n=st.integers(0, 50), width=st.integers(0, 9), slice_bytes=st.integers(1, 400))
def test_row_slices_cover_all_rows_in_order_within_their_size(n, width, slice_bytes):
    column, flags = np.arange(n * width, dtype=np.float32).reshape(n, width), np.arange(n) % 3 == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_map, "SLICE_BYTES", slice_bytes)
        found = [(column[rows], flags[rows]) for rows in row_slices(column, flags)]
        assert find_rows(lambda _, some: some, column, flags) == (flags.sum(), 0 if n else -1)
    if n:
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in found]), column)
        np.testing.assert_array_equal(np.concatenate([some for _, some in found]), flags)
    assert all(len(rows) == 1 or rows.nbytes + some.nbytes <= slice_bytes for rows, some in found)


def test_find_rows_finds_the_first_row_in_a_later_slice(monkeypatch):
    monkeypatch.setattr(memory_map, "SLICE_BYTES", 36)
    assert find_rows(lambda rows: rows[:, 0] > 40, COLUMN) == (6, 14)
    assert find_rows(lambda rows: rows[:, 0] > 99, COLUMN) == (0, -1)


spans = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), min_size=1, max_size=12).map(
    lambda pairs: [(start, min(length, 20 - start)) for start, length in pairs]
)


@pytest.mark.parametrize("limit", [0, 2**28])
@given(chosen=spans, slice_bytes=st.integers(1, 200), offset=st.integers(0, 9))
def test_spans_are_copied_into_memory_or_next_to_the_file(tmp_path_factory, limit, chosen, slice_bytes, offset):
    folder = tmp_path_factory.mktemp("mapped")
    column = on_disk(folder / "column", COLUMN, offset)
    starts, lengths = (np.array(numbers) for numbers in zip(*chosen, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_map, "SLICE_BYTES", slice_bytes)
        patch.setattr(memory_map, "MAX_COPY_BYTES_IN_MEMORY", limit)
        copy = copy_spans(column, starts, lengths)
        twice = concatenate([copy, column])
    expected = np.concatenate([COLUMN[start : start + length] for start, length in chosen])
    np.testing.assert_array_equal(copy, expected)
    np.testing.assert_array_equal(twice, np.concatenate([expected, COLUMN]))
    for array in (copy, twice):
        assert (mapping_of(array) is not None) == (limit == 0)
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.flags.writeable = True
    assert [path.name for path in folder.iterdir()] == ["column"]  # The copy has no name.


def test_arrays_in_memory_are_copied_into_memory(monkeypatch):
    monkeypatch.setattr(memory_map, "MAX_COPY_BYTES_IN_MEMORY", 0)
    assert mapping_of(copy_spans(COLUMN, np.array([3]), np.array([2]))) is None
    assert mapping_of(concatenate([COLUMN, COLUMN])) is None


def test_a_full_disk_raises_os_error_and_does_not_crash(tmp_path):
    """Writing to a mapped file on a full disk would kill the process, so copies are written as ordinary files."""
    on_disk(tmp_path / "column", np.zeros(100_000, np.float32))
    program = f"""
import resource, signal
import numpy as np
from sb3_prefine.data import memory_map
memory_map.MAX_COPY_BYTES_IN_MEMORY = 0
column = np.asarray(np.memmap({str(tmp_path / "column")!r}, np.float32, "r"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    memory_map.copy_spans(column, np.array([0]), np.array([100_000]))
except OSError as error:
    print("refused:", error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("refused: [Errno 27] File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["column"]


@pytest.mark.parametrize("rows", [[0, 1, 2], [18, 19, 0, 1], [5], [], [3, 9, 10]])
def test_prefetched_rows_are_copied(tmp_path, rows):
    column = on_disk(tmp_path / "column", COLUMN)
    prefetch(column, np.array(rows, int))
    copy = copy_rows(column, np.array(rows, int))
    np.testing.assert_array_equal(copy, COLUMN[np.array(rows, int)])
    assert mapping_of(copy) is None


def test_only_read_only_mappings_count_as_mapped(tmp_path):
    on_disk(tmp_path / "column", COLUMN)

    def mapping(mode: Any) -> np.ndarray:
        return np.memmap(tmp_path / "column", np.float32, mode, shape=COLUMN.shape)

    assert mapping_of(mapping("r")) is not None
    assert mapping_of(np.asarray(mapping("r"))[3:, 1].T) is not None
    assert mapping_of(mapping("r+")) is None
    # Releasing these pages would lose what was written to them.
    private = mapping("c")
    private[:] = -1
    private.flags.writeable = False
    release(private)
    assert mapping_of(private) is None
    assert (private == -1).all()
    assert mapping_of(COLUMN) is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system has no madvise")
def test_released_pages_leave_the_memory_and_are_read_again(tmp_path):
    def resident() -> int:
        with open("/proc/self/smaps") as file:
            lines = file.read().split(str(tmp_path / "column"), 1)[1].splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    numbers = np.arange(2**20, dtype=np.float32)
    column = on_disk(tmp_path / "column", numbers)
    assert column.sum() == numbers.sum()
    assert resident() > 3000
    release(column[1000:-1000])
    assert resident() < 100
    np.testing.assert_array_equal(column, numbers)
