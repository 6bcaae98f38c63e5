"""An isolated global random state: code that draws random numbers does not change those of the caller."""

import random
from typing import Any

import numpy as np
import torch


class IsolatedRandomState:
    """
    Context manager in which the global generators of torch, numpy and random have their own, seeded states.

    The states persist between entries: the second ``with`` block continues where the first one stopped. The caller's
    states are restored at the end of each block.

    ``torch.random.fork_rng`` does not suffice: its block starts from the caller's state, and it covers torch only.
    Environments (Bullet) and policies (DQN's exploration) also draw from numpy and random. CUDA's generators are
    included if CUDA is initialized when the object is made.

    :param seed: Seed of the isolated states.
    """

    def __init__(self, seed: int):
        word = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._includes_cuda = torch.cuda.is_initialized()
        self._isolated: tuple[Any, ...] = (
            random.Random(word).getstate(),
            np.random.RandomState(word).get_state(),
            torch.Generator().manual_seed(word).get_state(),
        )
        if self._includes_cuda:
            states = [
                torch.Generator(f"cuda:{i}").manual_seed(word).get_state() for i in range(torch.cuda.device_count())
            ]
            self._isolated = (*self._isolated, states)
        self._caller: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._caller = self._get_states()
        self._set_states(self._isolated)

    def __exit__(self, *exception: object) -> None:
        self._isolated = self._get_states()
        self._set_states(self._caller)

    def _get_states(self) -> tuple[Any, ...]:
        states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
        return (*states, torch.cuda.get_rng_state_all()) if self._includes_cuda else states

    def _set_states(self, states: tuple[Any, ...]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if self._includes_cuda:
            torch.cuda.set_rng_state_all(states[3])
