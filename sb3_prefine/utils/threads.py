"""As many threads as there is work for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

# Multiplications and additions of an update from which on more than one thread pays. Below, other processes on the same
# cores make two threads many times slower than one, and idle cores at best a quarter faster (benchmarks/speed.md).
_WORTH_SHARING = 1e9


@contextmanager
def threads_for(forward: Callable[[], object], n_states: int) -> Iterator[None]:
    """
    One thread where an update is little work; otherwise as many as torch is set to.

    The choice depends on the work alone, not on how busy the machine is: with other threads the sums of floats are
    others in their last bits, and the same seed would not give the same weights.

    :param forward: puts one state through the network
    :param n_states: in an update
    """
    # The way back takes twice as much as the way forward.
    if torch.get_num_threads() == 1 or 3.0 * n_states * count_flops(forward) >= _WORTH_SHARING:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, whatever torch is set to."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@torch.no_grad()
def count_flops(function: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
