"""Run jobs in this process, on the cores of this machine, or on a cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from joblib import Parallel, delayed

from benchmarks.paths import HERE

Executor = Literal["in-process", "joblib", "ray"]


def run_all(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], executor: Executor, n_jobs: int
) -> Iterator[Any]:
    """
    Call a function once for each job.

    :param function: A function that other processes can import.
    :param jobs: Arguments of each call.
    :param executor: ``"in-process"``; ``"joblib"`` for processes of this machine; or ``"ray"`` for the cluster at
        ``RAY_ADDRESS``, by default the cores of this machine. The machines of a cluster need the same folders.
    :param n_jobs: Number of joblib's processes.
    :return: Iterator over the returned values, in the order in which the calls finish.
    """
    if executor == "ray":
        return _on_ray(function, jobs)
    if executor == "joblib":
        return Parallel(n_jobs=n_jobs, return_as="generator_unordered")(delayed(function)(*job) for job in jobs)
    return (function(*job) for job in jobs)


def _on_ray(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    # Ray takes seconds to import, and only this executor needs it.
    import ray

    if not ray.is_initialized():
        path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(function)
    waiting = [remote.remote(*job) for job in jobs]
    while waiting:
        [done], waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(done)
