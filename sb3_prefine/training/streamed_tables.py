"""Training on data that stay on disk: only a part of them is in memory, and it changes during training."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.transition_tables import (
    Batch,
    TableBuilder,
    Tables,
    TransitionTables,
    build_tables,
    write_rows,
)

# Transitions in a block, which are read and replaced together.
BLOCK_LENGTH = 1024
# Average number of times that a transition is drawn before its block is replaced. Each new transition costs a forward
# pass of the reference, which tables of all data save. A fourth of a pass for each draw is a small part of an update.
DRAWS_PER_TRANSITION = 4
# Blocks that the system is asked to read before they are needed.
_PREFETCHED_BLOCKS = 4


def open_tables(
    preferences: PreferenceBuffer,
    reference: Reference,
    likelihood: Likelihood,
    device: torch.device,
    buffer_size: int,
) -> Tables:
    """
    Build tables of all data, or a stream if the data are on disk and there are more than ``buffer_size`` transitions.

    :param preferences: The data.
    :param reference: The reference.
    :param likelihood: Likelihood of the policy.
    :param device: Device of the tables.
    :param buffer_size: Number of transitions of both sets to hold in memory.
    :return: The tables.
    :raises ValueError: If :func:`~sb3_prefine.training.transition_tables.build_tables` raises it.
    """
    sets = (preferences.preferred, preferences.dispreferred)
    sizes = (sets[0].n_transitions, sets[1].n_transitions)
    if sum(sizes) <= buffer_size or not any(trajectories.is_mapped for trajectories in sets):
        return build_tables(preferences, reference, likelihood, device)
    # Each set gets half of the buffer, and the larger set also gets what the smaller one leaves.
    smaller = max(1, min(*sizes, buffer_size // 2))
    larger = max(1, buffer_size - smaller)
    capacities = (smaller, larger) if sizes[0] <= sizes[1] else (larger, smaller)
    return StreamedTables(TableBuilder(preferences, reference, likelihood, device), sizes, capacities)


@dataclass(frozen=True, eq=False)
class StreamedTables:
    """
    Tables of a part of the data, which changes during training.

    Each set is held in blocks of 1,024 consecutive transitions from random places. The oldest block is replaced when
    each of its transitions was drawn four times on average. So at every update all transitions of a set are equally
    likely to be drawn, as with tables of all data; the difference is that neighbouring updates draw from the same
    blocks. Every transition is read once before any is read again. A set that fits its capacity is held completely.

    The number of updates decides when blocks are replaced, never the time: the same seed gives the same batches.

    :param builder: Reads and scores transitions of the data.
    :param sizes: Number of transitions of the preferred and of the dispreferred set.
    :param capacities: Number of transitions of each set to hold.
    """

    builder: TableBuilder
    sizes: tuple[int, int]
    capacities: tuple[int, int]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        Draw one batch after another from the transitions in memory, with replacement and without end.

        :param batch_size: Number of transitions from each set. Those of the preferred set come first.
        :param generator: Random generator of the blocks and the rows.
        :raises ValueError: If an observation is not finite after normalisation.
        """
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        rngs = np.random.default_rng(seed).spawn(2)
        lengths = [min(BLOCK_LENGTH, max(1, capacity // 16)) for capacity in self.capacities]
        held = [
            size if size <= capacity else capacity - capacity % length
            for size, capacity, length in zip(self.sizes, self.capacities, lengths, strict=True)
        ]
        tables = self.builder.empty_tables(sum(held), held[0])
        streamed = []
        for which, (first, place) in enumerate(((0, 0), (self.sizes[0], held[0]))):
            rows = range(first, first + self.sizes[which])
            if held[which] == len(rows):
                self.builder.write(tables, place, rows)
            else:
                places = range(place, place + held[which], lengths[which])
                blocks = cut_into_blocks(rows, lengths[which], rngs[which])
                streamed.append(_HeldBlocks(self.builder, tables, places, blocks))
        for held_blocks in streamed:
            held_blocks.fill()
        for batch in tables.batches(batch_size, generator):
            yield batch
            for held_blocks in streamed:
                held_blocks.count_draws(batch_size)


class _HeldBlocks:
    """
    The blocks of one set that are in memory.

    :param builder: Reads and scores transitions of the data.
    :param tables: Tables that hold the blocks.
    :param places: First row of each block in the tables.
    :param blocks: Rows of the blocks to read, without end.
    """

    def __init__(
        self, builder: TableBuilder, tables: TransitionTables, places: range, blocks: Iterator[np.ndarray]
    ) -> None:
        self._builder = builder
        self._tables = tables
        self._places = places
        self._oldest = cycle(places)
        self._blocks = blocks
        self._prefetched: deque[np.ndarray] = deque()
        self._n_drawn = 0

    def fill(self) -> None:
        """Read the first block of every place."""
        for place in self._places:
            self._replace(place)

    def count_draws(self, n_drawn: int) -> None:
        """
        Count draws, and replace the oldest block if its transitions were drawn often enough.

        :param n_drawn: Number of transitions that an update drew from the set.
        """
        self._n_drawn += n_drawn
        draws_per_block = DRAWS_PER_TRANSITION * self._places.step
        while self._n_drawn >= draws_per_block:
            self._n_drawn -= draws_per_block
            self._replace(next(self._oldest))

    def _replace(self, place: int) -> None:
        while len(self._prefetched) <= _PREFETCHED_BLOCKS:
            self._prefetched.append(next(self._blocks))
            self._builder.prefetch(self._prefetched[-1])
        write_rows(self._tables, place, self._builder.score(self._prefetched.popleft()))


def cut_into_blocks(rows: range, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """
    Yield blocks of consecutive rows, without end.

    Each pass over the rows starts at a random row and wraps around, so that every row is equally likely at every
    position of a block. The blocks of a pass come in random order.

    :param rows: The rows.
    :param length: Number of rows in a block. The last block of a pass also has some rows of the first one.
    :param rng: Random generator.
    :return: Rows of each block, (length,).
    """
    while True:
        start = rng.integers(len(rows))
        for block in rng.permutation(-(-len(rows) // length)):
            yield rows.start + (start + block * length + np.arange(length)) % len(rows)
