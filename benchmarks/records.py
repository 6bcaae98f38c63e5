"""What a command made, from what and in which time: small JSON files, committed, of which the pages are written."""

import datetime
import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sb3_prefine import dsrl
from sb3_prefine.utils.files import write_atomically

_PACKAGES = ("sb3-prefine", "stable-baselines3", "torch", "numpy", "gymnasium", "mujoco", "pybullet")


def save(path: Path, record: dict[str, Any]) -> None:
    """Write a record, one line for each of its entries. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def save_if_new(path: Path, record: dict[str, Any]) -> bool:
    """
    Write a record, unless the one that is there is of a file with the same checksum.

    So whoever makes a committed file again sees that it is the same, and his working tree stays clean.

    :param path: of the record
    :param record: with the file's ``sha256``
    :return: whether it was written
    """
    if path.exists() and load(path)["sha256"] == record["sha256"]:
        return False
    save(path, record)
    return True


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote."""
    return json.loads(path.read_text())


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(task: dsrl.Task | None = None, *others: str) -> dict[str, str]:
    """
    Of Python and of the packages that have a part in the numbers.

    :param task: whose simulator is one of them
    :param others: further packages
    """
    packages = (*_PACKAGES, *others) if task is None else (*_PACKAGES, task.suite, *others)
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def processor() -> str:
    """What computes, and how many cores of it there are."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def cpu_seconds() -> float:
    """
    What this process, and those of its own that have ended, have computed so far, in seconds of one core.

    On an idle machine and with one thread it is the time on the clock; on a busy one it still says what the work takes.
    """
    return sum(os.times()[:4])


def today() -> str:
    """The date, as 2026-11-21."""
    return datetime.date.today().isoformat()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
