"""PPL: preference learning from pairs of segments, with the policy's log-ratio as their reward."""

from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn

from sb3_prefine.baselines.bradley_terry import bradley_terry_loss, pair_metrics
from sb3_prefine.baselines.segment_algorithm import SegmentAlgorithm
from sb3_prefine.baselines.segments import Pairs
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.utils.validation import (
    check_choice,
    check_positive,
)

# How the log-ratios of a segment's steps are combined.
Reduction = Literal["sum", "mean"]


class PPL(SegmentAlgorithm):
    """
    Preference learning with the Bradley-Terry model, directly on the policy.

    This is the paper's baseline "PPL" (section 5.1), not the policy-labeled preference learning of Cho et al. (2025).
    The implicit reward of DPO, r = β log π_θ/π_ref (Eq. 2), summed over a segment of an episode, replaces r_E in Eq. 1.
    A pair consists of a random segment of a preferred episode and one of a dispreferred episode; the dynamics cancel in
    the ratio. Training starts from π_ref, without a supervised (SFT) term.

    The paper specifies neither β nor the length of the segments; 64 steps are those of CPL. Nothing keeps the policy
    close to the reference: at the default learning rate, which is PREFINE's, it can lose the return; at 1e-5 it kept
    more of it (``benchmarks/README.md``).

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
    :param fixed_std: Standard deviation of a Gaussian around a deterministic actor (TD3, DDPG), in units of actions
        scaled to [-1, 1]. None refuses such a policy.
    :param temperature: Temperature of the policy softmax(Q / temperature) for Q-values (DQN, QR-DQN). None refuses such
        a policy.
    :param log_std_min: Floor of the policy's log standard deviation.

    :param beta: Temperature β of the reward.
    :param reduction: ``"sum"`` adds up the log-ratios of a segment's steps, which gives the log-ratio of the segment,
        as DPO's of a response. ``"mean"`` averages them, so that short segments have the same weight as long ones. If
        no episode is shorter than a segment, the sum with β equals the mean with ``segment_length`` · β.

    :param learning_rate: Adam's learning rate, or a schedule of the remaining progress (from 1 to 0).
    :param batch_size: Number of transitions of each set in one gradient step, as in ``PREFINE``. It is rounded to whole
        segments, at least one: 256 transitions are 4 pairs of segments of 64 steps.
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
    :raises TypeError: If the policy has no likelihood, such as TD3's, or is recurrent.
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
        check_positive("beta", self.beta)
        check_choice("reduction", self.reduction, get_args(Reduction))
        super()._setup_model()

    def train(self, pairs: Pairs) -> None:
        """
        Make one gradient step.

        :param pairs: Pairs of segments.
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

    def _build_likelihood(self, policy: nn.Module) -> Likelihood:
        return likelihood_of(policy, self.log_std_min, fixed_std=self.fixed_std, temperature=self.temperature)


def _metrics(
    _: None, loss: Tensor, rewards: Tensor, logp: Tensor, weights: Tensor | None, grad_norm: Tensor
) -> dict[str, Tensor]:
    return {"train/loss": loss, **pair_metrics(rewards, logp, weights), "train/grad_norm": grad_norm}
