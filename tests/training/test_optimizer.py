"""Steps of Adam, against torch's own."""

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
    """Weights and moments after some steps, the rate changing on the way; the last parameter gets no gradient."""
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
def test_steps_are_those_of_torch_to_the_bit(options, found_inf):
    (weights, state), (expected, expected_state) = (trained(step, options, found_inf) for step in (adam_step, of_torch))
    for weight, other in zip(weights, expected, strict=True):
        assert torch.equal(weight, other)
    assert state["state"].keys() == expected_state["state"].keys() == {0, 1}
    for number, found in state["state"].items():
        for name, value in found.items():
            assert torch.equal(value, expected_state["state"][number][name]), name


def test_moments_that_were_loaded_are_those_that_go_on():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(4)
    adam_step(optimizer, torch.tensor(0.0))
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": {0: {name: value + 1 for name, value in state["state"][0].items()}}})
    adam_step(optimizer, torch.tensor(0.0))
    assert optimizer.state_dict()["state"][0]["step"].item() == 3.0


def two_parts(max_grad_norm, losses):
    """Two parameters, each with an optimizer of its own, down one loss after another; the norms of each step."""
    parts = [torch.nn.Parameter(torch.tensor(values)) for values in ([3.0, 4.0], [1.0])]
    optimizers = [torch.optim.Adam([part], lr=0.1, fused=True) for part in parts]
    guard = FiniteGuard(torch.device("cpu"))
    norms = [
        descend(optimizers, factor * (parts[0].square().sum() + 5.0 * parts[1].sum()), guard.check, max_grad_norm)
        for factor in losses
    ]
    return parts, optimizers, norms, guard


def test_one_loss_is_descended_by_several_optimizers():
    parts, optimizers, norms, _ = two_parts(None, [1.0])
    # Adam's first step is as long as the rate.
    assert [part.tolist() for part in parts] == [pytest.approx([2.9, 3.9]), pytest.approx([0.9])]
    assert [norm.item() for norm in norms[0]] == [pytest.approx(10.0), pytest.approx(5.0)]
    assert optimizers[0].state[parts[0]]["exp_avg"].tolist() == pytest.approx([0.6, 0.8])


def test_the_gradient_of_each_is_clipped_by_itself():
    parts, optimizers, norms, _ = two_parts(1.0, [1.0])
    assert [norm.item() for norm in norms[0]] == [pytest.approx(10.0), pytest.approx(5.0)]
    assert optimizers[0].state[parts[0]]["exp_avg"].tolist() == pytest.approx([0.06, 0.08])
    assert optimizers[1].state[parts[1]]["exp_avg"].tolist() == pytest.approx([0.1])


def test_none_of_them_steps_once_the_loss_was_not_finite():
    parts, _, _, guard = two_parts(None, [1.0, math.nan, 1.0])
    assert [part.tolist() for part in parts] == [pytest.approx([2.9, 3.9]), pytest.approx([0.9])]
    assert "in update 2 of this call" in str(guard.error())
