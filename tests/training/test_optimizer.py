"""Steps of Adam, compared with those of torch, and the check for non-finite values."""

import math

import pytest
import torch

from sb3_prefine.training.optimizer import FiniteGuard, adam_step, descend

OPTIONS = (
    {},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"maximize": True, "betas": (0.5, 0.9), "eps": 1e-3},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
)


def trained(step, options, found_inf=(0.0,) * 6):
    """Make steps with a changing learning rate. The last parameter gets no gradient. Returns weights and state."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (3, 5, 2)]
    optimizer = torch.optim.Adam(parameters, lr=0.1, fused=True, **options)
    for i, bad in enumerate(found_inf):
        optimizer.zero_grad()
        for parameter in parameters[:2]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        step(optimizer, torch.tensor(bad))
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()


def of_torch(optimizer, found_inf):
    optimizer.found_inf = found_inf
    optimizer.step()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("found_inf", [(0.0,) * 6, (0.0, 0.0, 1.0, 0.0, 1.0), (1.0, 0.0)], ids=str)
def test_steps_equal_those_of_torch_exactly(options, found_inf):
    (weights, state), (expected, expected_state) = (trained(step, options, found_inf) for step in (adam_step, of_torch))
    for weight, other in zip(weights, expected, strict=True):
        assert torch.equal(weight, other)
    assert state["state"].keys() == expected_state["state"].keys() == {0, 1}
    for number, found in state["state"].items():
        for name, value in found.items():
            assert torch.equal(value, expected_state["state"][number][name]), name


def test_steps_continue_from_loaded_moments():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(4)
    adam_step(optimizer, torch.tensor(0.0))
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": {0: {name: value + 1 for name, value in state["state"][0].items()}}})
    adam_step(optimizer, torch.tensor(0.0))
    assert optimizer.state_dict()["state"][0]["step"].item() == 3.0


def two_parts(max_grad_norm, losses):
    """Step the optimizers of two parameters on one loss after another; also returns the gradient norms."""
    parts = [torch.nn.Parameter(torch.tensor(values)) for values in ([3.0, 4.0], [1.0])]
    optimizers = [torch.optim.Adam([part], lr=0.1, fused=True) for part in parts]
    guard = FiniteGuard(torch.device("cpu"))
    norms = [
        descend(optimizers, factor * (parts[0].square().sum() + 5.0 * parts[1].sum()), guard.check, max_grad_norm)
        for factor in losses
    ]
    return parts, optimizers, norms, guard


def test_several_optimizers_step_on_one_loss():
    parts, optimizers, norms, _ = two_parts(None, [1.0])
    # The length of Adam's first step is the learning rate.
    assert [part.tolist() for part in parts] == [pytest.approx([2.9, 3.9]), pytest.approx([0.9])]
    assert [norm.item() for norm in norms[0]] == [pytest.approx(10.0), pytest.approx(5.0)]
    assert optimizers[0].state[parts[0]]["exp_avg"].tolist() == pytest.approx([0.6, 0.8])


def test_gradient_of_each_optimizer_is_clipped_separately():
    parts, optimizers, norms, _ = two_parts(1.0, [1.0])
    assert [norm.item() for norm in norms[0]] == [pytest.approx(10.0), pytest.approx(5.0)]
    assert optimizers[0].state[parts[0]]["exp_avg"].tolist() == pytest.approx([0.06, 0.08])
    assert optimizers[1].state[parts[1]]["exp_avg"].tolist() == pytest.approx([0.1])


def test_no_optimizer_steps_after_a_non_finite_loss():
    parts, _, _, guard = two_parts(None, [1.0, math.nan, 1.0])
    assert [part.tolist() for part in parts] == [pytest.approx([2.9, 3.9]), pytest.approx([0.9])]
    assert "in update 2 of this call" in str(guard.error())


# The check for non-finite values


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_guard_stops_at_the_first_non_finite_value(bad):
    guard = FiniteGuard(torch.device("cpu"))
    stops = [guard.check(torch.tensor(value)).item() for value in (1.0, -3.0, bad, 2.0)]
    assert stops == [0.0, 0.0, 1.0, 1.0]
    assert "in update 3 of this call" in str(guard.error())


@pytest.mark.parametrize(("part", "last"), [(math.nan, 1.0), (1.0, math.nan)])
def test_update_with_several_values_counts_once(part, last):
    guard = FiniteGuard(torch.device("cpu"))
    assert guard.stopped.item() == 0.0
    stops = []
    for values in ((1.0, 2.0), (part, last), (1.0, 2.0)):
        stops.append((guard.check_part(torch.tensor(values[0])).item(), guard.check(torch.tensor(values[1])).item()))
    assert stops == [(0.0, 0.0), (float(math.isnan(part)), 1.0), (1.0, 1.0)]
    assert guard.stopped.item() == 1.0
    assert "in update 2 of this call" in str(guard.error())


def test_guard_of_many_runs_stops_each_separately():
    guard = FiniteGuard(torch.device("cpu"), (3,))
    assert guard.check(torch.tensor([1.0, math.nan, 2.0])).tolist() == [0.0, 1.0, 0.0]
    guard.select_runs([1, 2])
    assert guard.check(torch.tensor([1.0, 2.0])).tolist() == [1.0, 0.0]
    assert guard.check(torch.tensor([1.0, math.inf])).tolist() == [1.0, 1.0]
    errors = [str(error) for error in guard.errors()]
    assert ["in update 1 of" in errors[0], "in update 3 of" in errors[1]] == [True, True]


def test_guard_reports_no_error_for_finite_values():
    guard = FiniteGuard(torch.device("cpu"))
    guard.check(torch.tensor(1e30))
    assert guard.error() is None


def test_fused_adam_skips_a_step_if_found_inf_is_1():
    """FiniteGuard relies on this, which torch documents only for its gradient scaler."""
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
