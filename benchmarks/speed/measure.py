"""
Measure the speed of PREFINE, against the minimum that its network needs and against Algorithm 1 as written.

    python -m benchmarks speed step            # one gradient step of three policy families
    python -m benchmarks speed whole           # many steps, from which the paper's 500,000 are extrapolated
    python -m benchmarks speed safe            # time from learn() to a safe policy, for three checkpoints of RL Zoo
    python -m benchmarks speed population      # many runs at once
    python -m benchmarks speed growth          # growth with batch size, width, data and number of runs
    python -m benchmarks speed threads         # one and two threads, on idle and on busy cores
    python -m benchmarks speed rollout         # evaluate_policy and collect, against the environment alone
    python -m benchmarks speed size FOLDER     # data beyond memory, and imports; writes 17 GB to FOLDER

Each command writes benchmarks/results/speed/NAME.json; `speed-page` writes speed.md and its figure from these records.
Contenders are measured in turn, a few steps at a time, so that other load on the machine affects all of them equally.
`safe` and `rollout` need RL_TRAINED_AGENTS, the folder of rl-trained-agents.
"""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from tqdm.auto import tqdm

from benchmarks import records
from benchmarks.paths import RESULTS
from benchmarks.speed import large_data, rollouts
from benchmarks.speed.contenders import (
    Family,
    Loop,
    Workload,
    compiled_loop,
    floor_loop,
    make_prefine,
    plain_loop,
    prefine_loop,
)
from benchmarks.speed.time_to_safe import measure_time_to_safe
from benchmarks.speed.timing import Timing, measure
from sb3_prefine.population.population import Population

RESULTS = RESULTS / "speed"
FAMILIES: tuple[Family, ...] = ("gaussian", "squashed", "categorical")
# The sizes of `growth`, which vary one at a time.
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048)
WIDTHS = (64, 128, 256, 512, 1024)
# Preferred and dispreferred episodes of 1,000 transitions.
EPISODES = ((8, 2), (33, 7), (83, 17), (333, 67), (833, 167))
RUNS = (1, 2, 4, 8)
# Environments and policies of `rollout`.
ROLLOUTS = (
    ("SafetyHalfCheetahVelocity-v1", "ppo/HalfCheetah-v3"),
    ("SpeedLimitHalfCheetah-v0", "PPO"),
    ("SpeedLimitHalfCheetah-v0", "SAC"),
    ("SafetyBallRun-v0", "PPO"),
)
THREAD_WORKLOADS = {
    "64 units": Workload(widths=(64, 64)),
    "256 units": Workload(),
    "1,024 units": Workload(widths=(1024, 1024)),
}
REFERENCES = ("ppo/HalfCheetah-v3", "sac/HalfCheetah-v3", "a2c/HalfCheetah-v3")
# For populations: so small that the number of operations, not their size, determines the time.
SMALL = Workload(widths=(64, 64), batch_size=64)


def step(
    steps: int = 100, rounds: int = 20, device: str = "cpu", with_compile: bool = True, results: Path = RESULTS
) -> None:
    """
    Measure one gradient step of three policy families.

    :param steps: Steps of each training loop in a round.
    :param rounds: Number of rounds for each family.
    :param device: ``cpu`` or ``cuda``.
    :param with_compile: Whether to measure ``torch.compile`` too, which needs a C++ compiler and half a minute.
    :param results: Folder for the record.
    """
    torch.set_num_threads(1)
    families = {}
    for family in FAMILIES:
        workload = Workload(family=family, device=device)
        contenders = {"floor": floor_loop(workload), "learn": prefine_loop(workload), "plain": plain_loop(workload)}
        if with_compile and family == "gaussian":
            contenders["compiled"] = compiled_loop(workload)
        timing = measure(contenders, steps, rounds, family)
        pairs = [("learn", "floor"), ("plain", "learn"), ("plain", "floor")]
        pairs += [("compiled", "learn")] if "compiled" in contenders else []
        families[family] = _summary(timing, pairs)
    _save("step", {"families": families, "steps": steps, "rounds": rounds}, device, results)


def whole(updates: int = 20_000, device: str = "cpu", results: Path = RESULTS) -> None:
    """
    Measure one call of ``learn``.

    :param updates: Gradient steps.
    :param device: ``cpu`` or ``cuda``.
    :param results: Folder for the record.
    """
    torch.set_num_threads(1)
    run = prefine_loop(Workload(device=device))
    run(100)
    started, cpu_started = time.perf_counter(), time.process_time()
    run(updates)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    record = {"updates": updates, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}
    _save("whole", record, device, results)


def safe(seeds: int = 5, episodes: int = 20, results: Path = RESULTS) -> None:
    """
    Measure the time from ``learn`` to a safe policy.

    :param seeds: Runs of each checkpoint.
    :param episodes: Episodes of each evaluation.
    :param results: Folder for the record.
    """
    torch.set_num_threads(1)
    _save("safe", measure_time_to_safe(seeds, episodes), "cpu", results)


def population(runs: int = 8, steps: int = 20, rounds: int = 15, device: str = "cpu", results: Path = RESULTS) -> None:
    """
    Measure runs that are trained at once, against the same runs one after the other.

    :param runs: Number of runs.
    :param steps: Steps of each run in a round.
    :param rounds: Number of rounds.
    :param device: ``cpu`` or ``cuda``.
    :param results: Folder for the record.
    """
    torch.set_num_threads(1)
    found = {}
    for name, workload in (("256 units", Workload(device=device)), ("64 units", replace(SMALL, device=device))):
        timing = measure(
            {"population": _population_loop(workload, runs), "singles": _single_runs_loop(workload, runs)},
            *(steps, rounds, f"{runs} runs, {name}"),
        )
        found[name] = _summary(timing, [("population", "singles")])
    _save("population", {"runs": runs, "workloads": found, "steps": steps, "rounds": rounds}, device, results)


