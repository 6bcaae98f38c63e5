"""One thread for small networks, all threads for large ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

# Floating-point operations of an update from which several threads pay off. Below this, two threads are at best a
# quarter faster on idle cores, and many times slower if other processes use the same cores (benchmarks/speed.md).
_MIN_FLOPS_FOR_THREADS = 1e9


@contextmanager
def limit_threads(forward: Callable[[], object], n_states: int) -> Iterator[None]:
    """
    Use one thread for small updates, and torch's current number of threads for large ones.

    The choice depends on the work only, never on the load of the machine: the number of threads changes the last bits
    of sums of floats, so the same seed would give different weights.

    :param forward: Function that puts one state through the network.
    :param n_states: Number of states in an update.
    """
    # The backward pass costs about twice the forward pass.
    if torch.get_num_threads() == 1 or 3.0 * n_states * count_flops(forward) >= _MIN_FLOPS_FOR_THREADS:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread of torch inside the ``with`` block."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@torch.no_grad()
def count_flops(function: Callable[[], object]) -> int:
    """
    Count the floating-point operations of a call.

    :param function: The function to call.
    :return: Number of multiplications and additions in its matrix products and convolutions.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
