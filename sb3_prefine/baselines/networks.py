"""Networks of the baselines: critics, and CPQ's VAE of actions."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sb3_prefine.policies.networks import ConditionalMLP


class Critics(nn.Module):
    """
    Several multilayer perceptrons with ReLUs, the same inputs and one output each, computed together.

    Weights are initialised as in ``nn.Linear``.

    :param n_inputs: Number of inputs D.
    :param n_critics: Number of critics n.
    :param net_arch: Numbers of units in the hidden layers.
    """

    def __init__(self, n_inputs: int, n_critics: int, net_arch: Sequence[int]) -> None:
        super().__init__()
        sizes = list(pairwise([n_inputs, *net_arch, 1]))
        self.weights = nn.ParameterList(_uniform((n_critics, n_in, n_out), n_in) for n_in, n_out in sizes)
        self.biases = nn.ParameterList(_uniform((n_critics, 1, n_out), n_in) for n_in, n_out in sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Compute the outputs of all critics.

        :param inputs: Inputs, (B, D).
        :return: Outputs, (n, B).
        """
        *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)
        layer = self._each(inputs)
        for hidden_weight, hidden_bias in hidden:
            layer = torch.baddbmm(hidden_bias, layer, hidden_weight).relu_()
        return torch.baddbmm(bias, layer, weight).squeeze(-1)

    def input_gradients(self, inputs: Tensor) -> Tensor:
        """
        Compute the gradient of each output with respect to the inputs, itself with gradient to the weights.

        Gradient penalties need it. Between the kinks of its ReLUs a network is a product of matrices, which is its
        gradient. The result equals autograd's gradient, without a double backward pass.

        :param inputs: Inputs, (B, D).
        :return: Gradients, (n, B, D).
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
        """Expand inputs for all critics, (B, D) -> (n, B, D)."""
        return inputs.expand(len(self.weights[0]), -1, -1)


def _uniform(shape: tuple[int, ...], n_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-(n_in**-0.5), n_in**-0.5))


class ActionVAE(nn.Module):
    """
    A conditional variational autoencoder of actions, scaled to [-1, 1], as in BCQ (Fujimoto et al. 2019).

    :param n_observations: Dimensions O of an observation.
    :param n_actions: Dimensions A of an action. The latent has 2 A dimensions.
    :param net_arch: Numbers of units in the hidden layers of encoder and decoder.
    """

    def __init__(self, n_observations: int, n_actions: int, net_arch: Sequence[int]) -> None:
        super().__init__()
        n_latents = 2 * n_actions
        relu = partial(nn.ReLU, inplace=True)
        self.encoder = ConditionalMLP(n_observations, n_actions, net_arch, 2 * n_latents, relu)
        self.decoder = ConditionalMLP(n_observations, n_latents, net_arch, n_actions, relu)

    def loss(self, observations: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """
        Compute the mean squared error of the reconstruction + 0.5 KL(q(z|s, a) || N(0, I)), averaged over dimensions.

        :param observations: Observations, (B, O).
        :param actions: Actions, (B, A).
        :param generator: Random generator of the latents.
        :return: The loss, a scalar.
        """
        mean, log_std = self._posterior(observations, actions)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        reconstruction = torch.tanh(self.decoder(observations, mean + log_std.exp() * noise))
        return mse_loss(reconstruction, actions) + 0.5 * _divergences(mean, log_std).mean()

    def divergences(self, observations: Tensor, actions: Tensor) -> Tensor:
        """
        Compute KL(q(z|s, a) || N(0, I)), averaged over the dimensions of z.

        :param observations: Observations, (B, O).
        :param actions: Actions, (…, B, A).
        :return: Divergences, (…, B).
        """
        return _divergences(*self._posterior(observations, actions))

    def _posterior(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.encoder(observations, actions).chunk(2, dim=-1)
        return mean, log_std.clamp(-4.0, 15.0)


def _divergences(mean: Tensor, log_std: Tensor) -> Tensor:
    return (0.5 * (mean.square() + torch.exp(2.0 * log_std) - 1.0) - log_std).mean(dim=-1)
