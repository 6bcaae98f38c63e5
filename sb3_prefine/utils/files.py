"""Writing files so that a good one is never replaced by half of another."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """
    Write a file whole or not at all.

    :raises OSError: it cannot be written; what stood at ``path`` before is untouched
    """
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """
    A temporary file of the same folder, open to be written and read. At the end of the ``with`` it becomes ``path``;
    after an exception it is gone.

    :raises OSError: it cannot be written; what stood at ``path`` before is untouched
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; a saved model gets what the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def with_zip_suffix(path: str | Path) -> Path:
    """The path as SB3 would write it: with ``.zip`` if it has no suffix."""
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + ".zip")
