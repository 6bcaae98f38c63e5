"""Contrastive preference learning (CPL, Hejna et al. 2024): the log-prob of an action as its advantage."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn

from sb3_prefine.baselines.bradley_terry import bradley_terry_loss, pair_metrics, weighted_mean
from sb3_prefine.baselines.segments import Pairs, build_segments, refuse_recurrent
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.likelihood import gaussian_around_mode, likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.preference_algorithm import PreferenceAlgorithm
from sb3_prefine.utils.validation import (
    check_choice,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
    check_positive_or_none,
)

# What an advantage is α times of: log π, or log π/π_ref.
Advantage = Literal["log_prob", "log_ratio"]
# Which segments the behaviour cloning term is of.
ClonedSegments = Literal["all", "preferred"]


class CPL(PreferenceAlgorithm):
    """
    Contrastive preference learning (Hejna et al. 2024), and its KL variant.

    A segment is preferred for its advantage, and in the maximum entropy framework that of the optimal policy is
    A = α log π. So the score of a segment is s = Σ γ^t A(s_t, a_t), and the loss -log exp(s⁺) / (exp(s⁺) + exp(λ s⁻)):
    with a bias λ below 1 the loss is lower where the actions of both segments are likely, so it keeps to the data. The
    KL variant has A = α log π/π_ref; in the published code it goes with another α and λ::

        CPL(reference, preferences)                                               # CPL
        CPL(reference, preferences, advantage="log_ratio", alpha=0.2, bias=0.75)  # its KL variant
        CPL(reference, preferences, bias=1.0, bc_coef=1.0)                        # its BC variant

    It starts from π_ref. The original starts from a policy cloned from all segments, with a new optimizer, and in the
    KL variant that policy is π_ref::

        cloned = BC("GaussianPolicy", preferences.preferred + preferences.dispreferred, env).learn(200_000)
        CPL(cloned, preferences).learn(300_000)

    The original's policy is a Gaussian of unit variance around the network's output: ``fixed_std=1``. Its published
    code takes minus the squared error itself, which is ``fixed_std=0.5**0.5``, and leaves out the normalising constant
    of the density, which a bias below 1 does not cancel; so it is here. The policy's own standard deviation is not
    trained then. α and λ were chosen for such scores: by the policy's own likelihood (``fixed_std=None``) scores depend
    on its standard deviation and on the units of the actions. Beyond this, the original has dropout, and a learning
    rate that warms up (a schedule does that).

    One timestep is one gradient step on ``batch_size`` transitions of each set, so ``batch_size / segment_length``
    pairs. The weights of two segments are multiplied; the order of a pair is right with the mean probability of its two
    labels (:class:`~sb3_prefine.PreferenceBuffer`). Data on disk are read into memory.

    :param policy: the reference π_ref, also the starting point, in any form that ``PREFINE`` takes
    :param preferences: the preferred and dispreferred trajectories; may be given later, as ``model.preferences = …``
    :param env: not used to train; for callbacks and ``get_env()``. Raw: normalisation happens inside the model
    :param learning_rate: of Adam, or a schedule of the progress remaining (from 1 to 0)
    :param batch_size: transitions of each set in one gradient step, as in ``PREFINE``; rounded to whole segments, of
        which there is at least one: 256 are 4 pairs of segments of 64 steps, the original's 96 pairs are 6144
    :param segment_length: steps of a segment; an episode that is shorter is taken as a whole, and counts towards
        ``batch_size`` as if it was not
    :param advantage: α times the ``"log_prob"`` log π, or the ``"log_ratio"`` log π/π_ref (KL variant)
    :param alpha: temperature α of the advantage
    :param bias: λ, in (0, 1], of the score of the dispreferred segment; 1 is none
    :param gamma: discount factor γ in (0, 1], of the steps since the start of the segment; the published code has none
    :param bc_coef: weight of a behaviour cloning term, minus the mean log-prob of a step
    :param bc_data: of which segments: ``"all"`` (the published configurations) or ``"preferred"``
    :param fixed_std: score actions by a Gaussian of this standard deviation around the policy's mean action, in units
        of actions scaled to [-1, 1], without its normalising constant; None: by the policy's own likelihood, which
        discrete policies, ``CVAEPolicy`` and policies of your own need
    :param temperature: take Q-values (DQN, QR-DQN) for the policy softmax(Q / temperature); None refuses such a policy
    :param log_std_min: floor of the policy's log-std, for its own likelihood
    :param max_grad_norm: clip the gradient's norm at this value; None does not clip
    :param optimizer_kwargs: further arguments of Adam, such as ``{"weight_decay": 1e-4}``
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of the batches
    :param device: of the computation
    :param _init_setup_model: build the networks at once
    :raises ValueError: a hyperparameter out of its range, data that do not fit the policy, a missing normaliser
    :raises TypeError: a policy without the likelihood that is asked for, or a recurrent one
    """

    def __init__(
        self,
        policy: Reference | Source,
        preferences: PreferenceBuffer | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-4,
        batch_size: int = 256,
        segment_length: int = 64,
        advantage: Advantage = "log_prob",
        alpha: float = 0.1,
        bias: float = 0.5,
        gamma: float = 1.0,
        bc_coef: float = 0.0,
        bc_data: ClonedSegments = "all",
        fixed_std: float | None = 1.0,
        temperature: float | None = None,
        log_std_min: float = -5.0,
        max_grad_norm: float | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            preferences,
            env,
            learning_rate,
            batch_size,
            log_std_min,
            max_grad_norm,
            optimizer_kwargs,
            stats_window_size,
            tensorboard_log,
            verbose,
            seed,
            device,
        )
        self.segment_length = segment_length
        self.advantage = advantage
        self.alpha = alpha
        self.bias = bias
        self.gamma = gamma
        self.bc_coef = bc_coef
        self.bc_data = bc_data
        self.fixed_std = fixed_std
        self.temperature = temperature
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_count("segment_length", self.segment_length)
        check_choice("advantage", self.advantage, get_args(Advantage))
        check_positive("alpha", self.alpha)
        check_fraction("bias", self.bias)
        check_fraction("gamma", self.gamma)
        check_not_negative("bc_coef", self.bc_coef)
        check_choice("bc_data", self.bc_data, get_args(ClonedSegments))
        check_positive_or_none("fixed_std", self.fixed_std)
        check_positive_or_none("temperature", self.temperature)
        super()._setup_model()

    def train(self, pairs: Pairs) -> None:
        """
        One gradient step.

        :param pairs: of segments
        """
        # A = α log π, or α log π/π_ref, of every step
        logp = self.likelihood.log_prob(self.likelihood.params(self.policy, pairs.inputs), pairs.actions)
        advantages = self.alpha * pairs.by_step(logp - self._baseline(pairs))

        # s = Σ γ^t A of every segment
        discounts = self.gamma ** torch.arange(advantages.shape[-1], device=self.device)
        scores = (discounts * advantages).sum(dim=-1)

        # -log exp(s⁺) / (exp(s⁺) + exp(λ s⁻))
        preference_loss = bradley_terry_loss(scores, pairs.labels, pairs.pair_weights, self.bias)
        bc_loss = -self._mean_of_cloned(pairs.by_step(logp), pairs)
        loss = preference_loss + self.bc_coef * bc_loss
        grad_norm = self.descend(loss)
        losses = torch.stack((loss, preference_loss, bc_loss)).detach()
        logp_of_segments = pairs.by_step(logp.detach()).sum(dim=-1) / pairs.lengths
        tensors = (losses, scores.detach(), logp_of_segments, pairs.pair_weights, grad_norm)
        self.metrics.defer(_metrics, None, tensors)

    @torch.no_grad()
    def _baseline(self, pairs: Pairs) -> Tensor | float:
        """What log π is measured from, (2 · n · L,) or 0."""
        if self.advantage == "log_prob":
            return 0.0
        return self.likelihood_ref.log_prob(pairs.params_ref, pairs.actions)

    def _mean_of_cloned(self, logp: Tensor, pairs: Pairs) -> Tensor:
        """
        The mean log-prob of the steps that are cloned.

        :param logp: (2, n, L)
        """
        n_sets = 2 if self.bc_data == "all" else 1
        counts = pairs.is_real.to(logp.dtype)
        if pairs.weights is not None:
            counts = counts * pairs.weights[..., None]
        return weighted_mean(logp[:n_sets], counts[:n_sets])

    @property
    def _n_pairs(self) -> int:
        return max(1, round(self.batch_size / self.segment_length))

    @property
    def _states_per_update(self) -> int:
        return 2 * self._n_pairs * self.segment_length

    def batches(self) -> Iterator[Pairs]:
        segments = build_segments(self._given_preferences(), self.reference, self.likelihood, self.device)
        return segments.batches(self._n_pairs, self.segment_length, self.generator)

    def _build_likelihood(self, policy: nn.Module) -> Likelihood:
        if self.fixed_std is not None and self.temperature is not None:
            raise ValueError(
                f"temperature: {self.temperature} is for the policy's own likelihood. Pass fixed_std=None with it."
            )
        if self.fixed_std is None:
            likelihood = likelihood_of(policy, self.log_std_min, temperature=self.temperature)
        else:
            likelihood = gaussian_around_mode(policy, self.fixed_std)
        refuse_recurrent("CPL", policy, likelihood)
        return likelihood


def _metrics(
    _: None, losses: Tensor, scores: Tensor, logp: Tensor, weights: Tensor | None, grad_norm: Tensor
) -> dict[str, Tensor]:
    loss, preference_loss, bc_loss = losses
    return {
        "train/loss": loss,
        "train/preference_loss": preference_loss,
        "train/bc_loss": bc_loss,
        **pair_metrics(scores, logp, weights),
        "train/grad_norm": grad_norm,
    }
