"""Critics: small networks that give a number for each state, or for each state and action."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Critics(nn.Module):
    """
    Multilayer perceptrons with ReLU, of the same inputs and with one output each, computed together.

    Their weights start as those of ``nn.Linear``.

    :param n_inputs: D
    :param n_critics: n
    :param net_arch: units of the hidden layers
    """

    def __init__(self, n_inputs: int, n_critics: int, net_arch: Sequence[int]) -> None:
        super().__init__()
        sizes = list(pairwise([n_inputs, *net_arch, 1]))
        self.weights = nn.ParameterList(_uniform((n_critics, n_in, n_out), n_in) for n_in, n_out in sizes)
        self.biases = nn.ParameterList(_uniform((n_critics, 1, n_out), n_in) for n_in, n_out in sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """
        :param inputs: (B, D)
        :return: (n, B)
        """
        *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)
        layer = self._each(inputs)
        for hidden_weight, hidden_bias in hidden:
            layer = torch.baddbmm(hidden_bias, layer, hidden_weight).relu_()
        return torch.baddbmm(bias, layer, weight).squeeze(-1)

    def input_gradients(self, inputs: Tensor) -> Tensor:
        """
        The gradient of each output by each input, with gradient to the weights: what a gradient penalty is made of.

        Between the kinks of its ReLUs such a network is a product of matrices, and that is the gradient. It is the one
        of autograd, without its second way back.

        :param inputs: (B, D)
        :return: (n, B, D)
        """
        weights = list(self.weights)
        active = []
        with torch.no_grad():
            layer = self._each(inputs)
            for weight, bias in zip(weights[:-1], list(self.biases)[:-1], strict=True):
                layer = torch.baddbmm(bias, layer, weight).relu_()
                active.append(layer.sign())
        gradients = weights[-1].transpose(1, 2)
        for weight, is_active in zip(reversed(weights[:-1]), reversed(active), strict=True):
            gradients = (is_active * gradients) @ weight.transpose(1, 2)
        return gradients.expand(-1, len(inputs), -1)

    def _each(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (n, B, D)"""
        return inputs.expand(len(self.weights[0]), -1, -1)


def _uniform(shape: tuple[int, ...], n_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-(n_in**-0.5), n_in**-0.5))
