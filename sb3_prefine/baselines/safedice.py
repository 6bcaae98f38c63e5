"""SafeDICE (Jang et al. 2023): imitation of the preferred part of unlabelled data, which are partly dispreferred."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor
from torch.nn.functional import softplus

from sb3_prefine.baselines.networks import Critics
from sb3_prefine.baselines.new_policy import open_or_create_policy
from sb3_prefine.baselines.transitions import Transitions, transitions_of, vector_sizes
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.draw_rows import draw_rows_forever
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.training.optimizer import descend
from sb3_prefine.training.transition_tables import STATES_PER_FORWARD_PASS
from sb3_prefine.utils.validation import check_count, check_discount, check_not_negative, check_training

# Distance of α from its largest possible value, at which some rewards are minus infinity.
_ALPHA_MARGIN = 1e-5


class SafeDICE(OfflineAlgorithm):
    """
    SafeDICE: offline safe imitation learning from non-preferred demonstrations (Jang et al., NeurIPS 2023).

    The unlabelled data are assumed to be a mixture, d_U = α d_N + (1 - α) d_P, of which the dispreferred part d_N is
    known from dispreferred episodes. The policy imitates the preferred part d_P, in the space of stationary
    distributions. Rewards and costs are not used.

    1. A discriminator c(s, a) is trained for ``discriminator_steps`` gradient steps to distinguish dispreferred from
       unlabelled transitions, so that exp c = d_N / d_U. These steps count as timesteps: the paper's run is
       ``learn(discriminator_steps + 1_000_000)``. They do not change the policy.
    2. α is set to the largest value that keeps d_P positive on the data, and r(s, a) = log d_P / d_U is standardised.
    3. ν(s) and the policy are trained: ν on the dual of a KL-regularised problem with the reward r, the policy with
       behaviour cloning weighted by exp of the advantage.

    The gradient penalties of c and ν, the margin below the largest α and the standardised r are those of the published
    code. Unlike there, ν is not bootstrapped at the ends of episodes that the environment ended (``terminals``).
    Each call of ``learn``, also after loading, continues in the current stage.

    Below, the parameters of the policy and the data come first, then those of the objective, of the optimisation, and
    of SB3's interface.

    :param policy: ``"SquashedPolicy"`` (the paper's), ``"GaussianPolicy"`` or a policy class for a new policy; see
        :func:`~sb3_prefine.policies.make_policy`. Or an existing policy, in any form that ``load_reference`` takes,
        whose training continues from its weights.
    :param preferences: The preferences, whose dispreferred episodes are the labelled data, or None to set them later:
        ``model.preferences = …``. Without ``trajectories``, both sets together are the unlabelled data.
    :param trajectories: The unlabelled data, which may contain dispreferred behaviour, or None.
    :param env: An environment or its id, which determines the spaces of a new policy. None takes the spaces from the
        data: observations without bounds, actions in [-1, 1]. Training does not use the environment. Pass it without
        normalisation, which happens inside the model.
    :param normalize: Whether to normalise the observations of a new policy by the mean and variance of the unlabelled
        data. An existing policy keeps its normaliser. c and ν read the same observations as the policy.
    :param log_std_min: Floor of the policy's log standard deviation.
    :param policy_kwargs: Further keyword arguments of a new policy, such as ``{"net_arch": [64, 64]}``.
    :param net_arch: Numbers of units in the hidden layers of c and ν.

    :param gamma: Discount factor γ, in (0, 1).
    :param discriminator_steps: Number of gradient steps of the first stage.
    :param gradient_penalty: Weight of (‖∇c‖ - 1)² in the loss of c.
    :param nu_gradient_penalty: Weight of ‖∇ν‖² in the loss of ν.

    :param learning_rate: Learning rate of the policy's Adam, or a schedule of the remaining progress (from 1 to 0).
    :param critic_learning_rate: Learning rate of the Adams of c and ν.
    :param batch_size: Number of unlabelled transitions, of dispreferred ones, and of first states in a gradient step.
    :param max_grad_norm: Bound of the norm of each network's gradient, or None for no clipping.

    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of the networks' weights, the batches and all noise.
    :param device: Device of the computation.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises ValueError: If a hyperparameter is out of its range, the data do not fit the policy, or the episodes have
        weights or labels.
    :raises TypeError: If the policy has no likelihood or is a CVAEPolicy, or the spaces are not vectors of numbers.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy] | Reference | Source,
        preferences: PreferenceBuffer | None = None,
        trajectories: Trajectories | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-5,
        critic_learning_rate: float = 1e-4,
        batch_size: int = 512,
        gamma: float = 0.99,
        discriminator_steps: int = 100_000,
        gradient_penalty: float = 10.0,
        nu_gradient_penalty: float = 1e-6,
        net_arch: Sequence[int] = (256, 256),
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
        data = unlabelled(preferences, trajectories)
        reference = open_or_create_policy(policy, data, env, normalize, policy_kwargs, seed)
        super().__init__(reference, env, learning_rate, stats_window_size, tensorboard_log, verbose, seed, device)
        self.preferences = preferences
        self.trajectories = trajectories
        self.critic_learning_rate = critic_learning_rate
        self.batch_size = batch_size
        self.gamma = gamma
        self.discriminator_steps = discriminator_steps
        self.gradient_penalty = gradient_penalty
        self.nu_gradient_penalty = nu_gradient_penalty
        self.net_arch = list(net_arch)
        self.log_std_min = log_std_min
        self.max_grad_norm = max_grad_norm
        self.alpha: float | None = None  # It is set in the second stage.
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_training(self.learning_rate, self.batch_size, self.log_std_min, self.max_grad_norm)
        for name in ("critic_learning_rate", "gradient_penalty", "nu_gradient_penalty"):
            check_not_negative(name, getattr(self, name))
        check_count("discriminator_steps", self.discriminator_steps)
        for n_units in self.net_arch:
            check_count("net_arch", n_units)
        check_discount(self.gamma)
        super()._setup_model()
        self.likelihood = likelihood_of(self.policy, self.log_std_min)
        if isinstance(self.policy, CVAEPolicy) or self.likelihood.needs != "observations":
            raise TypeError(
                f"policy: {type(self.policy).__name__} is not one that SafeDICE clones. Use SquashedPolicy or "
                "GaussianPolicy, or a policy of SAC, PPO or A2C."
            )
        n_observations, n_actions = vector_sizes("SafeDICE", self.observation_space, self.action_space)
        self._check_data()
        self.discriminator = Critics(n_observations + n_actions, 1, self.net_arch).to(self.device)
        self.nu = Critics(n_observations, 1, self.net_arch).to(self.device)
        rate = self.critic_learning_rate
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=rate, fused=True)
        self.nu_optimizer = torch.optim.Adam(self.nu.parameters(), lr=rate, fused=True)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.lr_schedule(1.0), fused=True)

    def train(self, batch: "DiscriminatorBatch | PolicyBatch") -> None:
        """
        Make one gradient step.

        :param batch: A batch of the first stage or of the third.
        """
        if isinstance(batch, DiscriminatorBatch):
            self._train_discriminator(batch)
        else:
            self._train_policy(batch)

    def _train_discriminator(self, batch: "DiscriminatorBatch") -> None:
        mix = torch.rand((len(batch.unlabelled), 1), generator=self.generator, device=self.device)
        entropy, penalty = discriminator_loss(self.discriminator, batch, mix)
        loss = entropy + self.gradient_penalty * penalty
        [grad_norm] = descend((self.discriminator_optimizer,), loss, self._guard.check, self.max_grad_norm)
        losses = {"train/discriminator_loss": entropy.detach(), "train/gradient_penalty": penalty.detach()}
        self.metrics.add({**losses, "train/grad_norm": grad_norm})

    def _train_policy(self, batch: "PolicyBatch") -> None:
        # Dropout and batch statistics are welcome here, as in BC.
        self.policy.set_training_mode(True)
        dual, advantages = nu_loss(self.nu, batch, self.gamma)
        mix = torch.rand((len(advantages), 1), generator=self.generator, device=self.device)
        penalty = nu_penalty(self.nu, batch, mix)
        weights = advantages.detach().softmax(dim=0)
        params = self.likelihood.params(self.policy, batch.unlabelled.observations)
        policy_loss = -(weights @ self.likelihood.log_prob(params, batch.unlabelled.encoded))
        loss = dual + self.nu_gradient_penalty * penalty + policy_loss
        # The losses share no weights, so the gradient of their sum is the gradient of each.
        optimizers = (self.optimizer, self.nu_optimizer)
        grad_norm, nu_grad_norm = descend(optimizers, loss, self._guard.check, self.max_grad_norm)
        self.metrics.add(
            {
                "train/policy_loss": policy_loss.detach(),
                "train/nu_loss": dual.detach(),
                "train/nu_gradient_penalty": penalty.detach(),
                "train/max_weight": len(weights) * weights.max(),
                "train/grad_norm": grad_norm,
                "train/nu_grad_norm": nu_grad_norm,
            }
        )

    @property
    def _states_per_update(self) -> int:
        # ν reads 3 states per transition, its gradient penalty costs about 4 more, and the policy reads 1 state.
        return 8 * self.batch_size

    def set_learning_rate(self, total_timesteps: int) -> None:
        super().set_learning_rate(total_timesteps)
        for optimizer in (self.discriminator_optimizer, self.nu_optimizer):
            update_learning_rate(optimizer, self.critic_learning_rate)

    def batches(self) -> Iterator["DiscriminatorBatch | PolicyBatch"]:
        if self.preferences is None:
            raise ValueError("preferences: none were given. Pass SafeDICE(policy, preferences, …), or set them.")
        self._check_data()
        data, name = self.trajectories, "trajectories"
        if data is None:
            data, name = self.preferences.preferred + self.preferences.dispreferred, "preferences"
        transitions = transitions_of(name, data, self.reference, self.policy)
        labelled = transitions_of("preferences", self.preferences.dispreferred, self.reference, self.policy)
        starts = torch.tensor(data.episode_starts, device=self.device)
        encoded = self.likelihood.encode(torch.tensor(data.actions, device=self.device))
        return self._stages(transitions, labelled, transitions.observations[starts], encoded)

    def _stages(
        self, data: Transitions, labelled: Transitions, first: Tensor, encoded: Tensor
    ) -> Iterator["DiscriminatorBatch | PolicyBatch"]:
        """
        Draw the batches of the first stage, compute the rewards of the second, draw the batches of the third.

        :param data: The unlabelled transitions.
        :param labelled: The dispreferred transitions.
        :param first: First observations of the unlabelled episodes.
        :param encoded: Unlabelled actions in the encoding that the likelihood scores.
        """
        sizes = len(data), len(labelled), len(first)
        rows, others, starts = (draw_rows_forever([size], self.batch_size, self.generator) for size in sizes)
        while self._n_updates < self.discriminator_steps:
            yield DiscriminatorBatch(data.at(next(rows)).inputs, labelled.at(next(others)).inputs)

        logits = self._logits(data)
        self.alpha = largest_alpha(logits)
        rewards = log_ratio(logits, self.alpha)
        rewards = (rewards - rewards.mean()) / rewards.std(correction=0).clamp(min=1e-6)
        # The metrics of the first stage have other names.
        self.metrics.reset()

        rewarded = UnlabelledTransitions(**vars(data), encoded=encoded, rewards=rewards)
        while True:
            yield PolicyBatch(rewarded.at(next(rows)), labelled.at(next(others)), first.index_select(0, next(starts)))

    @torch.no_grad()
    def _logits(self, data: Transitions) -> Tensor:
        """Compute c of all transitions, (N,)."""
        return torch.cat([self.discriminator(chunk)[0] for chunk in data.inputs.split(STATES_PER_FORWARD_PASS)])

    def _check_data(self) -> None:
        """Check the data that were given so far."""
        named = {} if self.trajectories is None else {"trajectories": self.trajectories}
        if self.preferences is not None:
            for name in ("weights", "labels"):
                if any(getattr(self.preferences, f"{s}_{name}") is not None for s in ("preferred", "dispreferred")):
                    raise ValueError(f"preferences: SafeDICE reads no {name} of episodes. Leave them out.")
            named |= {"preferred": self.preferences.preferred, "dispreferred": self.preferences.dispreferred}
        for name, data in named.items():
            check_against_spaces(name, data, self.observation_space, self.action_space, takes_action_masks=False)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "preferences", "trajectories"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "discriminator", "discriminator_optimizer", "nu", "nu_optimizer"], variables


