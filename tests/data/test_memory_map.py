"""Columns on disk: blocks cover them, copies are equal to them, and nothing that passes through stays in memory."""

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.data import memory_map as mapped
from sb3_prefine.data.memory_map import blocks, concatenate, copy_rows, find_rows, mapping_of, prefetch, release, take

COLUMN = np.arange(60, dtype=np.float32).reshape(20, 3)


def on_disk(path: Path, column: np.ndarray, offset: int = 0) -> np.ndarray:
    """The column as a mapped file gives it."""
    path.write_bytes(b"x" * offset + column.tobytes())
    return np.asarray(np.memmap(path, column.dtype, "r", offset, column.shape))


@given(n=st.integers(0, 50), width=st.integers(0, 9), block_bytes=st.integers(1, 400))
def test_blocks_are_all_rows_in_order_and_not_larger_than_asked(n, width, block_bytes):
    column, flags = np.arange(n * width, dtype=np.float32).reshape(n, width), np.arange(n) % 3 == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "BLOCK_BYTES", block_bytes)
        found = [(column[rows], flags[rows]) for rows in blocks(column, flags)]
        assert find_rows(lambda _, some: some, column, flags) == (flags.sum(), 0 if n else -1)
    if n:
        np.testing.assert_array_equal(np.concatenate([block for block, _ in found]), column)
        np.testing.assert_array_equal(np.concatenate([block for _, block in found]), flags)
    assert all(len(block) == 1 or block.nbytes + some.nbytes <= block_bytes for block, some in found)


def test_the_first_wrong_row_is_found_in_a_later_block(monkeypatch):
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 36)
    assert find_rows(lambda block: block[:, 0] > 40, COLUMN) == (6, 14)
    assert find_rows(lambda block: block[:, 0] > 99, COLUMN) == (0, -1)


runs = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), min_size=1, max_size=12).map(
    lambda pairs: [(start, min(length, 20 - start)) for start, length in pairs]
)


@pytest.mark.parametrize("large", [0, 2**28])
@given(chosen=runs, block_bytes=st.integers(1, 200), offset=st.integers(0, 9))
def test_runs_of_rows_are_copied_into_memory_or_beside_the_file(tmp_path_factory, large, chosen, block_bytes, offset):
    folder = tmp_path_factory.mktemp("mapped")
    column = on_disk(folder / "column", COLUMN, offset)
    starts, lengths = (np.array(numbers) for numbers in zip(*chosen, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "BLOCK_BYTES", block_bytes)
        patch.setattr(mapped, "_LARGE", large)
        copy = take(column, starts, lengths)
        twice = concatenate([copy, column])
    expected = np.concatenate([COLUMN[start : start + length] for start, length in chosen])
    np.testing.assert_array_equal(copy, expected)
    np.testing.assert_array_equal(twice, np.concatenate([expected, COLUMN]))
    for array in (copy, twice):
        assert (mapping_of(array) is not None) == (large == 0)
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.flags.writeable = True
    assert [path.name for path in folder.iterdir()] == ["column"]  # a copy on disk has no name


def test_what_is_in_memory_is_copied_into_memory(monkeypatch):
    monkeypatch.setattr(mapped, "_LARGE", 0)
    assert mapping_of(take(COLUMN, np.array([3]), np.array([2]))) is None
    assert mapping_of(concatenate([COLUMN, COLUMN])) is None


def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    """A mapping of a file that the disk has no room for would kill the process when it is written to."""
    on_disk(tmp_path / "column", np.zeros(100_000, np.float32))
    program = f"""
import resource, signal
import numpy as np
from sb3_prefine.data import memory_map as mapped
mapped._LARGE = 0
column = np.asarray(np.memmap({str(tmp_path / "column")!r}, np.float32, "r"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    mapped.take(column, np.array([0]), np.array([100_000]))
except OSError as error:
    print("refused:", error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("refused: [Errno 27] File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["column"]


@pytest.mark.parametrize("rows", [[0, 1, 2], [18, 19, 0, 1], [5], [], [3, 9, 10]])
def test_rows_that_are_announced_are_those_that_are_copied(tmp_path, rows):
    column = on_disk(tmp_path / "column", COLUMN)
    prefetch(column, np.array(rows, int))
    copy = copy_rows(column, np.array(rows, int))
    np.testing.assert_array_equal(copy, COLUMN[np.array(rows, int)])
    assert mapping_of(copy) is None


def test_only_what_nobody_can_write_to_counts_as_mapped(tmp_path):
    on_disk(tmp_path / "column", COLUMN)

    def mapping(mode: Any) -> np.ndarray:
        return np.memmap(tmp_path / "column", np.float32, mode, shape=COLUMN.shape)

    assert mapping_of(mapping("r")) is not None
    assert mapping_of(np.asarray(mapping("r"))[3:, 1].T) is not None
    assert mapping_of(mapping("r+")) is None
    # Letting go of these pages would lose what was written to them.
    private = mapping("c")
    private[:] = -1
    private.flags.writeable = False
    release(private)
    assert mapping_of(private) is None
    assert (private == -1).all()
    assert mapping_of(COLUMN) is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system takes no advice about memory")
def test_pages_that_are_let_go_of_leave_the_memory_and_come_back(tmp_path):
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
