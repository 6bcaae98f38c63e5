"""Behaviour cloning (BC): a policy from trajectories, such as the paper's reference."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from torch import Tensor

from sb3_prefine.baselines.new_policy import open_or_create_policy
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.draw_rows import UPDATES_PER_DRAW
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.training.transition_tables import inputs_at, normalized_observations
from sb3_prefine.utils.validation import check_fraction, check_training


class BC(OfflineAlgorithm):
    """
    Behaviour cloning: maximum likelihood of the data's actions, or its bound for a :class:`CVAEPolicy`.

    ``BC("CVAEPolicy", trajectories, ref_quantile=0.2).learn(100_000)`` is the paper's reference policy (section 5.1):
    cloned from the episodes of highest return, whatever they cost. ``PREFINE(bc, preferences)`` fine-tunes it.

    One timestep is one gradient step on ``batch_size`` transitions, drawn with replacement.

    :param policy: ``"GaussianPolicy"`` (``"MlpPolicy"`` is the same), ``"SquashedPolicy"`` or ``"CVAEPolicy"``, see
        :func:`~sb3_prefine.policies.make_policy`; or a policy class. A policy that is there already, in any form that
        ``load_reference`` takes, goes on from its weights
    :param trajectories: the demonstrations; may be given later, as ``model.trajectories = …``
    :param env: not used to train; gives the spaces of a new policy, else they are read off the data: observations
        without bounds, actions in [-1, 1]. Raw: normalisation happens inside the model
    :param learning_rate: of Adam, or a schedule of the progress remaining (from 1 to 0)
    :param batch_size: transitions of one gradient step
    :param ref_quantile: the fraction of episodes to learn from, those of the highest returns, in (0, 1]; None is all
    :param normalize: normalise the observations of a new policy by the mean and variance of all of ``trajectories``. A
        policy that is there already keeps the normaliser that it has
    :param log_std_min: floor of a Gaussian's log-std, which clean data would otherwise drive to minus infinity;
        ``CVAEPolicy`` has its own, in ``policy_kwargs``
    :param max_grad_norm: clip the gradient's norm at this value; None does not clip
    :param policy_kwargs: further arguments of a new policy, such as ``{"net_arch": [64, 64]}``
    :param optimizer_kwargs: further arguments of Adam, such as ``{"weight_decay": 1e-4}``
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of a new policy's weights, the batches and all noise
    :param device: of the computation
    :param _init_setup_model: build the networks at once
    :raises ValueError: a hyperparameter out of its range, data that do not fit the policy, spaces that cannot be told
    :raises TypeError: a policy without a likelihood, such as TD3's, or one that takes action masks or is recurrent
    """

    def __init__(
        self,
        policy: str | type[BasePolicy] | Reference | Source,
        trajectories: Trajectories | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        ref_quantile: float | None = None,
        normalize: bool = True,
        log_std_min: float = -5.0,
        max_grad_norm: float | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
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
        self.batch_size = batch_size
        self.ref_quantile = ref_quantile
        self.log_std_min = log_std_min
        self.max_grad_norm = max_grad_norm
        self.optimizer_kwargs = optimizer_kwargs
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_training(self.learning_rate, self.batch_size, self.log_std_min, self.max_grad_norm)
        if self.ref_quantile is not None:
            check_fraction("ref_quantile", self.ref_quantile)
        super()._setup_model()
        self.likelihood = likelihood_of(self.policy, self.log_std_min)
        if self.likelihood.needs != "observations":
            raise TypeError(
                f"policy: {type(self.policy).__name__} needs {self.likelihood.needs}, which BC does not read. "
                "PREFINE(policy, …, beta=0) is supervised fine-tuning of such a policy."
            )
        if self.trajectories is not None:
            self._check(self.trajectories)
        # Those that the loss does not depend on, of a value head or a critic, get no gradient and stay as they are.
        self.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=self.lr_schedule(1.0), fused=True, **(self.optimizer_kwargs or {})
        )

    def train(self, batch: "Demonstrations") -> None:
        """
        One gradient step.

        :param batch: some of the transitions
        """
        # For dropout and batch statistics: there is no other policy to be compared with here.
        self.policy.set_training_mode(True)
        if isinstance(self.policy, CVAEPolicy):
            reconstruction, kl = self.policy.elbo(batch.observations, batch.actions, self.generator)
            loss = (self.policy.kl_coef * kl - reconstruction).mean()
            terms = {"train/reconstruction": reconstruction.detach().mean(), "train/kl": kl.detach().mean()}
            log_prob = terms["train/reconstruction"] - terms["train/kl"]
        else:
            params = self.likelihood.params(self.policy, batch.observations)
            loss = -self.likelihood.log_prob(params, batch.actions).mean()
            terms, log_prob = {}, -loss.detach()
        grad_norm = self.descend(loss)
        metrics = {"train/loss": loss.detach(), "train/log_prob": log_prob, **terms, "train/grad_norm": grad_norm}
        self.metrics.add(metrics)

    @property
    def _states_per_update(self) -> int:
        return self.batch_size

    def batches(self) -> Iterator["Demonstrations"]:
        if self.trajectories is None:
            raise ValueError("trajectories: there are none to learn from. Pass BC(policy, trajectories).")
        self._check(self.trajectories)
        chosen = self.trajectories
        if self.ref_quantile is not None:
            chosen = chosen[highest_returns(chosen, self.ref_quantile)]
        return Demonstrations(
            normalized_observations("trajectories", [chosen], self.reference, self.policy),
            self.likelihood.encode(torch.tensor(chosen.actions, device=self.device)),
        ).batches(self.batch_size, self.generator)

    def _check(self, trajectories: Trajectories) -> None:
        check_against_spaces(
            "trajectories", trajectories, self.observation_space, self.action_space, takes_action_masks=False
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "trajectories"]


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """
    N transitions.

    :param observations: normalised, as the network sees them, (N, …) or a dict of such tensors
    :param actions: encoded, as the likelihood scores them, (N, A)
    """

    observations: PyTorchObs
    actions: Tensor

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator["Demonstrations"]:
        """One batch after another, without end, drawn with replacement."""
        n, device = len(self.actions), self.actions.device
        while True:
            for rows in torch.randint(n, (UPDATES_PER_DRAW, batch_size), generator=generator, device=device):
                yield Demonstrations(inputs_at(self.observations, None, rows), self.actions[rows])  # type: ignore[arg-type]


def highest_returns(trajectories: Trajectories, fraction: float) -> np.ndarray:
    """
    The episodes of highest return, whatever they cost.

    :param fraction: of all episodes, in (0, 1], rounded up to whole ones; ties go to the episode that comes first
    :return: their numbers, ascending
    """
    # Rounded first: 0.07 * 100 is 7.000000000000001, which are 7 episodes and not 8.
    n = math.ceil(round(fraction * len(trajectories), 9))
    return np.sort(np.argsort(-trajectories.episode_returns, kind="stable")[:n])