@dataclass(frozen=True, eq=False)
class DiscriminatorBatch:
    """
    A batch of the first stage: states and actions, as the discriminator reads them.

    :param unlabelled: States and actions from d_U, (B, O + A).
    :param dispreferred: States and actions from d_N, (B, O + A).
    """

    unlabelled: Tensor
    dispreferred: Tensor


@dataclass(frozen=True, eq=False)
class UnlabelledTransitions(Transitions):
    """
    Transitions from d_U with their rewards.

    :param encoded: Actions in the encoding that the likelihood scores, (N, A).
    :param rewards: Standardised rewards r, (N,).
    """

    encoded: Tensor
    rewards: Tensor


@dataclass(frozen=True, eq=False)
class PolicyBatch:
    """
    A batch of the third stage.

    :param unlabelled: B transitions from d_U.
    :param dispreferred: B transitions from d_N, for the gradient penalty alone.
    :param first: First observations of episodes, (B, O).
    """

    unlabelled: UnlabelledTransitions
    dispreferred: Transitions
    first: Tensor


def unlabelled(preferences: PreferenceBuffer | None, trajectories: Trajectories | None) -> Trajectories | None:
    """Return the unlabelled data: ``trajectories``, or without them both sets of the preferences."""
    if trajectories is not None or preferences is None:
        return trajectories
    return preferences.preferred + preferences.dispreferred


