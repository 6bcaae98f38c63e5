"""Policies that are trained here: the conditional variational autoencoder (CVAE), and short names of SB3's own."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from sb3_prefine.policies.networks import Conditional, default_extractor

# Ceiling of every log-std, as SAC's: an action far from all data must not overflow the encoder's exponential.
_LOG_STD_MAX = 2.0


class CVAEPolicy(BasePolicy):
    """
    A conditional variational autoencoder with a Gaussian decoder (Kingma & Welling 2014, Sohn et al. 2015).

    The policy is a continuous mixture: z ~ N(0, I), a ~ N(μ(s, z), σ(s, z)). So it can hold several ways to act at one
    state, such as those of the many policies that recorded DSRL's data. It is the paper's reference policy.

    ``log_prob`` is the importance-weighted bound on log π(a|s) with K latents (Burda et al. 2016), half of them of the
    encoder and half of the prior (a defensive mixture, Hesterberg 1995). The encoder alone looks only where the action
    is known to come from. As soon as the decoder changes, that is not all there is, and it could gain where it is not
    looked at: its log-probs would rise while its actions get worse.

    The noise behind the latents is pseudo-random in the actions of the whole call. So policy and reference, asked about
    the same actions, are scored on the same latents, while every batch has other ones: if they never changed, the
    decoder would fit just those.

    The encoder is for behaviour cloning to train (:meth:`elbo`). No gradient of ``log_prob`` reaches it, or the
    features extractor that it reads: the latents stay those of the reference while the decoder is fine-tuned.

    The networks see actions scaled to [-1, 1]. As SB3 does for Gaussians, samples are clipped to the bounds when the
    policy acts, and scored unclipped.

    It follows :class:`~sb3_prefine.policies.HasLikelihood`: the parameters of a state are its features.

    :param observation_space: of normalised observations
    :param action_space: a bounded Box
    :param lr_schedule: unused; what SB3 gives every policy
    :param net_arch: units of the hidden layers, of the encoder and of the decoder
    :param activation_fn: between them
    :param latent_dim: dimensions of z; None is twice those of the action
    :param n_importance_samples: K, even: the latents behind a log-prob, and behind a deterministic action
    :param kl_coef: weight of the KL divergence in the loss of behaviour cloning; 1 makes it the bound of log π(a|s)
    :param log_std_min: floor of the decoder's log-std, in units of actions scaled to [-1, 1]
    :param features_extractor_class: of the observation; None is SB3's for the space: a CNN for images, a combined one
        for a Dict, else flatten
    :param features_extractor_kwargs: its arguments
    :param normalize_images: divide images by 255
    :raises TypeError: an action space other than a Box
    :raises ValueError: a Box without bounds, or a number out of its range
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        net_arch: Sequence[int] = (256, 256),
        activation_fn: type[nn.Module] = nn.ReLU,
        latent_dim: int | None = None,
        n_importance_samples: int = 16,
        kl_coef: float = 1.0,
        log_std_min: float = -5.0,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        low, high = _bounds(action_space)
        n_actions = len(low)
        latent_dim = 2 * n_actions if latent_dim is None else latent_dim
        for name, count, unit in (("latent_dim", latent_dim, 1), ("n_importance_samples", n_importance_samples, 2)):
            if not (isinstance(count, int) and count > 0 and count % unit == 0):
                kind = "an even" if unit == 2 else "a whole"
                raise ValueError(f"{name}: expected {kind} number > 0, found {count}.")
        if not (math.isfinite(kl_coef) and kl_coef >= 0):
            raise ValueError(f"kl_coef: expected a finite number >= 0, found {kl_coef}.")
        if not log_std_min < _LOG_STD_MAX:
            raise ValueError(f"log_std_min: expected a number below {_LOG_STD_MAX:g}, found {log_std_min}.")
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_class or default_extractor(observation_space),
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
        )
        self.net_arch = list(net_arch)
        self.activation_fn = activation_fn
        self.latent_dim = latent_dim
        self.n_importance_samples = n_importance_samples
        self.kl_coef = kl_coef
        self.log_std_min = log_std_min
        self.features_extractor = self.make_features_extractor()
        n_features = self.features_extractor.features_dim
        self.encoder = Conditional(n_features, n_actions, self.net_arch, 2 * latent_dim, activation_fn)
        self.decoder = Conditional(n_features, latent_dim, self.net_arch, 2 * n_actions, activation_fn)
        # They fill the cube evenly, so that the bound is tighter than with independent ones.
        points = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=0).draw(n_importance_samples)
        self.register_buffer("points", points)
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)

    points: Tensor
    middle: Tensor
    half_range: Tensor

    def params(self, observations: Any) -> Tensor:
        """
        :param observations: (B, …), or a dict of such tensors
        :return: features (B, F), without gradient
        """
        with torch.no_grad():
            return self._features(observations)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        The importance-weighted bound on log π(a|s), on K latents.

        :param params: features (B, F)
        :param actions: (…, B, A)
        :return: (…, B), nats
        """
        points = self.points.view(len(self.points), *(1,) * (actions.dim() - 1), self.latent_dim)
        # The same points, shifted round the cube by another vector for every action (Cranley & Patterson 1976).
        return self.bound(params, actions, _normal(points + _pseudo_random(actions, self.latent_dim)))

    def bound(self, params: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """
        log 1/K Σ p(a|s, z_k) p(z_k) / r(z_k|s, a). Half of the z_k are the encoder's, μ_q(s, a) + σ_q(s, a) noise_k,
        half the prior's, noise_k; r is the even mixture of both.

        Its mean over standard normal noise is at most log π(a|s), and nears it from below as K grows (Burda et al.
        2016, Theorem 1).

        :param params: features (B, F)
        :param actions: (…, B, A)
        :param noise: (K, …, B, latent_dim), or what broadcasts to it
        :return: (…, B), nats
        """
        with torch.no_grad():
            mean, log_std = self._posterior(params, actions)
            of_encoder, of_prior = noise.chunk(2)
            latents = torch.cat((mean + log_std.exp() * of_encoder, of_prior.expand(-1, *mean.shape)))
            log_prior = _log_normal(latents, torch.zeros_like(mean), torch.zeros_like(mean))
            log_proposal = torch.logaddexp(_log_normal(latents, mean, log_std), log_prior) - math.log(2.0)
        log_weights = self._log_likelihood(params, latents, actions) + (log_prior - log_proposal)
        return log_weights.logsumexp(dim=0) - math.log(len(latents))

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """
        :param params: features (B, F)
        :return: one action a row, unclipped, (B, A)
        """
        latents, noise = _randn(params, (self.latent_dim, len(self.middle)), generator)
        mean, log_std = self._decode(params, latents)
        return self.middle + self.half_range * (mean + log_std.exp() * noise)

    def mode(self, params: Tensor) -> Tensor:
        """
        The deterministic action: of the decoder's means at K latents of the prior, the one in the densest place.

        Neither the mean action nor the decoder at z = 0 will do: where there are two ways to act, both lie between
        them. The density is that of the means, smoothed by one standard deviation, the root mean square of all K.
        Each with its own, a single narrow one would win whatever the others say.

        :param params: features (B, F)
        :return: (B, A)
        """
        mean, log_std = self._decode(params, _normal(self.points).unsqueeze(1))
        smoothing = 0.5 * torch.log(torch.exp(2.0 * log_std).mean(dim=0))
        density = _log_normal(mean.unsqueeze(1), mean, smoothing).logsumexp(dim=1)
        best = density.argmax(dim=0)
        return self.middle + self.half_range * mean[best, torch.arange(len(best), device=best.device)]

    def elbo(
        self, observations: Any, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        The two terms of the evidence lower bound, E_q[log p(a|s, z)] by one sample and KL(q(z|s, a) || p(z)).

        The gradient of both reaches all of the networks. Reconstruction minus KL is a bound on log π(a|s).

        :param observations: (B, …), or a dict of such tensors
        :param actions: (B, A)
        :param generator: of the sample's noise; None is torch's own
        :return: reconstruction and KL divergence, (B,) each, nats
        """
        features = self._features(observations)
        mean, log_std = self._posterior(features, actions)
        [noise] = _randn(features, (self.latent_dim,), generator)
        reconstruction = self._log_likelihood(features, mean + log_std.exp() * noise, actions)
        kl = (0.5 * (mean**2 + torch.exp(2 * log_std) - 1.0) - log_std).sum(dim=-1)
        return reconstruction, kl

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        params = self.params(observation)
        return self.mode(params) if deterministic else self.sample(params, None)

    def _features(self, observations: Any) -> Tensor:
        return self.extract_features(observations, self.features_extractor)

    def _posterior(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of q(z|s, a), (…, B, latent_dim) each."""
        mean, log_std = self.encoder(features, (actions - self.middle) / self.half_range).chunk(2, dim=-1)
        return mean, _bounded(log_std, -5.0)

    def _decode(self, features: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of p(a|s, z), (…, B, A) each, of actions scaled to [-1, 1]."""
        mean, log_std = self.decoder(features, latents).chunk(2, dim=-1)
        return mean, _bounded(log_std, self.log_std_min)

    def _log_likelihood(self, features: Tensor, latents: Tensor, actions: Tensor) -> Tensor:
        """log p(a|s, z), (…, B), a density of actions in the environment's units."""
        scaled = (actions - self.middle) / self.half_range
        return _log_normal(scaled, *self._decode(features, latents)) - self.half_range.log().sum()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "latent_dim": self.latent_dim,
            "n_importance_samples": self.n_importance_samples,
            "kl_coef": self.kl_coef,
            "log_std_min": self.log_std_min,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }


def _normal(uniform: Tensor) -> Tensor:
    """Standard normal, of numbers that are uniform in [0, 1) but for whole ones."""
    # A point may lie on the edge, whose quantile is infinite.
    return torch.special.ndtri((uniform % 1.0).clamp(1e-6, 1.0 - 1e-6))


def _pseudo_random(actions: Tensor, dim: int) -> Tensor:
    """
    Numbers in [0, 1) that depend on every bit of the actions: of a row's own, and of all of the batch.

    A hash instead of a generator, whose state policy and reference would have to share, and whose seed the host would
    have to fetch.

    :param actions: (…, B, A)
    :return: (…, B, dim)
    """
    n_actions = actions.shape[-1]
    # Odd multipliers, which lose no bit modulo 2^64; that of Knuth's generator MMIX, times an odd number each.
    factors = torch.arange(1, 2 * dim * n_actions, 2, device=actions.device).view(dim, n_actions) * 6364136223846793005
    bits = actions.detach().float().contiguous().view(torch.int32).long()
    hashed = _mixed((bits.unsqueeze(-2) * factors).sum(dim=-1))
    hashed = _mixed(hashed + hashed.flatten(0, -2).sum(dim=0))
    # The low bits: torch's shift to the right copies the sign into the high ones.
    return (hashed & 0xFFFFFF).float() / 2**24


def _mixed(bits: Tensor) -> Tensor:
    """Every bit spread over all 64 (a step of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> 31)


def _bounded(log_std: Tensor, low: float) -> Tensor:
    """Softly at the floor, where a clamp would hold what has reached it for good."""
    return (low + nn.functional.softplus(log_std - low)).clamp(max=_LOG_STD_MAX)


def _log_normal(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over the last dimension, nats."""
    standard = (values - mean) * torch.exp(-log_std)
    return -(0.5 * standard**2 + log_std + 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def _randn(like: Tensor, sizes: Sequence[int], generator: torch.Generator | None) -> list[Tensor]:
    """Standard normal (B, size) for each size."""
    return [torch.randn((len(like), size), generator=generator, device=like.device, dtype=like.dtype) for size in sizes]


def _bounds(space: spaces.Space) -> tuple[Tensor, Tensor]:
    """Lowest and highest action, (A,) each."""
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"action_space: CVAEPolicy needs a Box, found {space}. Use GaussianPolicy for discrete actions."
        )
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"action_space: {space} has to have finite bounds. Give it a bounded one.")
    low, high = (torch.as_tensor(bound, dtype=torch.float32).flatten() for bound in (space.low, space.high))
    return low, high
