"""Drawing random numbers without touching the caller's."""

import random
from typing import Any

import numpy as np
import torch


class OwnRandomState:
    """
    While it is entered, the global generators of torch, numpy and random run on states of its own.

    ``torch.random.fork_rng`` restores the caller's state but starts from it too, and knows torch alone. Numpy and
    random are here because environments (Bullet) and policies (DQN's exploration) draw from them. CUDA's generators
    take part if CUDA is in use by then.

    :param seed: Where its own states start.
    """

    def __init__(self, seed: int):
        word = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._cuda = torch.cuda.is_initialized()
        self._mine: tuple[Any, ...] = (
            random.Random(word).getstate(),
            np.random.RandomState(word).get_state(),
            torch.Generator().manual_seed(word).get_state(),
        )
        if self._cuda:
            states = [
                torch.Generator(f"cuda:{i}").manual_seed(word).get_state() for i in range(torch.cuda.device_count())
            ]
            self._mine = (*self._mine, states)
        self._theirs: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._theirs = self._get()
        self._set(self._mine)

    def __exit__(self, *exception: object) -> None:
        self._mine = self._get()
        self._set(self._theirs)

    def _get(self) -> tuple[Any, ...]:
        states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
        return (*states, torch.cuda.get_rng_state_all()) if self._cuda else states

    def _set(self, states: tuple[Any, ...]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if self._cuda:
            torch.cuda.set_rng_state_all(states[3])