def discriminator_loss(discriminator: Critics, batch: DiscriminatorBatch, mix: Tensor) -> tuple[Tensor, Tensor]:
    """
    Stage 1: cross-entropy of σ(c) with 1 for d_N and 0 for d_U, and the penalty (‖∇c‖ - 1)².

    The penalty is computed at points between the two sets and between unlabelled transitions (Gulrajani et al. 2017).

    :param discriminator: The network c.
    :param batch: States and actions from both sets.
    :param mix: Position of each point between its two ends, in [0, 1], (B, 1).
    :return: The cross-entropy, summed over the two sets, and the penalty, scalars.
    """
    size = len(mix)
    logits = discriminator(torch.cat((batch.dispreferred, batch.unlabelled)))[0]
    entropy = softplus(-logits[:size]).mean() + softplus(logits[size:]).mean()
    # Rows are drawn independently, so neighbouring rows are a random pair.
    others = torch.cat((batch.dispreferred, batch.unlabelled.roll(1, dims=0)))
    points = torch.lerp(batch.unlabelled.repeat(2, 1), others, mix.repeat(2, 1))
    norms = torch.linalg.vector_norm(discriminator.input_gradients(points), dim=-1)
    return entropy, (norms - 1.0).square().mean()


def largest_alpha(logits: Tensor) -> float:
    """
    Stage 2: the largest α <= 1 with d_U - α d_N >= 0 on the data, that is min exp(-c), minus a margin.

    :param logits: Outputs c at all unlabelled transitions, (N,).
    :return: The largest α minus the margin, but at least half of the largest α.
    """
    bound = min(1.0, math.exp(-float(logits.max())))
    return max(bound - _ALPHA_MARGIN, bound / 2)


