"""Contrastive preference learning (CPL, Hejna et al. 2024): the log-prob of an action as its advantage."""

from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn

from sb3_prefine.baselines.bradley_terry import bradley_terry_loss, pair_metrics, weighted_mean
from sb3_prefine.baselines.segment_algorithm import SegmentAlgorithm
from sb3_prefine.baselines.segments import Pairs
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.likelihood import gaussian_around_mode, likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.utils.validation import (
    check_choice,
    check_fraction,
    check_not_negative,
    check_positive,
)

# The advantage is α times log π, or log π/π_ref.
Advantage = Literal["log_prob", "log_ratio"]
# The segments in the behaviour cloning term.
ClonedSegments = Literal["all", "preferred"]


class CPL(SegmentAlgorithm):
    """
    Contrastive preference learning (Hejna et al. 2024), and its KL variant.

    CPL assumes that segments are preferred for their advantages. In the maximum entropy framework the advantage of the
    optimal policy is A = α log π. So the score of a segment is s = Σ γ^t A(s_t, a_t), and the loss of a pair is
    -log exp(s⁺) / (exp(s⁺) + exp(λ s⁻)). With a bias λ < 1 the loss is lower if the actions of both segments are
    likely, which keeps the policy close to the data. In the KL variant A = α log π/π_ref, and the published code uses
    another α and λ::

        CPL(reference, preferences)                                               # CPL
        CPL(reference, preferences, advantage="log_ratio", alpha=0.2, bias=0.75)  # its KL variant
        CPL(reference, preferences, bias=1.0, bc_coef=1.0)                        # its BC variant

    Training starts from π_ref. The original starts from a policy that was cloned from all segments, with a new
    optimizer; in the KL variant this policy is π_ref::

        cloned = BC("GaussianPolicy", preferences.preferred + preferences.dispreferred, env).learn(200_000)
        CPL(cloned, preferences).learn(300_000)

    The original's policy is a Gaussian of unit variance around the network's output: ``fixed_std=1``. Its published
    code uses minus the squared error, which is ``fixed_std=0.5**0.5``, without the normalising constant of the density,
    which a bias below 1 does not cancel; neither does this class add the constant. The policy's own standard deviation
    is not trained then. α and λ were chosen for such scores. The policy's own likelihood (``fixed_std=None``) gives
    scores that depend on its standard deviation and on the units of the actions. The original also uses dropout, and a
    learning rate that warms up, which a schedule does.

    One timestep is one gradient step on ``batch_size`` transitions of each set, that is ``batch_size /
    segment_length`` pairs. The weight of a pair is the product of the weights of its segments, and the probability that
    its order is right is the mean of their labels (:class:`~sb3_prefine.PreferenceBuffer`). Data on disk are read into
    memory.

    Below, the parameters of the model and the data come first, then those of the objective, of the optimisation, and
    of SB3's interface.

    :param policy: The reference π_ref, also the starting point, in any form that ``PREFINE`` takes.
    :param preferences: The preferred and dispreferred trajectories, or None to set them later: ``model.preferences =
        …``.
    :param env: An environment or its id, for callbacks and ``get_env()``. Training does not use it. Pass it without
        normalisation, which happens inside the model.
    :param fixed_std: Standard deviation of a Gaussian around the policy's mean action that scores actions, in units of
        actions scaled to [-1, 1], without its normalising constant. None uses the policy's own likelihood, which
        discrete policies, ``CVAEPolicy`` and your own policies need.
    :param temperature: Temperature of the policy softmax(Q / temperature) for Q-values (DQN, QR-DQN). None refuses such
        a policy.
    :param log_std_min: Floor of the policy's log standard deviation, in its own likelihood.

    :param advantage: ``"log_prob"`` for A = α log π, or ``"log_ratio"`` for A = α log π/π_ref (KL variant).
    :param alpha: Temperature α of the advantage.
    :param bias: Bias λ of the dispreferred segment's score, in (0, 1]. 1 means no bias.
    :param gamma: Discount factor γ of the steps since the start of the segment, in (0, 1]. The published code has none.
    :param bc_coef: Weight of a behaviour cloning term: minus the mean log-prob of the steps.
    :param bc_data: Segments to clone: ``"all"`` (the published configurations) or ``"preferred"``.

    :param learning_rate: Adam's learning rate, or a schedule of the remaining progress (from 1 to 0).
    :param batch_size: Number of transitions of each set in one gradient step, as in ``PREFINE``. It is rounded to whole
        segments, at least one: 256 transitions are 4 pairs of segments of 64 steps,
        and the original's 96 pairs are 6144.
    :param segment_length: Number of steps of a segment. A shorter episode is one segment, and counts as a whole one
        in ``batch_size``.
    :param max_grad_norm: Bound of the gradient's norm, or None for no clipping.
    :param optimizer_kwargs: Further keyword arguments of Adam, such as ``{"weight_decay": 1e-4}``.

    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of the batches.
    :param device: Device of the computation.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises ValueError: If a hyperparameter is out of its range, the data do not fit the policy, or a normaliser is
        missing.
    :raises TypeError: If the policy does not have the likelihood that is asked for, or is recurrent.
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
        check_choice("advantage", self.advantage, get_args(Advantage))
        check_positive("alpha", self.alpha)
        check_fraction("bias", self.bias)
        check_fraction("gamma", self.gamma)
        check_not_negative("bc_coef", self.bc_coef)
        check_choice("bc_data", self.bc_data, get_args(ClonedSegments))
        super()._setup_model()

    def train(self, pairs: Pairs) -> None:
        """
        Make one gradient step.

        :param pairs: Pairs of segments.
        """
        # A = α log π, or α log π/π_ref, of every step
        logp = self.likelihood.log_prob(self.likelihood.params(self.policy, pairs.inputs), pairs.actions)
        advantages = self.alpha * pairs.by_step(logp - self._baseline(pairs))

        # s = Σ γ^t A of every segment
        discounts = self.gamma ** torch.arange(advantages.shape[-1], device=self.device)
        scores = (discounts * advantages).sum(dim=-1)

        # -log exp(s⁺) / (exp(s⁺) + exp(λ s⁻))
        preference_loss = bradley_terry_loss(scores, pairs.labels, pairs.pair_weights, self.bias)
        bc_loss = -self._mean_log_prob(pairs.by_step(logp), pairs)
        loss = preference_loss + self.bc_coef * bc_loss
        grad_norm = self.descend(loss)
        losses = torch.stack((loss, preference_loss, bc_loss)).detach()
        logp_of_segments = pairs.by_step(logp.detach()).sum(dim=-1) / pairs.lengths
        tensors = (losses, scores.detach(), logp_of_segments, pairs.pair_weights, grad_norm)
        self.metrics.defer(_metrics, None, tensors)

    @torch.no_grad()
    def _baseline(self, pairs: Pairs) -> Tensor | float:
        """Log-probs of the reference in the KL variant, (2 · n · L,), otherwise 0."""
        if self.advantage == "log_prob":
            return 0.0
        return self.likelihood_ref.log_prob(pairs.params_ref, pairs.actions)

    def _mean_log_prob(self, logp: Tensor, pairs: Pairs) -> Tensor:
        """
        Average the log-probs of the steps to clone.

        :param logp: Log-probs of the policy, (2, n, L).
        :param pairs: Pairs of segments.
        :return: A scalar.
        """
        n_sets = 2 if self.bc_data == "all" else 1
        counts = pairs.is_real.to(logp.dtype)
        if pairs.weights is not None:
            counts = counts * pairs.weights[..., None]
        return weighted_mean(logp[:n_sets], counts[:n_sets])

    def _build_likelihood(self, policy: nn.Module) -> Likelihood:
        if self.fixed_std is not None and self.temperature is not None:
            raise ValueError(
                f"temperature: {self.temperature} needs the policy's own likelihood. Pass fixed_std=None too."
            )
        if self.fixed_std is None:
            return likelihood_of(policy, self.log_std_min, temperature=self.temperature)
        return gaussian_around_mode(policy, self.fixed_std)


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
