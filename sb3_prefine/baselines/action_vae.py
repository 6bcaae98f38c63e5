"""A variational autoencoder of actions, which tells how far an action is from those of the data."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sb3_prefine.policies import Conditional


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
