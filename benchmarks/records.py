"""Records: small committed JSON files with the results of a command, from which the pages are written."""

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
    """Write a record, one line for each entry. Missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def save_if_new(path: Path, record: dict[str, Any]) -> bool:
    """
    Write a record, unless the existing record describes a file with the same checksum.

    The working tree therefore stays clean if a file that is made again is equal to the recorded one.

    :param path: Path of the record.
    :param record: The record, with the file's ``sha256``.
    :return: Whether the record was written.
    """
    if path.exists() and load(path)["sha256"] == record["sha256"]:
        return False
    save(path, record)
    return True


def load(path: Path) -> dict[str, Any]:
    """Read a record that :func:`save` wrote."""
    return json.loads(path.read_text())


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(task: dsrl.Task | None = None, *others: str) -> dict[str, str]:
    """
    Get the versions of Python and of the packages that influence the results.

    :param task: A task, whose simulator is added to the packages.
    :param others: Further packages.
    :return: The version of each package by name.
    """
    packages = (*_PACKAGES, *others) if task is None else (*_PACKAGES, task.suite, *others)
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def processor() -> str:
    """Get the name of the processor and its number of cores."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def cpu_seconds() -> float:
    """
    Get the CPU time that this process and its finished child processes have used so far, in seconds of one core.

    With one thread on an idle machine it equals the wall-clock time. On a busy machine it still measures the work.
    """
    return sum(os.times()[:4])


def today() -> str:
    """Get the date, in the form 2026-11-21."""
    return datetime.date.today().isoformat()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
