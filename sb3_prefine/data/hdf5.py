"""
Files in DSRL's layout: one dataset for each column, at the root, under the name of the column.

They are read into memory, or mapped. A column can be mapped in place if it is contiguous, uncompressed, and has the
dtype that ``Trajectories`` stores. The other columns are written once, in the stored dtype, to a copy next to the file:
``data.hdf5.mmap`` for ``data.hdf5``. The copy is used until the size or the modification time of the file changes, and
may be deleted at any time.

The messages of the ValueErrors do not name the file: ``Trajectories.from_hdf5`` puts the path in front of them.
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
    OBSERVATION_COLUMNS,
    OPTIONAL_COLUMNS,
    cast,
    check_flags,
    make_column,
    read_only,
    storage_format,
)
from sb3_prefine.data.memory_map import release, row_slices
from sb3_prefine.utils.files import open_atomically


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """
    Read the columns of a file into memory.

    :param path: The path of the file.
    :return: The columns by their path, as in ``observations/camera``.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If it is not HDF5, is damaged, or lacks a column.
    """
    with _open_file(path) as file:
        # One after the other: while a column is cast, both versions of it are in memory.
        return {name: make_column(name, column[:]) for name, column in _find_columns(file).items()}


def map_columns(path: Path) -> dict[str, np.ndarray]:
    """
    Map the columns of a file, without reading them.

    :param path: The path of the file.
    :return: The columns by their path, as in ``observations/camera``.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If it is not HDF5, is damaged, lacks a column, or links to other files.
    :raises OSError: If the copy next to the file cannot be written.
    """
    with _open_file(path) as file:
        columns = _find_columns(file)
        linked = [name for name, column in columns.items() if column.is_outside(file)]
        if linked:
            raise ValueError(
                f"{', '.join(linked)} are stored in other files, which mmap=True does not follow. Copy them here."
            )
        mapped = {name: column.map_in_place() for name, column in columns.items()}
        rest = {name: column for name, column in columns.items() if mapped[name] is None}
        if rest:
            version = _file_version(path)
            copy = path.with_name(f"{path.name}.mmap")
            try:
                mapped |= _map_copy(copy, rest, version)
            except (FileNotFoundError, ValueError):
                _write_copy(copy, path, rest, version)
                mapped |= _map_copy(copy, rest, version)
    return {name: column for name, column in mapped.items() if column is not None}


def write_columns(path: Path, columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """
    Write a file atomically. The same columns and attributes give the same bytes.

    :param path: The path of the file. An existing file is replaced.
    :param columns: The columns by their path.
    :param attributes: Attributes of the root of the file.
    """
    with open_atomically(path) as target, h5py.File(target, "w") as file:
        for name, column in columns.items():
            # Without times the bytes depend on the data only.
            file.create_dataset(name, data=column, compression="gzip", track_times=False)
            release(column)
        file.attrs.update(attributes)


class _Column:
    """
    An HDF5 dataset with the shape and dtype that ``Trajectories`` stores.

    A slice reads rows in the stored shape, and in the dtype of the file.

    :param name: The name of the column.
    :param dataset: The dataset.
    """

    def __init__(self, name: str, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.stored_dtype, self.shape = storage_format(name, dataset.dtype, dataset.shape)
        self.dtype = dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        with _report_damage():
            array = read_only(np.asarray(self._dataset[rows]))
        return array.reshape(-1, *self.shape[1:])

    def is_outside(self, file: h5py.File) -> bool:
        """Return True if the values are in another file."""
        dataset = self._dataset
        return dataset.is_virtual or dataset.external is not None or dataset.file.filename != file.filename

    def map_in_place(self) -> np.ndarray | None:
        """Map the dataset. Returns None if it is chunked, compressed, or not in the stored dtype."""
        if 0 in self.shape:  # mmap rejects empty arrays
            return read_only(np.empty(self.shape, self.stored_dtype))
        offset = self._dataset.id.get_offset()
        if offset is None or self.dtype != self.stored_dtype:
            return None
        with _report_damage():
            return np.asarray(np.memmap(self._dataset.file.filename, self.stored_dtype, "r", offset, self.shape))


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if not h5py.is_hdf5(path):
        with path.open("rb") as start:
            head = start.read(24)
        raise ValueError(
            f"not an HDF5 file (it begins with {head!r}). If it was downloaded, download it again: an error page or a "
            "pointer may have been saved in its place."
        )
    with _report_damage():
        file = h5py.File(path, "r")
    with file:
        yield file


@contextlib.contextmanager
def _report_damage() -> Iterator[None]:
    """Turn h5py's errors about bytes that it cannot read into a ValueError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the operating system: not about the bytes
            raise
        raise ValueError(f"cut off or damaged ({error}). Download or write it again.") from error


