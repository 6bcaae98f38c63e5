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
from sb3_prefine.training.draw_rows import draw_rows_forever
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.training.transition_tables import inputs_at, normalized_observations
from sb3_prefine.utils.validation import check_fraction, check_training


class BC(OfflineAlgorithm):
    """
    Behaviour cloning: maximises the likelihood of the data's actions, or its lower bound for a :class:`CVAEPolicy`.

    ``BC("CVAEPolicy", trajectories, ref_quantile=0.2).learn(100_000)`` trains the paper's reference policy (section
    5.1), cloned from the episodes of highest return, whatever their costs. ``PREFINE(bc, preferences)`` fine-tunes it.

    One timestep is one gradient step on ``batch_size`` transitions, drawn with replacement.

    Below, the parameters of the policy and the data come first, then those of the optimisation, and of SB3's interface.

    :param policy: ``"GaussianPolicy"`` (or ``"MlpPolicy"``, the same), ``"SquashedPolicy"``, ``"CVAEPolicy"`` or a
        policy class for a new policy; see :func:`~sb3_prefine.policies.make_policy`. Or an existing policy, in any form
        that ``load_reference`` takes, whose training continues from its weights.
    :param trajectories: The demonstrations, or None to set them later: ``model.trajectories = …``.
    :param env: An environment or its id, which determines the spaces of a new policy. None takes the spaces from the
        data: observations without bounds, actions in [-1, 1]. Training does not use the environment. Pass it without
        normalisation, which happens inside the model.
    :param ref_quantile: Fraction of the episodes to learn from, those of highest return, in (0, 1]. None takes all.
    :param normalize: Whether to normalise the observations of a new policy by the mean and variance of all
        ``trajectories``. An existing policy keeps its normaliser.
    :param log_std_min: Floor of a Gaussian's log standard deviation, which clean data would drive to minus infinity.
        ``CVAEPolicy`` has its own floor, in ``policy_kwargs``.
    :param policy_kwargs: Further keyword arguments of a new policy, such as ``{"net_arch": [64, 64]}``.

    :param learning_rate: Adam's learning rate, or a schedule of the remaining progress (from 1 to 0).
    :param batch_size: Number of transitions in one gradient step.
    :param max_grad_norm: Bound of the gradient's norm, or None for no clipping.
    :param optimizer_kwargs: Further keyword arguments of Adam, such as ``{"weight_decay": 1e-4}``.

    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of a new policy's weights, the batches and all noise.
    :param device: Device of the computation.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises ValueError: If a hyperparameter is out of its range, the data do not fit the policy, or they do not
        determine the spaces of a new policy.
    :raises TypeError: If the policy has no likelihood, such as TD3's, takes action masks, or is recurrent.
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
                "Use PREFINE(policy, …, beta=0), which fine-tunes such a policy supervised."
            )
        if self.trajectories is not None:
            self._check(self.trajectories)
        # Value heads and critics do not influence the loss: they get no gradient and stay unchanged.
        self.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=self.lr_schedule(1.0), fused=True, **(self.optimizer_kwargs or {})
        )

    def train(self, batch: "Demonstrations") -> None:
        """
        Make one gradient step.

        :param batch: The demonstrations to learn from.
        """
        # Dropout and batch statistics are welcome here: no log-prob is compared with another policy's.
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
            raise ValueError("trajectories: none were given. Pass BC(policy, trajectories), or set them.")
        self._check(self.trajectories)
        chosen = self.trajectories
        if self.ref_quantile is not None:
            chosen = chosen[highest_returns(chosen, self.ref_quantile)]
        observations = normalized_observations("trajectories", [chosen], self.reference, self.policy)
        actions = self.likelihood.encode(torch.tensor(chosen.actions, device=self.device))
        return (
            Demonstrations(inputs_at(observations, None, rows), actions[rows])  # type: ignore[arg-type]
            for rows in draw_rows_forever([len(actions)], self.batch_size, self.generator)
        )

    def _check(self, trajectories: Trajectories) -> None:
        check_against_spaces(
            "trajectories", trajectories, self.observation_space, self.action_space, takes_action_masks=False
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "trajectories"]


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """
    States and actions to imitate.

    :param observations: Normalised observations, as the network reads them, (N, …) or a dict of such tensors.
    :param actions: Actions in the encoding that the likelihood scores, (N, A).
    """

    observations: PyTorchObs
    actions: Tensor


def highest_returns(trajectories: Trajectories, fraction: float) -> np.ndarray:
    """
    Choose the episodes of highest return, whatever their costs.

    :param trajectories: Episodes to choose from.
    :param fraction: Fraction of the episodes to choose, in (0, 1], rounded up to whole episodes. Among equal returns,
        earlier episodes are chosen first.
    :return: Numbers of the chosen episodes, ascending.
    """
    # Without rounding, 0.07 * 100 = 7.000000000000001 would give 8 episodes.
    n = math.ceil(round(fraction * len(trajectories), 9))
    return np.sort(np.argsort(-trajectories.episode_returns, kind="stable")[:n])
