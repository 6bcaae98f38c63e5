"""Metrics and the guard against numbers that are not finite."""

import math

import pytest
import torch

from sb3_prefine.tracking import FiniteGuard, MetricMeans


def test_means_are_over_what_was_added_since_the_last_time():
    metrics = MetricMeans()
    assert metrics.take() == {}
    for loss in (1.0, 2.0, 6.0):
        metrics.add({"loss": torch.tensor(loss), "one": torch.tensor(1.0)})
    assert metrics.take() == {"loss": 3.0, "one": 1.0}
    assert metrics.take() == {}
    metrics.add({"loss": torch.tensor(5.0)})
    assert metrics.take() == {"loss": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_guard_stops_at_the_first_value_that_is_not_finite_and_stays_so(bad):
    guard = FiniteGuard(torch.device("cpu"))
    stops = [guard.check(torch.tensor(value)).item() for value in (1.0, -3.0, bad, 2.0)]
    assert stops == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(FloatingPointError, match="not finite in update 3 of this call"):
        guard.raise_if_stopped()


def test_the_guard_is_silent_while_all_is_well():
    guard = FiniteGuard(torch.device("cpu"))
    guard.check(torch.tensor(1e30))
    guard.raise_if_stopped()


def test_fused_adam_leaves_weights_and_moments_alone_when_told():
    """What the guard relies on; torch documents it for its gradient scaler only."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(3)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    weights, moments = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    weight.grad = torch.full((3,), math.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, weights)
    assert torch.equal(optimizer.state[weight]["exp_avg"], moments)
    assert optimizer.state[weight]["step"] == 1
