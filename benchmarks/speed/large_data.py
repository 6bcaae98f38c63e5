"""
Measure training on data beyond memory, and the time of imports and of opening checkpoints (``speed size``).

Random data of HalfCheetah's sizes (17 observations, 6 actions) are written to one HDF5 file with 170 bytes per
transition, unless it exists. PREFINE trains on the file (``mmap=True``) and, in turn, on its first transitions in
memory. The command measures the updates per second of both, the memory that training uses, the bytes per transition of
data in memory, and the time of ``import sb3_prefine`` and ``load_reference``.

On a busy machine CPU times are more reliable than wall-clock times, which include waiting, also for the disk.
"""

import contextlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch

import sb3_prefine
from benchmarks import records
from sb3_prefine import PREFINE, PreferenceBuffer, Reference, Trajectories, load_reference
from sb3_prefine.utils.files import open_atomically

OBSERVATIONS, ACTIONS, EPISODE = 17, 6, 1000
DEMO = Path(sb3_prefine.__file__).parent / "cli" / "demo_data"
# A PPO for HalfCheetah with a normaliser.
REFERENCE = DEMO / "reference.zip"
# Transitions that are generated and written at once.
_ROWS_PER_WRITE = 200 * EPISODE

T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """
    Memory of a process in MiB.

    :param anonymous: Memory of the process itself (RssAnon).
    :param file: Mapped files (RssFile), which the system can reclaim.
    """

    anonymous: float
    file: float


@dataclass(frozen=True)
class Training:
    """
    Training on data on disk and in memory.

    :param n_transitions: Transitions on disk.
    :param n_in_memory: Transitions in memory.
    :param file_bytes: Size of the HDF5 file.
    :param open_seconds: Wall-clock time of mapping the file and checking every number in it.
    :param warm_up_seconds: Wall-clock time until the first update.
    :param updates_per_second: Updates per wall-clock second, on disk and in memory.
    :param updates_per_cpu_second: Updates per CPU second, on disk and in memory.
    :param ratio: Speed on disk divided by the speed in memory, by wall-clock time; the median of the rounds.
    :param cpu_ratio: The same ratio by CPU time.
    :param before: Memory before the file is opened.
    :param opening: Peak memory while the file is opened.
    :param streaming: Peak memory while PREFINE trains on the file only, including the warm-up.
    """

    n_transitions: int
    n_in_memory: int
    file_bytes: int
    open_seconds: float
    warm_up_seconds: float
    updates_per_second: dict[str, float]
    updates_per_cpu_second: dict[str, float]
    ratio: float
    cpu_ratio: float
    before: Memory
    opening: Memory
    streaming: Memory


@dataclass(frozen=True)
class Buffer:
    """
    Bytes per transition in memory.

    :param raw: Size of the numbers.
    :param buffer: Growth of a process that reads a file into a PreferenceBuffer.
    :param buffer_peak: Peak growth while the file is read and checked.
    :param training: Growth with the tables that training reads too: the network's inputs, actions, and the parameters
        of the reference's distribution.
    :param training_peak: Peak growth while these tables are made.
    :param ratio: ``buffer / raw``.
    """

    raw: float
    buffer: float
    buffer_peak: float
    training: float
    training_peak: float
    ratio: float


@dataclass(frozen=True)
class Duration:
    """
    Median time of an operation in a new process.

    :param cpu_seconds: CPU time of user and system.
    :param seconds: Wall-clock time.
    """

    cpu_seconds: float
    seconds: float


def measure(
    folder: Path,
    n_transitions: int,
    n_in_memory: int = 1_000_000,
    updates: int = 500,
    rounds: int = 7,
    references: tuple[str, ...] = (),
) -> dict[str, Any]:
    """
    Measure everything.

    :param folder: Folder for the files of random data.
    :param n_transitions: Transitions on disk.
    :param n_in_memory: Transitions in memory.
    :param updates: Updates of each round.
    :param rounds: Number of rounds, in which the contenders take turns.
    :param references: Checkpoints to open.
    :return: The record.
    """
    large, small = (make_file(folder / f"made_up_{n}.hdf5", n) for n in (n_transitions, n_in_memory))
    imports = measure_imports(rounds)
    return {
        "imports": {package: asdict(cost) for package, cost in imports.items()},
        "import_ratio": imports["sb3_prefine"].cpu_seconds / imports["stable_baselines3"].cpu_seconds,
        "load_reference": {name: asdict(measure_load_reference(name, rounds)) for name in references},
        "buffer": asdict(_in_new_process(partial(measure_buffer, small))),
        "training": asdict(_in_new_process(partial(measure_training, large, n_in_memory, updates, rounds))),
    }


