"""SafeDICE (Jang et al. 2023): imitation of what unlabelled data hold beside what is known to be dispreferred."""

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
from sb3_prefine.baselines.transitions import Transitions, check_vectors, draw_rows, transitions_of
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.training.optimizer import descend
from sb3_prefine.utils.validation import check_count, check_discount, check_not_negative, check_training

# α stays this far below the largest value that it may have, at which some rewards are minus infinity.
_ALPHA_MARGIN = 1e-5
# Rows of the discriminator's pass over all of the data.
_CHUNK = 8192


class SafeDICE(OfflineAlgorithm):
    """
    SafeDICE: offline safe imitation learning from non-preferred demonstrations (Jang et al., NeurIPS 2023).

    The unlabelled data are taken for a mixture, d_U = α d_N + (1 - α) d_P, of which d_N is known from dispreferred
    episodes. The policy imitates the rest, d_P, in the space of stationary distributions. No rewards or costs are read.

    1. A discriminator c(s, a) is trained for ``discriminator_steps`` gradient steps to tell the dispreferred from the
       unlabelled, so that exp c = d_N / d_U. They count as timesteps: the paper's run is
       ``learn(discriminator_steps + 1_000_000)``. The policy does not change meanwhile.
    2. α is the largest that leaves d_P positive on the data, and r(s, a) = log d_P / d_U, standardised.
    3. ν(s) and the policy are trained: ν on the dual of a KL-regularised problem with the reward r, the policy by
       behaviour cloning weighted with exp of the advantage.

    Gradient penalties on c and ν, the margin below the largest α and the standardised r are those of the published
    code. Unlike there, ν is not bootstrapped behind the ends of episodes that the environment ended (``terminals``).

    ``learn`` may be called in pieces, and after loading: it goes on in the stage that the model is in.

    :param policy: ``"SquashedPolicy"`` (the paper's) or ``"GaussianPolicy"``, see
        :func:`~sb3_prefine.policies.make_policy`; or a policy class. A policy that is there already, in any form that
        ``load_reference`` takes, goes on from its weights
    :param preferences: its dispreferred episodes are the labelled data; may be given later, as ``model.preferences =
        …``. Without ``trajectories``, both sets together are the unlabelled data
    :param trajectories: the unlabelled data, in which dispreferred behaviour may be too
    :param env: not used to train; gives the spaces of a new policy, else they are read off the data: observations
        without bounds, actions in [-1, 1]. Raw: normalisation happens inside the model
    :param learning_rate: of the policy's Adam, or a schedule of the progress remaining (from 1 to 0)
    :param critic_learning_rate: of the Adams of c and ν
    :param batch_size: transitions of each kind in one gradient step: unlabelled, dispreferred, and first states
    :param gamma: discount factor γ, in (0, 1)
    :param discriminator_steps: gradient steps of the first stage
    :param gradient_penalty: weight of (‖∇c‖ - 1)² in the loss of c
    :param nu_gradient_penalty: weight of ‖∇ν‖² in the loss of ν
    :param net_arch: units of the hidden layers of c and ν
    :param normalize: normalise the observations of a new policy by the mean and variance of the unlabelled data. A
        policy that is there already keeps the normaliser that it has. c and ν read what the policy reads
    :param log_std_min: floor of the policy's log-std
    :param max_grad_norm: clip the norm of each network's gradient at this value; None does not clip
    :param policy_kwargs: further arguments of a new policy, such as ``{"net_arch": [64, 64]}``
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of the networks' weights, the batches and all noise
    :param device: of the computation
    :param _init_setup_model: build the networks at once
    :raises ValueError: a hyperparameter out of its range, data that do not fit the policy, weighted or labelled
        episodes
    :raises TypeError: a policy without a likelihood, or a CVAEPolicy; spaces other than vectors of numbers
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
        reference = open_or_create_policy(
            policy, unlabelled(preferences, trajectories), env, normalize, policy_kwargs, seed
        )
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
        # Known from the second stage on.
        self.alpha: float | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_training(self.learning_rate, self.batch_size, self.log_std_min, self.max_grad_norm)
        for name in ("critic_learning_rate", "gradient_penalty", "nu_gradient_penalty"):
            check_not_negative(name, getattr(self, name))
        for name, count in (
            ("discriminator_steps", self.discriminator_steps),
            *(("net_arch", n) for n in self.net_arch),
        ):
            check_count(name, count)
        check_discount(self.gamma)
        super()._setup_model()
        self.likelihood = likelihood_of(self.policy, self.log_std_min)
        if isinstance(self.policy, CVAEPolicy) or self.likelihood.needs != "observations":
            raise TypeError(
                f"policy: {type(self.policy).__name__} is not one that SafeDICE clones. Take SquashedPolicy or "
                "GaussianPolicy, or a policy of SAC, PPO or A2C."
            )
        check_vectors("SafeDICE", self.observation_space, self.action_space)
        self._check_data()
        n_observations, n_actions = self.observation_space.shape[0], self.action_space.shape[0]  # type: ignore[index]
        self.discriminator = Critics(n_observations + n_actions, 1, self.net_arch).to(self.device)
        self.nu = Critics(n_observations, 1, self.net_arch).to(self.device)
        rate = self.critic_learning_rate
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=rate, fused=True)
        self.nu_optimizer = torch.optim.Adam(self.nu.parameters(), lr=rate, fused=True)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.lr_schedule(1.0), fused=True)

    def train(self, batch: "Contrast | Correction") -> None:
        """
        One gradient step.

        :param batch: of the first stage, or of the last
        """
        if isinstance(batch, Contrast):
            self._train_discriminator(batch)
        else:
            self._train_policy(batch)

    def _train_discriminator(self, batch: "Contrast") -> None:
        mix = torch.rand((len(batch.unlabelled), 1), generator=self.generator, device=self.device)
        entropy, penalty = discriminator_loss(self.discriminator, batch, mix)
        loss = entropy + self.gradient_penalty * penalty
        [grad_norm] = descend((self.discriminator_optimizer,), loss, self._guard.check, self.max_grad_norm)
        self.metrics.add(
            {
                "train/discriminator_loss": entropy.detach(),
                "train/gradient_penalty": penalty.detach(),
                "train/grad_norm": grad_norm,
            }
        )

    def _train_policy(self, batch: "Correction") -> None:
        # For dropout and batch statistics, as in BC.
        self.policy.set_training_mode(True)
        dual, advantages = nu_loss(self.nu, batch, self.gamma)
        mix = torch.rand((len(advantages), 1), generator=self.generator, device=self.device)
        penalty = nu_penalty(self.nu, batch, mix)
        weights = advantages.detach().softmax(dim=0)
        params = self.likelihood.params(self.policy, batch.unlabelled.observations)
        policy_loss = -(weights @ self.likelihood.log_prob(params, batch.unlabelled.encoded))
        loss = dual + self.nu_gradient_penalty * penalty + policy_loss
        # Neither depends on the weights of the other: the gradient of the sum is that of each.
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
        # ν: first, this and next states; as many for its gradients, which take a third more. The policy: this one.
        return 8 * self.batch_size

    def set_learning_rate(self, total_timesteps: int) -> None:
        super().set_learning_rate(total_timesteps)
        for optimizer in (self.discriminator_optimizer, self.nu_optimizer):
            update_learning_rate(optimizer, self.critic_learning_rate)

    def batches(self) -> Iterator["Contrast | Correction"]:
        if self.preferences is None:
            raise ValueError("preferences: there are none to learn from. Pass SafeDICE(policy, preferences, …).")
        self._check_data()
        data, name = self.trajectories, "trajectories"
        if data is None:
            data, name = self.preferences.preferred + self.preferences.dispreferred, "preferences"
        all_of_it = transitions_of(name, data, self.reference, self.policy)
        labelled = transitions_of("preferences", self.preferences.dispreferred, self.reference, self.policy)
        starts = torch.tensor(data.episode_starts, device=self.device)
        encoded = self.likelihood.encode(torch.tensor(data.actions, device=self.device))
        return self._stages(all_of_it, labelled, all_of_it.observations[starts], encoded)

    def _stages(
        self, data: Transitions, labelled: Transitions, first: Tensor, encoded: Tensor
    ) -> Iterator["Contrast | Correction"]:
        """
        :param data: unlabelled
        :param labelled: dispreferred
        :param first: the first observations of the unlabelled episodes
        :param encoded: the unlabelled actions as the likelihood scores them
        """
        rows, others, starts = (draw_rows(len(t), self.batch_size, self.generator) for t in (data, labelled, first))
        while self._n_updates < self.discriminator_steps:
            yield Contrast(data.at(next(rows)).inputs, labelled.at(next(others)).inputs)

        logits = self._logits(data)
        self.alpha = largest_alpha(logits)
        rewards = log_ratio(logits, self.alpha)
        rewards = (rewards - rewards.mean()) / rewards.std(correction=0).clamp(min=1e-6)
        # Those of the first stage go by other names.
        self.metrics = MetricMeans()

        rewarded = Unlabelled(**vars(data), encoded=encoded, rewards=rewards)
        while True:
            yield Correction(rewarded.at(next(rows)), labelled.at(next(others)), first.index_select(0, next(starts)))

    @torch.no_grad()
    def _logits(self, data: Transitions) -> Tensor:
        """c of every transition, (N,)."""
        return torch.cat([self.discriminator(chunk)[0] for chunk in data.inputs.split(_CHUNK)])

    def _check_data(self) -> None:
        """Of what has been given so far."""
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
class Contrast:
    """
    A batch of the first stage: states and actions, (B, O + A) each.

    :param unlabelled: of d_U
    :param dispreferred: of d_N
    """

    unlabelled: Tensor
    dispreferred: Tensor


@dataclass(frozen=True, eq=False)
class Unlabelled(Transitions):
    """
    Transitions of d_U.

    :param encoded: the actions as the likelihood scores them, (N, A)
    :param rewards: r, standardised, (N,)
    """

    encoded: Tensor
    rewards: Tensor


@dataclass(frozen=True, eq=False)
class Correction:
    """
    A batch of the last stage.

    :param unlabelled: B transitions of d_U
    :param dispreferred: B transitions of d_N, for the gradient penalty alone
    :param first: B first observations of episodes, (B, O)
    """

    unlabelled: Unlabelled
    dispreferred: Transitions
    first: Tensor


def unlabelled(preferences: PreferenceBuffer | None, trajectories: Trajectories | None) -> Trajectories | None:
    """The unlabelled data: those given, else both sets of the preferences."""
    if trajectories is not None or preferences is None:
        return trajectories
    return preferences.preferred + preferences.dispreferred


def discriminator_loss(discriminator: Critics, batch: Contrast, mix: Tensor) -> tuple[Tensor, Tensor]:
    """
    Stage 1: cross-entropy of σ(c) with 1 for d_N and 0 for d_U, and the penalty (‖∇c‖ - 1)².

    The penalty is of points between the two sets and between unlabelled ones (Gulrajani et al. 2017).

    :param mix: (B, 1), in [0, 1]: where each point lies between its two ends
    :return: the cross-entropy, summed over the two sets, and the penalty: scalars
    """
    size = len(mix)
    logits = discriminator(torch.cat((batch.dispreferred, batch.unlabelled)))[0]
    entropy = softplus(-logits[:size]).mean() + softplus(logits[size:]).mean()
    # The rows are drawn independently: those that are next to each other are a random pair.
    others = torch.cat((batch.dispreferred, batch.unlabelled.roll(1, dims=0)))
    points = torch.lerp(batch.unlabelled.repeat(2, 1), others, mix.repeat(2, 1))
    norms = torch.linalg.vector_norm(discriminator.input_gradients(points), dim=-1)
    return entropy, (norms - 1.0).square().mean()


def largest_alpha(logits: Tensor) -> float:
    """
    Stage 2: the largest α with d_U - α d_N >= 0 on the data, min exp(-c), but at most 1; less a margin.

    :param logits: c of all unlabelled transitions, (N,)
    :return: positive; at least half of the largest where that is not large against the margin
    """
    bound = min(1.0, math.exp(-float(logits.max())))
    return max(bound - _ALPHA_MARGIN, bound / 2)


def log_ratio(logits: Tensor, alpha: float) -> Tensor:
    """
    Stage 2: r = log (d_U - α d_N) / ((1 - α) d_U) = log (1 - (1 + α) σ(c)) / ((1 - α) (1 - σ(c))).

    With exp c = σ(c) / (1 - σ(c)) that is log (1 - α exp c) - log (1 - α).

    :param logits: c, (N,)
    :return: r, not standardised, (N,)
    """
    return (torch.log1p(-alpha * logits.double().exp()) - math.log1p(-alpha)).float()


def nu_loss(nu: Critics, batch: Correction, gamma: float) -> tuple[Tensor, Tensor]:
    """
    Stage 3: log E_U[exp A(s, a, s')] + (1 - γ) E[ν(s_0)], with A = r + γ ν(s') - ν(s).

    :return: the loss, a scalar, and A, (B,)
    """
    data = batch.unlabelled
    first, here, there = nu(torch.cat((batch.first, data.observations, data.next_observations)))[0].chunk(3)
    advantages = data.rewards + gamma * data.continues * there - here
    log_mean = advantages.logsumexp(dim=0) - math.log(len(advantages))
    return log_mean + (1.0 - gamma) * first.mean(), advantages


def nu_penalty(nu: Critics, batch: Correction, mix: Tensor) -> Tensor:
    """
    Stage 3: ‖∇ν‖², at unlabelled states, and between them and dispreferred ones, both here and one step later.

    :param mix: (B, 1), in [0, 1]
    :return: a scalar
    """
    data, others = batch.unlabelled, batch.dispreferred
    here = torch.lerp(data.observations, others.observations, mix)
    there = torch.lerp(data.next_observations, others.next_observations, mix)
    gradients = nu.input_gradients(torch.cat((data.observations, here, there)))
    return gradients.square().sum(dim=-1).mean()
