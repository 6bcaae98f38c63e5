"""
Data beyond memory, and what importing and opening cost (``speed size``).

Made-up data of HalfCheetah's sizes (17 numbers observed, 6 acted) are written to one HDF5 file, 170 bytes a transition,
unless it is there. PREFINE trains on the file (``mmap=True``) and, in turn with it, on the first of its transitions in
memory. Measured: updates a second of both, the memory in use meanwhile, bytes a transition of data in memory,
and what ``import sb3_prefine`` and ``load_reference`` cost.

On a busy machine the CPU seconds say more than those on the clock, which have the waiting in them: for the disk too.
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
from sb3_prefine.utils.files import replacing

OBSERVATIONS, ACTIONS, EPISODE = 17, 6, 1000
DEMO = Path(sb3_prefine.__file__).parent / "demo_data"
# PPO for HalfCheetah, behind a normaliser.
REFERENCE = DEMO / "reference.zip"
# Transitions that are made at once.
_AT_ONCE = 200 * EPISODE

T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """
    MiB of a process.

    :param anonymous: what it has to itself (RssAnon)
    :param file: of files that it maps (RssFile); the system takes it back when it needs the room
    """

    anonymous: float
    file: float


@dataclass(frozen=True)
class Training:
    """
    :param n_transitions: on disk
    :param n_in_memory: in memory
    :param file_bytes: of the HDF5 file
    :param open_seconds: on the clock: mapping the file and checking every number in it
    :param warm_up_seconds: on the clock: until the first update
    :param updates_per_second: on the clock, of both
    :param updates_per_cpu_second: of both
    :param ratio: of the stream's speed to that of data in memory, on the clock; the median of the rounds
    :param cpu_ratio: the same by CPU seconds
    :param before: memory before the file is opened
    :param opening: the most while it is opened
    :param streaming: the most while PREFINE trains on it alone, the warm-up included
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
    Bytes a transition in memory.

    :param raw: of its numbers
    :param buffer: by which a process grows with a file read into a PreferenceBuffer
    :param buffer_peak: the most while it is read and checked
    :param training: by which it grows with the tables that training reads as well: observations as the network sees
        them, actions, and the parameters of the reference's distribution
    :param training_peak: the most while these are made
    :param ratio: buffer / raw
    """

    raw: float
    buffer: float
    buffer_peak: float
    training: float
    training_peak: float
    ratio: float


@dataclass(frozen=True)
class Cost:
    """
    Of something a new process does; medians.

    :param cpu_seconds: user and system
    :param seconds: on the clock
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
    :param folder: where to put the files of made-up data
    :param n_transitions: on disk
    :param n_in_memory: of the data in memory
    :param updates: of each round
    :param rounds: how often to do each thing, in turn with what it is compared with
    :param references: checkpoints to open
    """
    large, small = (make_file(folder / f"made_up_{n}.hdf5", n) for n in (n_transitions, n_in_memory))
    imports = measure_imports(rounds)
    return {
        "imports": {package: asdict(cost) for package, cost in imports.items()},
        "import_ratio": imports["sb3_prefine"].cpu_seconds / imports["stable_baselines3"].cpu_seconds,
        "load_reference": {name: asdict(measure_load_reference(name, rounds)) for name in references},
        "buffer": asdict(_in_a_new_process(partial(measure_buffer, small))),
        "training": asdict(_in_a_new_process(partial(measure_training, large, n_in_memory, updates, rounds))),
    }


def make_file(path: Path, n_transitions: int, seed: int = 0) -> Path:
    """
    Write episodes of 1,000 transitions of random numbers, uncompressed; nothing if the file is there.

    :raises OSError: there is too little room for it
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes = {"observations": (OBSERVATIONS,), "next_observations": (OBSERVATIONS,), "actions": (ACTIONS,)}
    needed, free = n_transitions * 170, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.")
    with replacing(path) as target, h5py.File(target, "w") as file:
        for name in ("observations", "next_observations", "actions", "rewards", "costs"):
            file.create_dataset(name, (n_transitions, *shapes.get(name, ())), np.float32)
        for name in ("terminals", "timeouts"):
            file.create_dataset(name, (n_transitions,), bool)
        for start in range(0, n_transitions, _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, n_transitions))
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
    """Train on a file and on its first transitions in memory, in turn."""
    torch.set_num_threads(1)
    reference = _ready()
    before = memory()
    start = time.perf_counter()
    with watched() as opening:
        on_disk = Trajectories.from_hdf5(path, mmap=True)
    open_seconds = time.perf_counter() - start
    _drop_cache(path)
    with watched() as streaming:
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
        opening=_most(opening),
        streaming=_most(streaming),
    )


