"""Check output paths before the work."""

import os
from pathlib import Path


def check_outputs(*paths: Path | None, overwrite: bool) -> None:
    """
    Refuse outputs that cannot be written or would replace a file. Call this before the work that makes them.

    :param paths: Paths of the outputs. None is an output that was not asked for.
    :param overwrite: Whether existing files may be replaced.
    :raises ValueError: If two outputs have the same path.
    :raises OSError: If a path cannot be written. The message says what to do.
    """
    outputs = [path for path in paths if path is not None]
    for path in outputs:
        if outputs.count(path) > 1:
            raise ValueError(f"{path}: two outputs have this path. Name another file for one of them.")
        if path.is_dir():
            raise IsADirectoryError(f"{path}: it is a folder. Name a file.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: it already exists. Name another file, or pass --overwrite to replace it.")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{path}: {nearest} is a file, not a folder. Name a path in a folder.")
        if not os.access(nearest, os.W_OK):
            raise PermissionError(f"{path}: no permission to write to {nearest}. Name a path in another folder.")
