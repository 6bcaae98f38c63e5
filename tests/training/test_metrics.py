"""Metrics and the guard against numbers that are not finite."""

import math

import pytest
import torch

from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.optimizer import FiniteGuard


def test_means_are_over_what_was_added_since_the_last_time():
    metrics = MetricMeans()
    assert metrics.pop() == {}
    for loss in (1.0, 2.0, 6.0):
        metrics.add({"loss": torch.tensor(loss), "one": torch.tensor(1.0)})
    assert metrics.pop() == {"loss": 3.0, "one": 1.0}
    assert metrics.pop() == {}
    metrics.add({"loss": torch.tensor(5.0)})
    assert metrics.pop() == {"loss": 5.0}


def scaled(factor: float, values: torch.Tensor, weights: torch.Tensor | None, one: torch.Tensor) -> dict:
    values = values if weights is None else values * weights
    return {"total": factor * values.sum(), "one": one}


@pytest.mark.parametrize("n", [1, 99, 100, 101, 250])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_that_are_put_off_are_those_of_every_update(n, weighted):
    generator = torch.Generator().manual_seed(0)
    later, at_once = MetricMeans(), MetricMeans()
    shared = torch.rand(5, generator=generator)
    for i in range(n):
        # The factor changes on the way, as a callback may change a hyperparameter.
        factor, values = 1.0 + (i > 120), torch.rand(5, generator=generator)
        tensors = (values, shared if weighted else None, torch.ones(()))
        later.defer(scaled, factor, tensors)
        at_once.add(scaled(factor, *tensors))
    assert later.pop() == pytest.approx(at_once.pop(), rel=1e-5)
    assert later.pop() == {}


def test_what_was_put_off_and_what_is_handed_out_is_one_mean():
    together, own = MetricMeans(), MetricMeans()
    own.defer(scaled, 2.0, (torch.tensor([1.0, 2.0]), None, torch.ones(())))
    together.add({"total": torch.tensor([4.0]), "one": torch.ones(1)})
    together.distribute([own])
    assert own.pop() == {"total": 5.0, "one": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_guard_stops_at_the_first_value_that_is_not_finite_and_stays_so(bad):
    guard = FiniteGuard(torch.device("cpu"))
    stops = [guard.check(torch.tensor(value)).item() for value in (1.0, -3.0, bad, 2.0)]
    assert stops == [0.0, 0.0, 1.0, 1.0]
    assert "in update 3 of this call" in str(guard.error())


@pytest.mark.parametrize(("part", "last"), [(math.nan, 1.0), (1.0, math.nan)])
def test_an_update_of_several_values_counts_as_one(part, last):
    guard = FiniteGuard(torch.device("cpu"))
    assert guard.stopped.item() == 0.0
    stops = []
    for values in ((1.0, 2.0), (part, last), (1.0, 2.0)):
        stops.append((guard.check_part(torch.tensor(values[0])).item(), guard.check(torch.tensor(values[1])).item()))
    assert stops == [(0.0, 0.0), (float(math.isnan(part)), 1.0), (1.0, 1.0)]
    assert guard.stopped.item() == 1.0
    assert "in update 2 of this call" in str(guard.error())


def test_means_of_many_runs_are_handed_out_and_added_to_what_each_has():
    together, own = MetricMeans(), [MetricMeans(), MetricMeans()]
    together.distribute(own)
    assert own[0].pop() == {}
    own[1].add({"loss": torch.tensor(10.0), "one": torch.tensor(1.0)})
    for losses in ([1.0, 2.0], [3.0, 6.0]):
        together.add({"loss": torch.tensor(losses), "one": torch.ones(2)})
    together.distribute(own)
    together.distribute(own)
    assert own[0].pop() == {"loss": 2.0, "one": 1.0}
    assert own[1].pop() == {"loss": 6.0, "one": 1.0}
    assert together.pop() == {}


def test_the_guard_of_many_runs_stops_each_by_itself_and_can_be_kept_for_some():
    guard = FiniteGuard(torch.device("cpu"), (3,))
    assert guard.check(torch.tensor([1.0, math.nan, 2.0])).tolist() == [0.0, 1.0, 0.0]
    guard.select_runs([1, 2])
    assert guard.check(torch.tensor([1.0, 2.0])).tolist() == [1.0, 0.0]
    assert guard.check(torch.tensor([1.0, math.inf])).tolist() == [1.0, 1.0]
    errors = [str(error) for error in guard.errors()]
    assert ["in update 1 of" in errors[0], "in update 3 of" in errors[1]] == [True, True]


def test_the_guard_is_silent_while_all_is_well():
    guard = FiniteGuard(torch.device("cpu"))
    guard.check(torch.tensor(1e30))
    assert guard.error() is None


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
