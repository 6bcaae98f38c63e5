"""Constraints penalized Q-learning (CPQ, Xu et al. 2022): offline RL with a limit on the cost of an episode."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor
from torch.func import functional_call

from sb3_prefine.baselines.networks import ActionVAE, Critics
from sb3_prefine.baselines.new_policy import open_or_create_policy
from sb3_prefine.baselines.transitions import Transitions, transitions_of, vector_sizes
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.policies.likelihood import likelihood_of, trainable_parameters
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.draw_rows import draw_rows_forever
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.training.optimizer import descend
from sb3_prefine.utils.validation import (
    check_count,
    check_discount,
    check_fraction,
    check_not_negative,
    check_positive,
    check_training,
)

# Bounds of log α, as in OSRL.
_LOG_ALPHA_BOUND = 5.0


class CPQ(OfflineAlgorithm):
    """
    Constraints penalized Q-learning (Xu, Zhan & Zhu, AAAI 2022), with the hyperparameters of OSRL (Liu et al. 2024).

    Two critics learn the return Q and two critics the cost Q_c; of each two, the minimum is used. An action whose
    expected cost is above the threshold has no value, neither as a bootstrapped value nor in the policy's loss. A
    variational autoencoder (VAE) finds actions that are out of the distribution (OOD) of the data, whose cost is then
    raised. Every update is a step of the VAE and the critics, and then of the policy.

    The threshold expresses ``cost_limit`` on the scale of Q_c: κ (1 - γ^T) / ((1 - γ) T) for an episode of ``horizon``
    steps T with equal costs at all steps (:func:`cost_threshold`).

    Where OSRL differs from the paper, this class follows the paper:

    - ``ood_grad``: the OOD term trains the cost critics. In OSRL it has no gradient, so that neither the VAE nor α nor
      the OOD actions influence the policy: ``ood_grad=False``
    - the OOD term is the mean over the OOD actions; in OSRL it is the mean over all sampled actions, with 0 for others
    - sampled actions are squashed by tanh before critics and VAE read them
    - Q_c, like Q, is not bootstrapped at the ends of episodes that the environment ended (``terminals``)

    Where the paper differs from OSRL in other respects, it follows OSRL: the VAE is trained together with the other
    networks, not before them; OOD actions are those of the largest divergences in the batch (``ood_quantile``), not
    those above a fixed divergence; their target cost is 1.5 thresholds (``ood_scale``), not 1.

    One timestep is one gradient step on ``batch_size`` transitions, drawn with replacement; OSRL makes 100,000.

    Below, the parameters of the policy and the data come first, then those of the objective, of the optimisation, and
    of SB3's interface.

    :param policy: ``"SquashedPolicy"`` or a policy class for a new policy; see
        :func:`~sb3_prefine.policies.make_policy`. Or an existing policy, in any form that ``load_reference`` takes,
        whose training continues from its weights. It has to be a squashed Gaussian, such as SAC's.
    :param trajectories: The data, with rewards and costs, or None to set them later: ``model.trajectories = …``.
    :param cost_limit: Limit κ of the sum of costs in an episode.
    :param env: An environment or its id, which determines the spaces of a new policy. None takes the spaces from the
        data: observations without bounds, actions in [-1, 1]. Training does not use the environment. Pass it without
        normalisation, which happens inside the model.
    :param normalize: Whether to normalise the observations of a new policy by the mean and variance of
        ``trajectories``. An existing policy keeps its normaliser. Critics and VAE read the same observations as the
        policy.
    :param log_std_min: Floor of the policy's log standard deviation.
    :param policy_kwargs: Further keyword arguments of a new policy, such as ``{"net_arch": [64, 64]}``.
    :param net_arch: Numbers of units in the hidden layers of the critics.
    :param vae_net_arch: Numbers of units in the hidden layers of the VAE's encoder and decoder. Its latent has twice
        the dimensions of the action.

    :param gamma: Discount factor γ, in (0, 1).
    :param reward_scale: Factor of the rewards.
    :param horizon: Number of steps T of an episode. None takes the length of the longest episode in the data.
    :param n_samples: Number of actions K to sample from the policy at each state, in search of OOD actions.
    :param ood_quantile: Fraction of the sampled actions that counts as in the distribution, in [0, 1).
    :param ood_scale: Target cost of OOD actions, in thresholds: α rises while they cost less, and falls while they cost
        more.
    :param ood_grad: Whether the OOD term trains the cost critics, as in the paper. False follows OSRL.

    :param learning_rate: Learning rate of the policy's Adam, or a schedule of the remaining progress (from 1 to 0).
    :param critic_learning_rate: Learning rate of the critics' Adam.
    :param vae_learning_rate: Learning rate of the VAE's Adam.
    :param alpha_learning_rate: Step size of the gradient ascent of log α.
    :param batch_size: Number of transitions in one gradient step.
    :param tau: Fraction by which the target networks approach the critics in an update (Polyak averaging), in (0, 1].
    :param max_grad_norm: Bound of the gradient norm of policy, critics and VAE each, or None for no clipping.

    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of the networks' weights, the batches and all noise.
    :param device: Device of the computation.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises ValueError: If a hyperparameter is out of its range, ``cost_limit`` is missing, the data do not fit the
        policy, or costs are unknown.
    :raises TypeError: If the policy is not a squashed Gaussian, or the spaces are not vectors of numbers.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy] | Reference | Source,
        trajectories: Trajectories | None = None,
        cost_limit: float | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-4,
        critic_learning_rate: float = 1e-3,
        vae_learning_rate: float = 1e-3,
        alpha_learning_rate: float = 1e-4,
        batch_size: int = 512,
        gamma: float = 0.99,
        tau: float = 0.005,
        reward_scale: float = 0.1,
        horizon: int | None = None,
        n_samples: int = 10,
        ood_quantile: float = 0.75,
        ood_scale: float = 1.5,
        ood_grad: bool = True,
        net_arch: Sequence[int] = (256, 256),
        vae_net_arch: Sequence[int] = (400, 400),
        normalize: bool = True,
        log_std_min: float = -5.0,
        max_grad_norm: float | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        reference = open_or_create_policy(policy, trajectories, env, normalize, policy_kwargs, seed)
        super().__init__(reference, env, learning_rate, stats_window_size, tensorboard_log, verbose, seed, device)
        self.trajectories = trajectories
        self.cost_limit = cost_limit
        self.critic_learning_rate = critic_learning_rate
        self.vae_learning_rate = vae_learning_rate
        self.alpha_learning_rate = alpha_learning_rate
        self.batch_size = batch_size
        self.gamma = gamma
        self.tau = tau
        self.reward_scale = reward_scale
        self.horizon = horizon
        self.n_samples = n_samples
        self.ood_quantile = ood_quantile
        self.ood_scale = ood_scale
        self.ood_grad = ood_grad
        self.net_arch = list(net_arch)
        self.vae_net_arch = list(vae_net_arch)
        self.log_std_min = log_std_min
        self.max_grad_norm = max_grad_norm
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_hyperparameters()
        super()._setup_model()
        n_observations, n_actions = vector_sizes("CPQ", self.observation_space, self.action_space)
        self.likelihood = likelihood_of(self.policy, self.log_std_min)
        if self.likelihood.family != "squashed Gaussian" or self.likelihood.needs != "observations":
            raise TypeError(
                f"policy: {type(self.policy).__name__} is a {self.likelihood.family}. CPQ trains a squashed Gaussian, "
                "whose actions stay within bounds: use SquashedPolicy, or a policy of SAC."
            )
        if self.trajectories is not None:
            self._check(self.trajectories)
        self.critic, self.cost_critic = (
            Critics(n_observations + n_actions, 2, self.net_arch).to(self.device) for _ in range(2)
        )
        self.critic_target, self.cost_critic_target = (
            deepcopy(critic).requires_grad_(False) for critic in (self.critic, self.cost_critic)
        )
        self.vae = ActionVAE(n_observations, n_actions, self.vae_net_arch).to(self.device)
        self.log_alpha = torch.zeros((), device=self.device)
        actor = trainable_parameters(self.policy, self.likelihood, self._example_inputs(1))
        critics = [*self.critic.parameters(), *self.cost_critic.parameters()]
        self.optimizer = torch.optim.Adam(actor, lr=self.lr_schedule(1.0), fused=True)
        self.critic_optimizer = torch.optim.Adam(critics, lr=self.critic_learning_rate, fused=True)
        self.vae_optimizer = torch.optim.Adam(self.vae.parameters(), lr=self.vae_learning_rate, fused=True)

    def train(self, batch: "TransitionsWithCosts") -> None:
        """
        Make one gradient step of all networks.

        :param batch: The transitions to learn from.
        """
        # The policy changes last, so its distribution at these states is computed once.
        params = self.likelihood.params(self.policy, batch.observations)

        vae_loss = self.vae.loss(batch.observations, batch.actions, self.generator)
        critic_loss, cost_critic_loss = self._bellman_losses(batch)
        ood_cost = self._ood_cost(batch.observations, params.detach())
        ood_gap = self.ood_scale * self.cost_threshold - ood_cost
        alpha = self.log_alpha.exp()
        loss = vae_loss + critic_loss + cost_critic_loss + alpha * ood_gap
        descend((self.vae_optimizer, self.critic_optimizer), loss, self._guard.check_part, self.max_grad_norm)
        self._ascend_alpha(alpha * ood_gap.detach())

        policy_loss, is_safe = self._policy_loss(batch.observations, params)
        grad_norm = self.descend(policy_loss)
        for target, critic in ((self.critic_target, self.critic), (self.cost_critic_target, self.cost_critic)):
            torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in critic.parameters()], self.tau)
        self.metrics.add(
            {
                "train/vae_loss": vae_loss.detach(),
                "train/critic_loss": critic_loss.detach(),
                "train/cost_critic_loss": cost_critic_loss.detach(),
                "train/ood_cost": ood_cost.detach(),
                "train/alpha": alpha,
                "train/policy_loss": policy_loss.detach(),
                "train/safe": is_safe.mean(),
                "train/grad_norm": grad_norm,
            }
        )

    def _bellman_losses(self, batch: "TransitionsWithCosts") -> tuple[Tensor, Tensor]:
        """
        Compute the losses of Q, with the target r + γ 1[Q_c(s', a') <= threshold] Q(s', a'), and of Q_c.

        :param batch: The transitions to learn from.
        :return: Mean squared errors of Q and of Q_c, each summed over its two critics, scalars.
        """
        with torch.no_grad():
            params = self.likelihood.params(self.policy, batch.next_observations)
            after = torch.cat((batch.next_observations, self._sample(params)), dim=1)
            next_value, next_cost = self.critic_target(after).amin(dim=0), self.cost_critic_target(after).amin(dim=0)
            is_safe = next_cost <= self.cost_threshold
            values = self.reward_scale * batch.rewards + self.gamma * batch.continues * is_safe * next_value
            costs = batch.costs + self.gamma * batch.continues * next_cost
        here = batch.inputs
        return _squared_error(self.critic(here), values), _squared_error(self.cost_critic(here), costs)

    def _ood_cost(self, observations: Tensor, params: Tensor) -> Tensor:
        """
        Average Q_c over OOD actions: sampled actions whose posterior in the VAE diverges most from the prior.

        :param observations: Observations, (B, O).
        :param params: Parameters of the policy's distribution there, without gradient, (B, P).
        :return: A scalar, with gradient to Q_c if ``ood_grad``, otherwise from the target network, as in OSRL.
        """
        with torch.no_grad():
            actions = self._sample(params.expand(self.n_samples, -1, -1))
            divergences = self.vae.divergences(observations, actions).flatten()
            chosen = divergences.topk(n_above(len(divergences), self.ood_quantile), sorted=False).indices
            states = observations.index_select(0, chosen % len(observations))
            ood = torch.cat((states, actions.flatten(0, 1).index_select(0, chosen)), dim=1)
            if not self.ood_grad:
                return self.cost_critic_target(ood).amin(dim=0).mean()
        return self.cost_critic(ood).amin(dim=0).mean()

    def _ascend_alpha(self, slope: Tensor) -> None:
        """Make one step of gradient ascent on log α, unless the guard has stopped training."""
        raised = self.log_alpha + self.alpha_learning_rate * slope
        raised = raised.clamp(-_LOG_ALPHA_BOUND, _LOG_ALPHA_BOUND)
        self.log_alpha = torch.where(self._guard.stopped > 0, self.log_alpha, raised)

    def _policy_loss(self, observations: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """
        Compute -E[1[Q_c(s, a) <= threshold] Q(s, a)], with the gradient through the sampled action.

        :param observations: Observations, (B, O).
        :param params: Parameters of the policy's distribution there, with gradient, (B, P).
        :return: The loss, a scalar, and whether each action is safe, 1 or 0, (B,).
        """
        inputs = torch.cat((observations, self._sample(params)), dim=1)
        with torch.no_grad():
            is_safe = (self.cost_critic(inputs).amin(dim=0) <= self.cost_threshold).float()
        # Detached weights: the loss must not train the critics.
        weights = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        values = functional_call(self.critic, weights, (inputs,)).amin(dim=0)
        return -(is_safe * values).mean(), is_safe

    def _sample(self, params: Tensor) -> Tensor:
        """Sample actions in [-1, 1], (…, B, A), with gradient to mean and standard deviation."""
        return torch.tanh(self.likelihood.sample(params, self.generator))

    @property
    def _states_per_update(self) -> int:
        # The VAE's encoder is twice as large, without a backward pass, for K actions per state; the rest costs 15.
        return (self.n_samples + 15) * self.batch_size

    def set_learning_rate(self, total_timesteps: int) -> None:
        super().set_learning_rate(total_timesteps)
        update_learning_rate(self.critic_optimizer, self.critic_learning_rate)
        update_learning_rate(self.vae_optimizer, self.vae_learning_rate)

    def batches(self) -> Iterator["TransitionsWithCosts"]:
        if self.trajectories is None:
            raise ValueError("trajectories: none were given. Pass CPQ(policy, trajectories, …), or set them.")
        assert self.cost_limit is not None  # _check_hyperparameters
        self._check(self.trajectories)
        horizon = self.horizon or int(self.trajectories.episode_lengths.max())
        self.cost_threshold = cost_threshold(self.cost_limit, self.gamma, horizon)
        columns = transitions_of("trajectories", self.trajectories, self.reference, self.policy)
        rewards, costs = (
            torch.tensor(column, device=self.device) for column in (self.trajectories.rewards, self.trajectories.costs)
        )
        data = TransitionsWithCosts(**vars(columns), rewards=rewards, costs=costs)
        return (data.at(rows) for rows in draw_rows_forever([len(data)], self.batch_size, self.generator))

    def _check(self, trajectories: Trajectories) -> None:
        check_against_spaces(
            "trajectories", trajectories, self.observation_space, self.action_space, takes_action_masks=False
        )
        n_unknown = int(np.isnan(trajectories.episode_costs).sum())
        if n_unknown:
            raise ValueError(
                f"trajectories: the cost of {n_unknown} of {len(trajectories)} episodes is unknown. Leave them out: "
                "trajectories[~np.isnan(trajectories.episode_costs)]."
            )

    def _check_hyperparameters(self) -> None:
        check_training(self.learning_rate, self.batch_size, self.log_std_min, self.max_grad_norm)
        if self.cost_limit is None:
            raise ValueError("cost_limit: found None. Pass the largest cost that an episode may have.")
        names = ("cost_limit", "critic_learning_rate", "vae_learning_rate", "alpha_learning_rate", "ood_scale")
        for name in names:
            check_not_negative(name, getattr(self, name))
        check_positive("reward_scale", self.reward_scale)
        check_discount(self.gamma)
        check_fraction("tau", self.tau)
        check_count("n_samples", self.n_samples)
        if self.horizon is not None:
            check_count("horizon", self.horizon)
        for name in ("net_arch", "vae_net_arch"):
            for n_units in getattr(self, name):
                check_count(name, n_units)
        if not 0 <= self.ood_quantile < 1:
            raise ValueError(f"ood_quantile: expected a fraction in [0, 1), found {self.ood_quantile!r}.")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "trajectories"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        critics = ["critic", "critic_target", "cost_critic", "cost_critic_target", "critic_optimizer"]
        return [*names, *critics, "vae", "vae_optimizer"], [*variables, "log_alpha"]


@dataclass(frozen=True, eq=False)
class TransitionsWithCosts(Transitions):
    """
    Transitions with rewards and costs.

    :param rewards: Rewards without ``reward_scale``, (N,).
    :param costs: Costs, (N,).
    """

    rewards: Tensor
    costs: Tensor


def cost_threshold(cost_limit: float, gamma: float, horizon: int) -> float:
    """
    Compute the discounted sum of costs, Q_c, of an episode with equal costs at all steps and the sum ``cost_limit``.

    :param cost_limit: Cost limit κ.
    :param gamma: Discount factor γ.
    :param horizon: Number of steps T.
    :return: κ (1 - γ^T) / ((1 - γ) T).
    """
    return cost_limit * (1.0 - gamma**horizon) / ((1.0 - gamma) * horizon)


def n_above(n: int, quantile: float) -> int:
    """Count how many of ``n`` different numbers are not below their quantile, as ``torch.quantile`` defines it."""
    # Without rounding, 0.7 * 10 = 7.000000000000001 would count one number less.
    return n - math.ceil(round((n - 1) * quantile, 9))


def _squared_error(values: Tensor, targets: Tensor) -> Tensor:
    """Squared errors of n critics (n, B) to their targets (B,), averaged over the batch, summed over the critics."""
    return (values - targets).square().mean(dim=1).sum()
