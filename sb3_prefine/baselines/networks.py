"""Networks of the baselines: critics, and CPQ's VAE of actions."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sb3_prefine.policies.networks import Conditional


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


class ActionVAE(nn.Module):
    """
    A conditional variational autoencoder of actions, scaled to [-1, 1], as in BCQ (Fujimoto et al. 2019).

    :param n_observations: O
    :param n_actions: A; the latent has 2 A dimensions
    :param net_arch: units of the hidden layers of the encoder and the decoder
    """

    def __init__(self, n_observations: int, n_actions: int, net_arch: Sequence[int]) -> None:
        super().__init__()
        n_latents = 2 * n_actions
        relu = partial(nn.ReLU, inplace=True)
        self.encoder = Conditional(n_observations, n_actions, net_arch, 2 * n_latents, relu)
        self.decoder = Conditional(n_observations, n_latents, net_arch, n_actions, relu)

    def loss(self, observations: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """
        Mean squared error of the reconstruction + 0.5 KL(q(z|s, a) || N(0, I)), each a mean over its dimensions.

        :param observations: (B, O)
        :param actions: (B, A)
        :return: a scalar
        """
        mean, log_std = self._posterior(observations, actions)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        reconstruction = torch.tanh(self.decoder(observations, mean + log_std.exp() * noise))
        return mse_loss(reconstruction, actions) + 0.5 * _divergences(mean, log_std).mean()

    def divergences(self, observations: Tensor, actions: Tensor) -> Tensor:
        """
        KL(q(z|s, a) || N(0, I)), a mean over the dimensions of z.

        :param observations: (B, O)
        :param actions: (…, B, A)
        :return: (…, B)
        """
        return _divergences(*self._posterior(observations, actions))

    def _posterior(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.encoder(observations, actions).chunk(2, dim=-1)
        return mean, log_std.clamp(-4.0, 15.0)


def _divergences(mean: Tensor, log_std: Tensor) -> Tensor:
    return (0.5 * (mean.square() + torch.exp(2.0 * log_std) - 1.0) - log_std).mean(dim=-1)
