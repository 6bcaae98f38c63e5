"""Atomic writes: a failure never replaces a good file with half of another one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """
    Write a whole file, or nothing.

    :param path: The path of the file. An existing file is replaced.
    :param content: The bytes to write.
    :raises OSError: If the file cannot be written. An existing file then stays as it was.
    """
    with open_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """
    Open a temporary file that becomes ``path`` at the end of the ``with`` block, or is deleted after an exception.

    :param path: The path of the final file. An existing file is replaced.
    :return: The temporary file in the same folder, open for reading and writing.
    :raises OSError: If the file cannot be written. An existing file then stays as it was.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates files that only their owner may read. Give the file the permissions that the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def with_zip_suffix(path: str | Path) -> Path:
    """
    Add ``.zip`` to a path without suffix, as SB3 does.

    :param path: The path that the user gave.
    :return: The path that SB3 would write.
    """
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + ".zip")