def growth(steps: int = 10, rounds: int = 15, device: str = "cpu", results: Path = RESULTS) -> None:
    """
    Measure how the time of a step grows with batch size, width, data and number of runs.

    :param steps: Steps of each size in a round.
    :param rounds: Number of rounds.
    :param device: ``cpu`` or ``cuda``.
    :param results: Folder for the record.
    """
    torch.set_num_threads(1)
    workloads = {
        "batch size": {n: Workload(batch_size=n, device=device) for n in BATCH_SIZES},
        "width": {n: Workload(widths=(n, n), device=device) for n in WIDTHS},
        "transitions": {1_000 * sum(n): Workload(episodes=n, device=device) for n in EPISODES},
    }
    axes = {
        name: {str(n): prefine_loop(workload) for n, workload in points.items()} for name, points in workloads.items()
    }
    axes["runs"] = {str(n): _population_loop(replace(SMALL, device=device), n) for n in RUNS}
    found = {name: _summary(measure(points, steps, rounds, name), [])["ms"] for name, points in axes.items()}
    _save("growth", {"ms": found, "steps": steps, "rounds": rounds}, device, results)


def threads(steps: int = 10, rounds: int = 15, results: Path = RESULTS) -> None:
    """
    Measure one and two threads on idle and on busy cores.

    :param steps: Steps of each training loop in a round.
    :param rounds: Number of rounds.
    :param results: Folder for the record.
    """
    found = {}
    for name, workload in THREAD_WORKLOADS.items():
        runs = {"floor": floor_loop(workload), "learn": prefine_loop(workload)}
        contenders = {f"{kind} {n}": _with_threads(run, n) for kind, run in runs.items() for n in (1, 2)}
        idle = measure(contenders, steps, rounds, f"{name}, idle")
        with _busy_cores():
            busy = measure(contenders, steps, rounds, f"{name}, busy")
        pairs = [(f"{kind} 2", f"{kind} 1") for kind in runs]
        found[name] = {"idle": _summary(idle, pairs), "busy": _summary(busy, pairs)}
    _save("threads", {"workloads": found, "steps": steps, "rounds": rounds}, "cpu", results)


def rollout(rounds: int = 3, results: Path = RESULTS) -> None:
    """
    Measure ``evaluate_policy`` and ``collect`` against the environment alone.

    :param rounds: Number of rounds.
    :param results: Folder for the record.
    """
    runs = [asdict(rollouts.measure(*what, rounds=rounds)) for what in ROLLOUTS]
    _save("rollout", {"runs": runs, "rounds": rounds}, "cpu", results)


def size(
    folder: tyro.conf.Positional[Path],
    n_transitions: int = 100_000_000,
    references: tuple[str, ...] = REFERENCES,
    results: Path = RESULTS,
) -> None:
    """
    Measure training on data beyond memory, and the time of imports.

    :param folder: Folder for the files of random data, which are kept.
    :param n_transitions: Transitions on disk.
    :param references: Checkpoints to open.
    :param results: Folder for the record.
    """
    _save("size", large_data.measure(folder, n_transitions, references=references), "cpu", results)


def _population_loop(workload: Workload, runs: int) -> Loop:
    preferences = workload.make_preferences()
    models = Population([make_prefine(workload, preferences, seed) for seed in range(runs)])

    def run(n: int) -> None:
        models.learn(n, reset_num_timesteps=False)

    return run


def _single_runs_loop(workload: Workload, runs: int) -> Loop:
    preferences = workload.make_preferences()
    models = [make_prefine(workload, preferences, seed) for seed in range(runs)]

    def run(n: int) -> None:
        for model in models:
            model.learn(n, reset_num_timesteps=False)

    return run


def _with_threads(run: Loop, n_threads: int) -> Loop:
    def run_with(n: int) -> None:
        torch.set_num_threads(n_threads)
        run(n)

    return run_with


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep every core busy with another process."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_compute, daemon=True) for _ in range(multiprocessing.cpu_count())]
    for process in processes:
        process.start()
    try:
        time.sleep(3.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def _summary(timing: Timing, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Summarise wall-clock times: milliseconds per step, and ratios with their 95% intervals."""
    return {
        "ms": {name: round(1e3 * timing.median(name), 4) for name in timing.names},
        "ratios": {f"{name} / {base}": [round(x, 3) for x in timing.ratio(name, base)] for name, base in pairs},
    }


def _save(name: str, record: dict[str, Any], device: str, results: Path) -> None:
    path = results / (f"{name}.json" if device == "cpu" else f"{name}-{device}.json")
    about = {
        # The record does not name folders of this machine.
        "command": " ".join(
            ["python -m benchmarks", *("FOLDER" if Path(a).is_absolute() else a for a in sys.argv[1:])]
        ),
        "device": records.processor() if device == "cpu" else torch.cuda.get_device_name(),
        "versions": records.versions(),
        "date": records.today(),
    }
    records.save(path, {**record, **about})
    tqdm.write(f"Wrote {path}.")


COMMANDS = {f.__name__: f for f in (step, whole, safe, population, growth, threads, rollout, size)}
