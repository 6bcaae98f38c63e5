"""Random rows of the data."""

import numpy as np
import torch

from sb3_prefine.training.draw_rows import draw_rows_forever


def test_rows_are_drawn_uniformly_from_each_set_without_end():
    drawn = draw_rows_forever([5, 3], 200, torch.Generator().manual_seed(0))
    rows = torch.stack([next(drawn) for _ in range(150)])
    assert rows.shape == (150, 400)
    for chosen, numbers in ((rows[:, :200], range(5)), (rows[:, 200:], range(5, 8))):
        found, counts = np.unique(chosen, return_counts=True)
        assert found.tolist() == list(numbers)
        np.testing.assert_allclose(counts / chosen.numel(), 1 / len(numbers), atol=0.01)
