"""
Files in DSRL's layout: one dataset for each column, at the root, under the column's name.

They are read into memory, or mapped. A column can be mapped where it lies if it lies there in one piece, neither
compressed nor in another dtype than Trajectories keep. The other columns of a file are written once, as they are kept,
into a copy beside it: ``data.hdf5.mmap`` for ``data.hdf5``. That one is used for as long as size and time of the file
are what they were, and may be deleted at any time.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from sb3_prefine.data.columns import (
    COLUMNS,
    OBSERVATIONS,
    OPTIONAL_COLUMNS,
    as_column,
    check_flags,
    convert,
    kept_dtype,
    read_only,
)
from sb3_prefine.data.memory_map import blocks, release
from sb3_prefine.utils.files import replacing


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """
    The columns of a file, in memory.

    :raises FileNotFoundError: there is no such file
    :raises ValueError: it is not HDF5, is damaged, or lacks a column; says what, not which file
    """
    with _open(path) as file:
        # One after the other: where a column has to be converted, both forms of it are in memory.
        return {name: as_column(name, column[:]) for name, column in _columns(file).items()}


def map_columns(path: Path) -> dict[str, np.ndarray]:
    """
    The columns of a file, on disk.

    :raises FileNotFoundError: there is no such file
    :raises ValueError: it is not HDF5, is damaged, lacks a column, or points into other files
    :raises OSError: the copy beside it cannot be written
    """
    with _open(path) as file:
        columns = _columns(file)
        foreign = [name for name, column in columns.items() if column.lies_elsewhere(file)]
        if foreign:
            raise ValueError(
                f"{', '.join(foreign)} lie in other files, which mmap=True does not follow. Copy them here."
            )
        mapped = {name: column.map() for name, column in columns.items()}
        rest = {name: column for name, column in columns.items() if mapped[name] is None}
        if rest:
            stamp = _stamp(path)
            copy = path.with_name(f"{path.name}.mmap")
            try:
                mapped |= _map_copy(copy, rest, stamp)
            except (FileNotFoundError, ValueError):
                _write_copy(copy, path, rest, stamp)
                mapped |= _map_copy(copy, rest, stamp)
    return {name: column for name, column in mapped.items() if column is not None}


def write_columns(path: Path, columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all; the same columns and attributes give the same bytes."""
    with replacing(path) as target, h5py.File(target, "w") as file:
        for name, column in columns.items():
            # Without times the bytes depend on the data alone.
            file.create_dataset(name, data=column, compression="gzip", track_times=False)
            release(column)
        file.attrs.update(attributes)


class _Column:
    """
    A dataset as the column it is to be: its shape and dtype are those that the column keeps, rows come as they lie in
    the file.
    """

    def __init__(self, name: str, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.kept, self.shape = kept_dtype(name, dataset.dtype, dataset.shape)
        self.dtype = dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        with _damage_in_words():
            block = read_only(np.asarray(self._dataset[rows]))
        return block.reshape(-1, *self.shape[1:])

    def lies_elsewhere(self, file: h5py.File) -> bool:
        dataset = self._dataset
        return dataset.is_virtual or dataset.external is not None or dataset.file.filename != file.filename

    def map(self) -> np.ndarray | None:
        """The column where it lies; None if it does not lie there as it is kept."""
        if 0 in self.shape:  # no system maps nothing
            return read_only(np.empty(self.shape, self.kept))
        offset = self._dataset.id.get_offset()
        if offset is None or self.dtype != self.kept:
            return None
        with _damage_in_words():
            return np.asarray(np.memmap(self._dataset.file.filename, self.kept, "r", offset, self.shape))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if not h5py.is_hdf5(path):
        with path.open("rb") as start:
            head = start.read(24)
        raise ValueError(
            f"not an HDF5 file (it begins with {head!r}). If it was downloaded, download it again: an error page or a "
            "pointer may have been saved in its place."
        )
    with _damage_in_words():
        file = h5py.File(path, "r")
    with file:
        yield file


@contextlib.contextmanager
def _damage_in_words() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # h5py's words for bytes that make no sense
        if isinstance(error, OSError) and error.errno is not None:  # the operating system's refusal: not about bytes
            raise
        raise ValueError(f"cut off or damaged ({error}). Download or write it again.") from error


def _columns(file: h5py.File) -> dict[str, _Column]:
    """By their path, as in ``observations/camera``."""
    with _damage_in_words():
        found = [str(name) for name in file]  # a damaged name comes as bytes
        items = {name: file[name] for name in COLUMNS + OPTIONAL_COLUMNS if name in file}
        for name in OBSERVATIONS:
            if isinstance(items.get(name), h5py.Group):
                items |= {f"{name}/{key}": part for key, part in items.pop(name).items()}
    datasets = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
    missing = [name for name in COLUMNS if name not in {path.partition("/")[0] for path in datasets}]
    if missing:
        raise ValueError(
            f"lacks {', '.join(missing)}; at its root are {', '.join(found) or 'no datasets'}. Trajectories need the "
            f"datasets {', '.join(COLUMNS)} there."
        )
    groups = [name for name in items if name not in datasets]
    if groups:
        raise ValueError(
            f"{', '.join(groups)} should be a dataset and is a group. Only observations may be a group, of the "
            "datasets of their parts."
        )
    return {name: _Column(name, dataset) for name, dataset in datasets.items()}


def _stamp(path: Path) -> dict[str, int]:
    """What changes when a file does."""
    stat = path.stat()
    return {"source_bytes": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}


def _map_copy(copy: Path, columns: Mapping[str, _Column], stamp: Mapping[str, int]) -> dict[str, np.ndarray]:
    """
    The columns in the copy.

    :raises FileNotFoundError: there is none
    :raises ValueError: it is damaged, or of another state of the file
    """
    with _open(copy) as file, _damage_in_words():
        if dict(file.attrs) != stamp or any(name not in file for name in columns):
            raise ValueError("it is not of the file as it is now")
        # Only what can be mapped is written there.
        return {name: column for name in columns if (column := _Column(name, file[name]).map()) is not None}


def _write_copy(copy: Path, path: Path, columns: Mapping[str, _Column], stamp: Mapping[str, int]) -> None:
    """Write columns uncompressed, as they are kept."""
    if not os.access(copy.parent, os.W_OK):
        raise PermissionError(
            f"{path}: {', '.join(columns)} are compressed or in another dtype than Trajectories keep. mmap=True writes "
            f"them once to {copy.name} beside the file, and this folder cannot be written to. Link the file into a "
            "folder of your own (ln -s) and open the link."
        )
    n_bytes = sum(column.kept.itemsize * int(np.prod(column.shape)) for column in columns.values())
    free = shutil.disk_usage(copy.parent).free
    if n_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"mmap=True writes {n_bytes / 1e9:.1f} GB beside {path}, of which {free / 1e9:.1f} GB are free",
        )
    with (
        replacing(copy) as target,
        h5py.File(target, "w", alignment_threshold=4096, alignment_interval=4096) as file,
        tqdm(total=n_bytes, unit="B", unit_scale=True, desc=f"Uncompressing {path.name}", disable=None) as bar,
    ):
        for name, column in columns.items():
            check_flags(name, column)
            dataset = file.create_dataset(name, column.shape, column.kept)
            for rows in blocks(column):
                block = convert(column[rows], column.kept)
                dataset[rows] = block
                bar.update(block.nbytes)
        file.attrs.update(stamp)
        if _stamp(path) != stamp:
            raise ValueError("it changed while it was read. Open it again when nobody writes to it.")
