"""The conditional variational autoencoder (CVAE) as a policy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from sb3_prefine.policies.action_noise import uniform_from_actions
from sb3_prefine.policies.networks import ConditionalMLP, default_extractor

# Ceiling of every log-std, as in SAC: for an action far from all data, the encoder's exponential must not overflow.
_LOG_STD_MAX = 2.0
_ENCODER_LOG_STD_MIN = -5.0


class CVAEPolicy(BasePolicy):
    """
    A conditional variational autoencoder with a Gaussian decoder (Kingma & Welling 2014, Sohn et al. 2015).

    The policy is a continuous mixture: z ~ N(0, I), a ~ N(μ(s, z), σ(s, z)). So it can represent several ways to act
    at one state, such as those of the many policies that recorded DSRL's data. It is the paper's reference policy.

    ``log_prob`` is the importance-weighted bound on log π(a|s) with K latents (Burda et al. 2016), half of them from
    the encoder and half from the prior (a defensive mixture, Hesterberg 1995). The encoder alone proposes only latents
    that explained the action when it was trained. Once the decoder changes, other latents explain the action too.
    Without the prior's half, the log-prob would miss them, and could rise while the policy's actions get worse.

    The noise behind the latents is a hash of the actions in the call. So policy and reference score the same actions
    with the same latents, while each batch has different ones. With latents that never change, the decoder would
    overfit them.

    Only behaviour cloning trains the encoder (:meth:`elbo`). The gradient of ``log_prob`` does not reach the encoder or
    the features extractor that it reads: during fine-tuning the latents stay those of the reference.

    The networks see actions scaled to [-1, 1]. As with SB3's Gaussians, samples are clipped to the bounds when the
    policy acts, and scored unclipped.

    The class follows :class:`~sb3_prefine.policies.HasLikelihood`: the parameters of a state are its features.

    :param observation_space: Space of the normalised observations.
    :param action_space: A bounded Box.
    :param lr_schedule: Unused, but SB3 passes it to every policy.
    :param net_arch: Units of each hidden layer, in the encoder and in the decoder.
    :param activation_fn: Activation between the layers.
    :param latent_dim: Dimensions of z; None for twice those of the action.
    :param n_importance_samples: K, the number of latents for a log-prob and for a deterministic action; even.
    :param kl_coef: Weight of the KL divergence in the loss of behaviour cloning. With 1 the loss is minus the evidence
        lower bound of log π(a|s).
    :param log_std_min: Floor of the decoder's log-std, in units of actions scaled to [-1, 1].
    :param features_extractor_class: Features extractor of the observations; None for SB3's default: a CNN for images, a
        combined one for a Dict, and flattening for other spaces.
    :param features_extractor_kwargs: Arguments of the features extractor.
    :param normalize_images: Whether to divide images by 255.
    :raises TypeError: If the action space is not a Box.
    :raises ValueError: If the Box has no bounds, or a number is out of its range.
    """

    # Buffers. Saved files contain the name of ``points``.
    points: Tensor
    middle: Tensor
    half_range: Tensor

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
        self.encoder = ConditionalMLP(n_features, n_actions, self.net_arch, 2 * latent_dim, activation_fn)
        self.decoder = ConditionalMLP(n_features, latent_dim, self.net_arch, 2 * n_actions, activation_fn)
        # Sobol points fill the unit cube evenly, so the bound is tighter than with independent points.
        points = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=0).draw(n_importance_samples)
        self.register_buffer("points", points)
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)

    def params(self, observations: Any) -> Tensor:
        """
        Compute the features of each state.

        :param observations: (B, …), or a dict of such tensors.
        :return: Features (B, F), without gradient.
        """
        with torch.no_grad():
            return self._features(observations)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        Compute the importance-weighted bound on log π(a|s) with K latents.

        :param params: Features (B, F).
        :param actions: Actions (…, B, A).
        :return: The bound, (…, B), in nats.
        """
        points = self.points.view(len(self.points), *(1,) * (actions.dim() - 1), self.latent_dim)
        # Each action rotates the same points around the cube by another vector (Cranley & Patterson 1976).
        return self.bound(params, actions, _to_normal(points + uniform_from_actions(actions, self.latent_dim)))

    def bound(self, params: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """
        Compute the bound log 1/K Σ p(a|s, z_k) p(z_k) / r(z_k|s, a) from given noise.

        The first half of the z_k are from the encoder, μ_q(s, a) + σ_q(s, a) noise_k, the second half from the prior,
        noise_k. The density r is the even mixture of both. The mean over standard normal noise is at most log π(a|s)
        and approaches it as K grows (Burda et al. 2016, Theorem 1).

        :param params: Features (B, F).
        :param actions: Actions (…, B, A).
        :param noise: Noise that broadcasts to (K, …, B, latent_dim).
        :return: The bound, (…, B), in nats.
        """
        with torch.no_grad():
            mean, log_std = self._posterior(params, actions)
            encoder_noise, prior_noise = noise.chunk(2)
            latents = torch.cat((mean + log_std.exp() * encoder_noise, prior_noise.expand(-1, *mean.shape)))
            log_prior = _log_normal(latents, torch.zeros_like(mean), torch.zeros_like(mean))
            log_proposal = torch.logaddexp(_log_normal(latents, mean, log_std), log_prior) - math.log(2.0)
        log_weights = self._log_likelihood(params, latents, actions) + (log_prior - log_proposal)
        return log_weights.logsumexp(dim=0) - math.log(len(latents))

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """
        Draw one action for each state.

        :param params: Features (B, F).
        :param generator: Random generator; None for torch's global one.
        :return: Unclipped actions (B, A).
        """
        latents, noise = _randn(params, (self.latent_dim, len(self.middle)), generator)
        mean, log_std = self._decode(params, latents)
        return self.middle + self.half_range * (mean + log_std.exp() * noise)

    def mode(self, params: Tensor) -> Tensor:
        """
        Choose the deterministic action: of the decoder's means at K latents of the prior, the one of highest density.

        The mean action, or the decoder at z = 0, would not do: with two ways to act, both can lie between them. The
        density is that of the K means, smoothed with one common standard deviation, the root mean square of all K. With
        a standard deviation for each, a single narrow mean would win whatever the others are.

        :param params: Features (B, F).
        :return: Actions (B, A).
        """
        mean, log_std = self._decode(params, _to_normal(self.points).unsqueeze(1))
        smoothing = 0.5 * torch.log(torch.exp(2.0 * log_std).mean(dim=0))
        density = _log_normal(mean.unsqueeze(1), mean, smoothing).logsumexp(dim=1)
        best = density.argmax(dim=0)
        return self.middle + self.half_range * mean[best, torch.arange(len(best), device=best.device)]

    def elbo(
        self, observations: Any, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Compute the two terms of the evidence lower bound, E_q[log p(a|s, z)] from one sample and KL(q(z|s, a) || p(z)).

        The first is the reconstruction. Reconstruction minus KL is a bound on log π(a|s). Both train all networks.

        :param observations: (B, …), or a dict of such tensors.
        :param actions: Actions (B, A).
        :param generator: Random generator of the sample; None for torch's global one.
        :return: Reconstruction and KL divergence, (B,) each, in nats.
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
        return mean, _soft_floor(log_std, _ENCODER_LOG_STD_MIN)

    def _decode(self, features: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of p(a|s, z), (…, B, A) each, for actions scaled to [-1, 1]."""
        mean, log_std = self.decoder(features, latents).chunk(2, dim=-1)
        return mean, _soft_floor(log_std, self.log_std_min)

    def _log_likelihood(self, features: Tensor, latents: Tensor, actions: Tensor) -> Tensor:
        """log p(a|s, z), (…, B), for actions in the environment's units."""
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


def _to_normal(uniform: Tensor) -> Tensor:
    """Map numbers to standard normal ones: the quantiles of their fractional parts."""
    # At 0 and 1 the quantile is infinite.
    return torch.special.ndtri((uniform % 1.0).clamp(1e-6, 1.0 - 1e-6))


def _soft_floor(log_std: Tensor, low: float) -> Tensor:
    """Limit the log-std from below with a gradient everywhere: below a clamp's floor the gradient is 0."""
    return (low + nn.functional.softplus(log_std - low)).clamp(max=_LOG_STD_MAX)


def _log_normal(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over the last dimension, in nats."""
    standard = (values - mean) * torch.exp(-log_std)
    return -(0.5 * standard**2 + log_std + 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def _randn(like: Tensor, sizes: Sequence[int], generator: torch.Generator | None) -> list[Tensor]:
    """Standard normal noise (B, size) for each size."""
    return [torch.randn((len(like), size), generator=generator, device=like.device, dtype=like.dtype) for size in sizes]


def _bounds(space: spaces.Space) -> tuple[Tensor, Tensor]:
    """The lowest and the highest action, (A,) each."""
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"action_space: CVAEPolicy needs a Box, found {space}. Use GaussianPolicy for discrete actions."
        )
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"action_space: {space} has infinite bounds. Give it a bounded Box.")
    low, high = (torch.as_tensor(bound, dtype=torch.float32).flatten() for bound in (space.low, space.high))
    return low, high