def log_ratio(logits: Tensor, alpha: float) -> Tensor:
    """
    Stage 2: r = log (d_U - α d_N) / ((1 - α) d_U) = log (1 - (1 + α) σ(c)) / ((1 - α) (1 - σ(c))).

    With exp c = σ(c) / (1 - σ(c)) that is log (1 - α exp c) - log (1 - α).

    :param logits: Outputs c, (N,).
    :param alpha: Share α of dispreferred behaviour.
    :return: Rewards r, not standardised, (N,).
    """
    return (torch.log1p(-alpha * logits.double().exp()) - math.log1p(-alpha)).float()


def nu_loss(nu: Critics, batch: PolicyBatch, gamma: float) -> tuple[Tensor, Tensor]:
    """
    Stage 3: log E_U[exp A(s, a, s')] + (1 - γ) E[ν(s_0)], with A = r + γ ν(s') - ν(s).

    :param nu: The network ν.
    :param batch: A batch of the third stage.
    :param gamma: Discount factor γ.
    :return: The loss, a scalar, and the advantages A, (B,).
    """
    data = batch.unlabelled
    first, here, there = nu(torch.cat((batch.first, data.observations, data.next_observations)))[0].chunk(3)
    advantages = data.rewards + gamma * data.continues * there - here
    log_mean = advantages.logsumexp(dim=0) - math.log(len(advantages))
    return log_mean + (1.0 - gamma) * first.mean(), advantages


def nu_penalty(nu: Critics, batch: PolicyBatch, mix: Tensor) -> Tensor:
    """
    Stage 3: ‖∇ν‖² at unlabelled states and between unlabelled and dispreferred states, both current and next.

    :param nu: The network ν.
    :param batch: A batch of the third stage.
    :param mix: Position of each point between its two ends, in [0, 1], (B, 1).
    :return: The penalty, a scalar.
    """
    data, others = batch.unlabelled, batch.dispreferred
    here = torch.lerp(data.observations, others.observations, mix)
    there = torch.lerp(data.next_observations, others.next_observations, mix)
    gradients = nu.input_gradients(torch.cat((data.observations, here, there)))
    return gradients.square().sum(dim=-1).mean()
