"""Pseudo-random numbers computed from actions."""

import pytest
import torch
from scipy.stats import kstest

from sb3_prefine.policies.action_noise import uniform_from_actions


def test_numbers_are_uniform_and_independent():
    actions = torch.linspace(-1, 1, 4096).unsqueeze(1)
    both = torch.cat((actions, torch.ones(4096, 1)), dim=1)
    other_batch = uniform_from_actions(torch.cat((actions[:-1], actions[:1])), 3)
    columns = torch.cat((uniform_from_actions(actions, 3), uniform_from_actions(both, 3), other_batch), dim=1)
    for column in columns.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    correlation = torch.corrcoef(columns.T) - torch.eye(9)
    assert correlation.abs().max() < 0.08
    assert abs(torch.corrcoef(torch.stack((columns[:-1, 0], columns[1:, 0])))[0, 1]) < 0.08


@pytest.mark.parametrize("shape", [(7, 2), (3, 7, 2)])
def test_equal_actions_give_equal_numbers_and_one_change_alters_all(shape):
    actions = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    numbers = uniform_from_actions(actions, 5)
    assert numbers.shape == (*shape[:-1], 5)
    assert torch.equal(numbers, uniform_from_actions(actions.clone(), 5))
    changed = actions.clone()
    changed.view(-1)[0] += 1e-3
    assert (uniform_from_actions(changed, 5) != numbers).all()