def measure_buffer(path: Path) -> Buffer:
    """Read a file into a PreferenceBuffer, and train on it."""
    torch.set_num_threads(1)
    reference = _ready()
    before = memory().anonymous
    with watched() as reading:
        trajectories = Trajectories.from_hdf5(path)
        half = len(trajectories) // 2
        buffer = PreferenceBuffer(trajectories[:half], trajectories[half:])
    held = memory().anonymous
    with watched() as training:
        model = PREFINE(reference, buffer, device="cpu").learn(1)
    trained = memory().anonymous
    columns = (getattr(trajectories, name) for name in ("observations", "next_observations", "actions", "rewards"))
    raw = sum(column.nbytes for column in (*columns, trajectories.costs, trajectories.terminals, trajectories.timeouts))
    n = trajectories.n_transitions
    assert model.num_timesteps == 1

    def bytes_each(mib: float) -> float:
        return (mib - before) * 2**20 / n

    return Buffer(
        raw=raw / n,
        buffer=bytes_each(held),
        buffer_peak=bytes_each(_most(reading).anonymous),
        training=bytes_each(trained),
        training_peak=bytes_each(_most(training).anonymous),
        ratio=bytes_each(held) / (raw / n),
    )


def measure_imports(rounds: int) -> dict[str, Cost]:
    """Import Stable-Baselines3 and this package in new processes, in turn."""
    packages = ("stable_baselines3", "sb3_prefine")
    costs: dict[str, list[tuple[float, float]]] = {package: [] for package in packages}
    # The first round compiles, and reads from the disk.
    for number in range(rounds + 1):
        for package in packages:
            start, cpu = time.perf_counter(), records.cpu_seconds()
            subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
            if number:
                costs[package].append((records.cpu_seconds() - cpu, time.perf_counter() - start))
    return {package: Cost(*map(statistics.median, zip(*times, strict=True))) for package, times in costs.items()}


def measure_load_reference(source: str, rounds: int) -> Cost:
    """Open a checkpoint, as the first thing that a process does after its imports."""
    program = (
        "import sys, time; from sb3_prefine import load_reference;"
        "cpu, start = time.process_time(), time.perf_counter(); load_reference(sys.argv[1]);"
        "print(time.process_time() - cpu, time.perf_counter() - start)"
    )
    times = []
    for _ in range(rounds):
        found = subprocess.run([sys.executable, "-c", program, source], check=True, capture_output=True, text=True)
        times.append(tuple(map(float, found.stdout.split())))
    return Cost(*map(statistics.median, zip(*times, strict=True)))


def memory() -> Memory:
    """What this process holds now."""
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    return Memory(*(int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")))


@contextlib.contextmanager
def watched() -> Iterator[list[Memory]]:
    """What this process holds, every 20 ms and at the end."""
    samples, done = [memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            samples.append(memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(memory())


def _most(samples: list[Memory]) -> Memory:
    return Memory(max(sample.anonymous for sample in samples), max(sample.file for sample in samples))


def _ready() -> Reference:
    """The reference, in a process that has imported what training imports."""
    reference = load_reference(REFERENCE)
    good, bad = (Trajectories.from_hdf5(DEMO / f"{name}.hdf5") for name in ("preferred", "dispreferred"))
    few = PreferenceBuffer(good, bad)
    PREFINE(reference, few, device="cpu").learn(2)
    return reference


def _trainer(reference: Reference, trajectories: Trajectories) -> Callable[[int], None]:
    """Makes so many updates; the first half of the episodes is preferred."""
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
    """Seconds on the clock, CPU seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - start, time.process_time() - cpu


def _drop_cache(path: Path) -> None:
    """Let the system forget what it has read of a file, so that the disk has to be asked."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _in_a_new_process(measure: Callable[[], T]) -> T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure).result()
