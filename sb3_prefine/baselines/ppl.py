"""PPL: preference learning by the Bradley-Terry model of segments, with the policy's log-ratio as their reward."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn

from sb3_prefine.baselines.bradley_terry import bradley_terry_loss, pair_metrics
from sb3_prefine.baselines.segments import Pairs, build_segments, refuse_recurrent
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.preference_algorithm import PreferenceAlgorithm
from sb3_prefine.utils.validation import (
    check_choice,
    check_count,
    check_positive,
    check_positive_or_none,
)

# What becomes of the log-ratios of a segment's steps.
Reduction = Literal["sum", "mean"]


class PPL(PreferenceAlgorithm):
    """
    Preference learning by the Bradley-Terry model, directly on the policy: the paper's baseline "PPL" (section 5.1),
    which is not the policy-labeled preference learning of Cho et al. (2025).

    The implicit reward of DPO, r = β log π_θ/π_ref (Eq. 2), of a whole segment of an episode takes the place of r_E in
    Eq. 1. Each pair is a segment of a preferred and one of a dispreferred episode, drawn at random; the dynamics cancel
    in the ratio. It starts from π_ref, and there is no supervised (SFT) term. The paper gives neither β nor the length
    of the segments: 64 steps is CPL's. Nothing holds it to what the reference can do: at the default learning rate,
    which is PREFINE's, it can lose the return; at 1e-5 it kept more of it (``benchmarks/README.md``).

    One timestep is one gradient step on ``batch_size`` transitions of each set, so ``batch_size / segment_length``
    pairs. The weights of two segments are multiplied; the order of a pair is right with the mean probability of its two
    labels (:class:`~sb3_prefine.PreferenceBuffer`). Data on disk are read into memory.

    :param policy: the reference π_ref, also the starting point, in any form that ``PREFINE`` takes
    :param preferences: the preferred and dispreferred trajectories; may be given later, as ``model.preferences = …``
    :param env: not used to train; for callbacks and ``get_env()``. Raw: normalisation happens inside the model
    :param learning_rate: of Adam, or a schedule of the progress remaining (from 1 to 0)
    :param batch_size: transitions of each set in one gradient step, as in ``PREFINE``; rounded to whole segments, of
        which there is at least one: 256 are 4 pairs of segments of 64 steps
    :param segment_length: steps of a segment; an episode that is shorter is taken as a whole, and counts towards
        ``batch_size`` as if it was not
    :param beta: temperature β of the reward
    :param reduction: the log-ratios of a segment's steps are added up (``"sum"``: the log-ratio of the segment itself,
        as DPO's of a response), or averaged (``"mean"``: short segments weigh as much as long ones). Where no episode
        is shorter than a segment, the sum with β is the mean with ``segment_length`` · β
    :param log_std_min: floor of the policy's log-std
    :param fixed_std: take a deterministic actor (TD3, DDPG) for a Gaussian of this standard deviation, in units of
        actions scaled to [-1, 1]; None refuses such a policy
    :param temperature: take Q-values (DQN, QR-DQN) for the policy softmax(Q / temperature); None refuses such a policy
    :param max_grad_norm: clip the gradient's norm at this value; None does not clip
    :param optimizer_kwargs: further arguments of Adam, such as ``{"weight_decay": 1e-4}``
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of the batches
    :param device: of the computation
    :param _init_setup_model: build the networks at once
    :raises ValueError: a hyperparameter out of its range, data that do not fit the policy, a missing normaliser
    :raises TypeError: a policy without a likelihood, such as TD3's, or a recurrent one
    """

    def __init__(
        self,
        policy: Reference | Source,
        preferences: PreferenceBuffer | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        segment_length: int = 64,
        beta: float = 0.05,
        reduction: Reduction = "sum",
        log_std_min: float = -5.0,
        fixed_std: float | None = None,
        temperature: float | None = None,
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
        self.beta = beta
        self.reduction = reduction
        self.fixed_std = fixed_std
        self.temperature = temperature
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_count("segment_length", self.segment_length)
        check_positive("beta", self.beta)
        check_choice("reduction", self.reduction, get_args(Reduction))
        check_positive_or_none("fixed_std", self.fixed_std)
        check_positive_or_none("temperature", self.temperature)
        super()._setup_model()

    def train(self, pairs: Pairs) -> None:
        """
        One gradient step.

        :param pairs: of segments
        """
        # log ρ = log π_θ - log π_ref of every step
        logp = self.likelihood.log_prob(self.likelihood.params(self.policy, pairs.inputs), pairs.actions)
        with torch.no_grad():
            logp_ref = self.likelihood_ref.log_prob(pairs.params_ref, pairs.actions)
        log_ratio = pairs.by_step(logp - logp_ref)

        # r = β Σ log ρ of every segment
        rewards = self.beta * log_ratio.sum(dim=-1)
        if self.reduction == "mean":
            rewards = rewards / pairs.lengths

        # Eq. 1: -log σ(r⁺ - r⁻)
        loss = bradley_terry_loss(rewards, pairs.labels, pairs.pair_weights)
        grad_norm = self.descend(loss)
        logp_of_segments = pairs.by_step(logp.detach()).sum(dim=-1) / pairs.lengths
        tensors = (loss.detach(), rewards.detach(), logp_of_segments, pairs.pair_weights, grad_norm)
        self.metrics.defer(_metrics, None, tensors)

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
        likelihood = likelihood_of(policy, self.log_std_min, fixed_std=self.fixed_std, temperature=self.temperature)
        refuse_recurrent("PPL", policy, likelihood)
        return likelihood


def _metrics(
    _: None, loss: Tensor, rewards: Tensor, logp: Tensor, weights: Tensor | None, grad_norm: Tensor
) -> dict[str, Tensor]:
    return {"train/loss": loss, **pair_metrics(rewards, logp, weights), "train/grad_norm": grad_norm}
