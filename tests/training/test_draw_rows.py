"""Row numbers of batches."""

from itertools import islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.training.draw_rows import UPDATES_PER_DRAW, draw_rows, draw_rows_forever


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 8), st.integers(0, 99))
def test_rows_are_grouped_by_set_and_numbered_through_all_sets(set_sizes, batch_size, seed):
    rows = draw_rows(set_sizes, batch_size, generator(seed)).numpy()
    assert rows.shape == (100, len(set_sizes) * batch_size)
    starts = np.repeat(np.cumsum([0, *set_sizes[:-1]]), batch_size)
    in_set = rows - starts
    assert (in_set >= 0).all()
    assert (in_set < np.repeat(set_sizes, batch_size)).all()


def test_every_row_is_drawn_equally_often():
    rows = torch.cat([draw_rows((5, 20), 10, generator(seed)) for seed in range(100)])
    counts = np.bincount(rows.flatten(), minlength=25)
    # 100 · 100 · 10 draws from each set.
    np.testing.assert_allclose(counts, [20_000] * 5 + [5_000] * 20, rtol=0.06)


def test_forever_continues_with_the_next_draw():
    batches = list(islice(draw_rows_forever((7, 3), 4, generator()), 2 * UPDATES_PER_DRAW))
    expected = generator()
    draws = torch.cat([draw_rows((7, 3), 4, expected) for _ in range(2)])
    assert torch.equal(torch.stack(batches), draws)
