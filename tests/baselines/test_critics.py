"""Critics: their outputs, their gradients with respect to the inputs, and the weight gradients of those."""

import numpy as np
import pytest
import torch

from sb3_prefine.baselines.networks import Critics
from tests.baselines.critics_by_hand import outputs, slopes

INPUTS = torch.randn((7, 4), generator=torch.Generator().manual_seed(0))


def critics(n: int = 3, net_arch: tuple[int, ...] = (6, 5)) -> Critics:
    torch.manual_seed(1)
    return Critics(4, n, net_arch)


@pytest.mark.parametrize("net_arch", [(), (6,), (6, 5), (3, 3, 3)])
@pytest.mark.parametrize("n", [1, 3])
def test_each_critic_is_a_separate_network(n, net_arch):
    model = critics(n, net_arch)
    found = model(INPUTS)
    assert found.shape == (n, 7)
    np.testing.assert_allclose(found.detach(), outputs(model, INPUTS.double().numpy()), atol=1e-6)
    if n > 1:
        assert not torch.allclose(found[0], found[1])


def test_initial_weights_are_distributed_as_in_linear_layers():
    model = Critics(16, 2, (300, 200))
    layers = zip(list(model.weights)[:2], list(model.biases)[:2], ((16, 300), (300, 200)), strict=True)
    for weight, bias, (n_in, n_out) in layers:
        torch.manual_seed(0)
        linear = torch.nn.Linear(n_in, n_out)
        for ours, theirs in ((weight, linear.weight), (bias, linear.bias)):
            assert ours.abs().max() <= n_in**-0.5
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)


@pytest.mark.parametrize("net_arch", [(), (6,), (6, 5), (3, 3, 3)])
def test_input_gradients_equal_differences_and_autograd(net_arch):
    model = critics(3, net_arch)
    found = model.input_gradients(INPUTS)
    assert found.shape == (3, 7, 4)
    for i in range(3):
        expected = slopes(lambda inputs, i=i: outputs(model, inputs)[i], INPUTS.double().numpy())
        np.testing.assert_allclose(found[i].detach(), expected, atol=1e-5)
    leaf = INPUTS.clone().requires_grad_()
    [expected] = torch.autograd.grad(model(leaf).sum(), leaf)
    np.testing.assert_allclose(found.sum(dim=0).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("net_arch", [(), (6,), (6, 5), (3, 3, 3)])
def test_a_penalty_has_the_gradient_of_a_double_backward_pass(net_arch):
    model = critics(1, net_arch)
    leaf = INPUTS.clone().requires_grad_()
    [gradients] = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
    penalty = (gradients.norm(dim=-1) - 1.0).square().mean()
    weights = list(model.weights)
    expected = torch.autograd.grad(penalty, weights)
    ours = (model.input_gradients(INPUTS).norm(dim=-1) - 1.0).square().mean()
    assert ours.item() == pytest.approx(penalty.item(), rel=1e-5)
    for found, other in zip(torch.autograd.grad(ours, weights), expected, strict=True):
        np.testing.assert_allclose(found, other, atol=1e-6)