def make_file(path: Path, n_transitions: int, seed: int = 0) -> Path:
    """
    Write episodes of 1,000 random transitions, uncompressed, unless the file exists.

    :param path: Path of the file.
    :param n_transitions: Number of transitions.
    :param seed: Seed of the random numbers.
    :return: The path.
    :raises OSError: If the disk has too little free space.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes = {"observations": (OBSERVATIONS,), "next_observations": (OBSERVATIONS,), "actions": (ACTIONS,)}
    needed, free = n_transitions * 170, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.")
    with open_atomically(path) as target, h5py.File(target, "w") as file:
        for name in ("observations", "next_observations", "actions", "rewards", "costs"):
            file.create_dataset(name, (n_transitions, *shapes.get(name, ())), np.float32)
        for name in ("terminals", "timeouts"):
            file.create_dataset(name, (n_transitions,), bool)
        for start in range(0, n_transitions, _ROWS_PER_WRITE):
            rows = slice(start, min(start + _ROWS_PER_WRITE, n_transitions))
            n, numbers = rows.stop - start, np.arange(start + 1, rows.stop + 1)
            observations = rng.standard_normal((n + 1, OBSERVATIONS), np.float32)
            file["observations"][rows] = observations[:-1]
            file["next_observations"][rows] = observations[1:]
            file["actions"][rows] = 2 * rng.random((n, ACTIONS), np.float32) - 1
            file["rewards"][rows] = rng.random(n, np.float32)
            file["costs"][rows] = rng.random(n, np.float32) < 0.05
            file["terminals"][rows] = np.zeros(n, bool)
            file["timeouts"][rows] = (numbers % EPISODE == 0) | (numbers == n_transitions)
    return path


def measure_training(path: Path, n_in_memory: int, updates: int, rounds: int) -> Training:
    """Train on a file and, in turn, on its first transitions in memory."""
    torch.set_num_threads(1)
    reference = _load_warm_reference()
    before = current_memory()
    start = time.perf_counter()
    with sample_memory() as opening:
        on_disk = Trajectories.from_hdf5(path, mmap=True)
    open_seconds = time.perf_counter() - start
    _drop_page_cache(path)
    with sample_memory() as streaming:
        start = time.perf_counter()
        disk = _trainer(reference, on_disk)
        disk(1)
        warm_up_seconds = time.perf_counter() - start
        disk(updates)
    trainers = {"disk": disk, "memory": _trainer(reference, _in_memory(on_disk[: max(2, n_in_memory // EPISODE)]))}
    trainers["memory"](updates)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, train in trainers.items():
            seconds[name].append(_timed(partial(train, updates)))
    clock, cpu = ({name: np.array(times)[:, kind] for name, times in seconds.items()} for kind in (0, 1))
    return Training(
        n_transitions=on_disk.n_transitions,
        n_in_memory=n_in_memory,
        file_bytes=path.stat().st_size,
        open_seconds=open_seconds,
        warm_up_seconds=warm_up_seconds,
        updates_per_second={name: updates / float(np.median(times)) for name, times in clock.items()},
        updates_per_cpu_second={name: updates / float(np.median(times)) for name, times in cpu.items()},
        ratio=float(np.median(clock["memory"] / clock["disk"])),
        cpu_ratio=float(np.median(cpu["memory"] / cpu["disk"])),
        before=before,
        opening=_peak(opening),
        streaming=_peak(streaming),
    )


def measure_buffer(path: Path) -> Buffer:
    """Read a file into a PreferenceBuffer, and train on it."""
    torch.set_num_threads(1)
    reference = _load_warm_reference()
    before = current_memory().anonymous
    with sample_memory() as reading:
        trajectories = Trajectories.from_hdf5(path)
        half = len(trajectories) // 2
        buffer = PreferenceBuffer(trajectories[:half], trajectories[half:])
    held = current_memory().anonymous
    with sample_memory() as training:
        model = PREFINE(reference, buffer, device="cpu").learn(1)
    trained = current_memory().anonymous
    columns = (getattr(trajectories, name) for name in ("observations", "next_observations", "actions", "rewards"))
    raw = sum(column.nbytes for column in (*columns, trajectories.costs, trajectories.terminals, trajectories.timeouts))
    n = trajectories.n_transitions
    assert model.num_timesteps == 1

    def bytes_each(mib: float) -> float:
        return (mib - before) * 2**20 / n

    return Buffer(
        raw=raw / n,
        buffer=bytes_each(held),
        buffer_peak=bytes_each(_peak(reading).anonymous),
        training=bytes_each(trained),
        training_peak=bytes_each(_peak(training).anonymous),
        ratio=bytes_each(held) / (raw / n),
    )


def measure_imports(rounds: int) -> dict[str, Duration]:
    """Import Stable-Baselines3 and this package in new processes, in turn."""
    packages = ("stable_baselines3", "sb3_prefine")
    costs: dict[str, list[tuple[float, float]]] = {package: [] for package in packages}
    # The first round compiles byte code and reads from the disk, and does not count.
    for number in range(rounds + 1):
        for package in packages:
            start, cpu = time.perf_counter(), records.cpu_seconds()
            subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
            if number:
                costs[package].append((records.cpu_seconds() - cpu, time.perf_counter() - start))
    return {package: Duration(*map(statistics.median, zip(*times, strict=True))) for package, times in costs.items()}


def measure_load_reference(source: str, rounds: int) -> Duration:
    """Open a checkpoint in a new process, directly after its imports."""
    program = (
        "import sys, time; from sb3_prefine import load_reference;"
        "cpu, start = time.process_time(), time.perf_counter(); load_reference(sys.argv[1]);"
        "print(time.process_time() - cpu, time.perf_counter() - start)"
    )
    times = []
    for _ in range(rounds):
        found = subprocess.run([sys.executable, "-c", program, source], check=True, capture_output=True, text=True)
        times.append(tuple(map(float, found.stdout.split())))
    return Duration(*map(statistics.median, zip(*times, strict=True)))


def current_memory() -> Memory:
    """Get the memory of this process."""
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    return Memory(*(int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")))


@contextlib.contextmanager
def sample_memory() -> Iterator[list[Memory]]:
    """Sample the memory of this process every 20 ms, and at the end."""
    samples, done = [current_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            samples.append(current_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(current_memory())


def _peak(samples: list[Memory]) -> Memory:
    return Memory(max(sample.anonymous for sample in samples), max(sample.file for sample in samples))


def _load_warm_reference() -> Reference:
    """Load the reference after a first training, so that all imports of training are done."""
    reference = load_reference(REFERENCE)
    preferred, dispreferred = (Trajectories.from_hdf5(DEMO / f"{name}.hdf5") for name in ("preferred", "dispreferred"))
    preferences = PreferenceBuffer(preferred, dispreferred)
    PREFINE(reference, preferences, device="cpu").learn(2)
    return reference


def _trainer(reference: Reference, trajectories: Trajectories) -> Callable[[int], None]:
    """Make a function that makes a number of updates. The first half of the episodes is preferred."""
    half = len(trajectories) // 2
    buffer = PreferenceBuffer(trajectories[:half], trajectories[half:])
    model = PREFINE(reference, buffer, seed=0, device="cpu")
    batches = model.batches()

    def train(updates: int) -> None:
        for _ in range(updates):
            model.train(next(batches))

    return train


def _in_memory(mapped: Trajectories) -> Trajectories:
    names = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    return Trajectories(**{name: np.array(getattr(mapped, name)) for name in names})


def _timed(do: Callable[[], None]) -> tuple[float, float]:
    """Measure the wall-clock and CPU seconds of a call."""
    start, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - start, time.process_time() - cpu


def _drop_page_cache(path: Path) -> None:
    """Drop a file from the system's page cache, so that it is read from the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _in_new_process(measure: Callable[[], T]) -> T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure).result()