def _find_columns(file: h5py.File) -> dict[str, _Column]:
    """Find the columns of a file by their path, as in ``observations/camera``."""
    with _report_damage():
        found = [str(name) for name in file]  # h5py returns a damaged name as bytes
        items = {name: file[name] for name in COLUMNS + OPTIONAL_COLUMNS if name in file}
        for name in OBSERVATION_COLUMNS:
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
            f"{', '.join(groups)} should be a dataset and is a group. Only observations may be a group, which "
            "contains a dataset for each of their parts."
        )
    return {name: _Column(name, dataset) for name, dataset in datasets.items()}


def _file_version(path: Path) -> dict[str, int]:
    """Return size and modification time, by which the copy recognizes that the file has changed."""
    stat = path.stat()
    return {"source_bytes": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}


def _map_copy(copy: Path, columns: Mapping[str, _Column], version: Mapping[str, int]) -> dict[str, np.ndarray]:
    """
    Map columns of the copy.

    :param copy: The path of the copy.
    :param columns: The columns to map, as they are in the original file.
    :param version: The version of the original file.
    :raises FileNotFoundError: If the copy does not exist.
    :raises ValueError: If it is damaged, or was made from another version of the file.
    """
    with _open_file(copy) as file, _report_damage():
        if dict(file.attrs) != version or any(name not in file for name in columns):
            raise ValueError("the copy was made from another version of the file. Write it again.")
        # The copy contains only columns that can be mapped, so none of them is None.
        return {name: column for name in columns if (column := _Column(name, file[name]).map_in_place()) is not None}


def _write_copy(copy: Path, path: Path, columns: Mapping[str, _Column], version: Mapping[str, int]) -> None:
    """
    Write columns uncompressed, in the stored dtype.

    :param copy: The path of the copy.
    :param path: The path of the original file.
    :param columns: The columns to write.
    :param version: The version of the original file.
    """
    if not os.access(copy.parent, os.W_OK):
        raise PermissionError(
            f"{path}: {', '.join(columns)} are compressed or in another dtype than Trajectories store. mmap=True "
            f"writes them once to {copy.name} next to the file, and this folder is not writable. Link the file into a "
            "folder of your own (ln -s) and open the link."
        )
    n_bytes = sum(column.stored_dtype.itemsize * int(np.prod(column.shape)) for column in columns.values())
    free = shutil.disk_usage(copy.parent).free
    if n_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"mmap=True writes {n_bytes / 1e9:.1f} GB next to {path}, where {free / 1e9:.1f} GB are free",
        )
    with (
        open_atomically(copy) as target,
        h5py.File(target, "w", alignment_threshold=4096, alignment_interval=4096) as file,
        tqdm(total=n_bytes, unit="B", unit_scale=True, desc=f"Uncompressing {path.name}", disable=None) as bar,
    ):
        for name, column in columns.items():
            check_flags(name, column)
            dataset = file.create_dataset(name, column.shape, column.stored_dtype)
            for rows in row_slices(column):
                values = cast(column[rows], column.stored_dtype)
                dataset[rows] = values
                bar.update(values.nbytes)
        file.attrs.update(version)
        if _file_version(path) != version:
            raise ValueError("the file changed while it was read. Open it again when no other process writes to it.")
