"""Training on data that stay on disk: a part of them is in memory at a time, and changes as training goes on."""

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
    Batches,
    TableBuilder,
    TransitionTables,
    build_tables,
    write_rows,
)

# Transitions that are read in one piece, and replaced together.
BLOCK_LENGTH = 1024
# How often a transition is drawn, on average, until its block is replaced. A new one costs a forward pass of the
# reference, which tables of all data save: a fourth of one for each draw is a small part of an update.
DRAWS = 4
# Blocks that the disk is told of before they are needed.
_AHEAD = 4


def open_tables(
    preferences: PreferenceBuffer,
    reference: Reference,
    likelihood: Likelihood,
    device: torch.device,
    buffer_size: int,
) -> Batches:
    """
    What training reads: tables of all data; a stream where the data lie on disk and are more than ``buffer_size``.

    :param buffer_size: transitions of both sets
    :raises ValueError: as :func:`~sb3_prefine.training.transition_tables.build_tables`
    """
    sets = (preferences.preferred, preferences.dispreferred)
    sizes = (sets[0].n_transitions, sets[1].n_transitions)
    if sum(sizes) <= buffer_size or not any(trajectories.is_mapped for trajectories in sets):
        return build_tables(preferences, reference, likelihood, device)
    # Half of the room for each set; what the smaller one leaves is for the other.
    smaller = max(1, min(*sizes, buffer_size // 2))
    larger = max(1, buffer_size - smaller)
    room = (smaller, larger) if sizes[0] <= sizes[1] else (larger, smaller)
    return Stream(TableBuilder(preferences, reference, likelihood, device), sizes, room)


@dataclass(frozen=True, eq=False)
class Stream:
    """
    Tables of a part of the data. Each set is held in blocks of 1,024 transitions that lie one after the other, drawn at
    random; the oldest block is replaced after each of its transitions was drawn four times on average.

    So at every update each transition of a set is as likely to be drawn as any other, as it is from tables of all data.
    What differs is that neighbouring updates draw from the same blocks. Every transition is read once before the first
    is read again. A set that is not larger than its room is held as a whole.

    Blocks are replaced by the count of updates, never by time: the same seed gives the same batches.

    :param scorer: of the data
    :param sizes: transitions of the preferred and of the dispreferred set
    :param room: how many of each set to hold
    """

    scorer: TableBuilder
    sizes: tuple[int, int]
    room: tuple[int, int]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        One batch after another, without end, drawn with replacement from what is held.

        :param batch_size: rows of each set; those of the preferred set come first
        :raises ValueError: an observation is not finite after normalisation
        """
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        rngs = np.random.default_rng(seed).spawn(2)
        lengths = [min(BLOCK_LENGTH, max(1, room // 16)) for room in self.room]
        held = [
            size if size <= room else room - room % length
            for size, room, length in zip(self.sizes, self.room, lengths, strict=True)
        ]
        tables = self.scorer.empty_tables(sum(held), held[0])
        renewals = []
        for which, (first, place) in enumerate(((0, 0), (self.sizes[0], held[0]))):
            rows = range(first, first + self.sizes[which])
            if held[which] == len(rows):
                self.scorer.write(tables, place, rows)
            else:
                places = range(place, place + held[which], lengths[which])
                renewals.append(self._renew(tables, places, _blocks(rows, lengths[which], rngs[which]), batch_size))
        for renewal in renewals:
            next(renewal)
        for batch in tables.batches(batch_size, generator):
            yield batch
            for renewal in renewals:
                next(renewal)

    def _renew(
        self, tables: TransitionTables, places: range, blocks: Iterator[np.ndarray], batch_size: int
    ) -> Iterator[None]:
        """
        Fill a set's part of the tables, then renew it: every step after the first is an update.

        :param places: the first row of each block in the tables
        :param blocks: the rows of each, without end
        :param batch_size: transitions of the set that an update draws
        """
        ahead: deque[np.ndarray] = deque()

        def replace(place: int) -> None:
            while len(ahead) <= _AHEAD:
                ahead.append(next(blocks))
                self.scorer.prefetch(ahead[-1])
            write_rows(tables, place, self.scorer.score(ahead.popleft()))

        for place in places:
            replace(place)
        n_drawn = 0
        for place in cycle(places):
            while n_drawn < DRAWS * places.step:
                yield
                n_drawn += batch_size
            n_drawn -= DRAWS * places.step
            replace(place)


def _blocks(rows: range, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """
    Cut rows into blocks anew again and again, and give the blocks of each cut in random order.

    The cut begins at a random row, and the rows are a ring: so each row is as likely as any other in every block.

    :param length: of a block; the last block of a cut has a few rows of its first one too
    :return: the rows of each block, (length,), without end
    """
    while True:
        start = rng.integers(len(rows))
        for block in rng.permutation(-(-len(rows) // length)):
            yield rows.start + (start + block * length + np.arange(length)) % len(rows)
