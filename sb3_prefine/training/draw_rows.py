"""Random rows of the data, for one batch after another."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

# Batches whose rows are drawn in one call, which is faster than one call for each batch.
UPDATES_PER_DRAW = 100


def draw_rows_forever(set_sizes: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """
    Draw the rows of one batch after another, with replacement and without end; see :func:`draw_rows`.

    :return: Row numbers of each batch, (n_sets · batch_size,), grouped by set.
    """
    while True:
        yield from draw_rows(set_sizes, batch_size, generator)


def draw_rows(set_sizes: Sequence[int], batch_size: int, generator: torch.Generator) -> Tensor:
    """
    Draw the rows of the next 100 batches, with replacement.

    The rows of all sets are numbered together: those of the second set come after those of the first.

    :param set_sizes: Number of rows of each set.
    :param batch_size: Number of rows that a batch takes from each set.
    :param generator: Random generator, on the device for the row numbers.
    :return: Row numbers, (100, n_sets · batch_size), grouped by set.
    """
    shape = (UPDATES_PER_DRAW, batch_size)
    rows = [
        torch.randint(end - size, end, shape, generator=generator, device=generator.device)
        for size, end in zip(set_sizes, accumulate(set_sizes), strict=True)
    ]
    return torch.cat(rows, dim=1)
