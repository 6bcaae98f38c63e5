"""Running means of metrics."""

import pytest
import torch

from sb3_prefine.training.metrics import MetricMeans


def test_means_cover_the_updates_since_the_last_pop():
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
def test_deferred_metrics_equal_those_added_at_every_update(n, weighted):
    generator = torch.Generator().manual_seed(0)
    later, at_once = MetricMeans(), MetricMeans()
    shared = torch.rand(5, generator=generator)
    for i in range(n):
        # The factor changes, as a callback may change a hyperparameter.
        factor, values = 1.0 + (i > 120), torch.rand(5, generator=generator)
        tensors = (values, shared if weighted else None, torch.ones(()))
        later.defer(scaled, factor, tensors)
        at_once.add(scaled(factor, *tensors))
    assert later.pop() == pytest.approx(at_once.pop(), rel=1e-5)
    assert later.pop() == {}


def test_deferred_and_distributed_metrics_have_one_mean():
    together, own = MetricMeans(), MetricMeans()
    own.defer(scaled, 2.0, (torch.tensor([1.0, 2.0]), None, torch.ones(())))
    together.add({"total": torch.tensor([4.0]), "one": torch.ones(1)})
    together.distribute([own])
    assert own.pop() == {"total": 5.0, "one": 1.0}


def test_metrics_of_many_runs_are_added_to_the_means_of_each():
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
