"""The base class of the algorithms that learn from preferences: PREFINE, PPL and CPL."""

from abc import abstractmethod
from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.custom import HasLikelihood, check_shapes
from sb3_prefine.policies.likelihood import trainable_parameters
from sb3_prefine.reference import Reference, Source, load_reference
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from sb3_prefine.utils.validation import check_training

# States on which a likelihood is tried before training.
_N_EXAMPLES = 2


class PreferenceAlgorithm(OfflineAlgorithm):
    """
    Fine-tunes a policy against its frozen reference, from preferred and dispreferred trajectories.

    This class opens the reference, builds both likelihoods and the optimizer of the actor, and checks the data. A
    subclass adds its hyperparameters and their checks, the likelihood that scores actions (``_build_likelihood``), its
    batches (``batches``, ``_states_per_update``), and ``train``: its loss, and a step down its gradient.

    :param policy: The reference π_ref, also the starting point, in any form that ``load_reference`` takes.
    :param preferences: The preferred and dispreferred trajectories, or None to set them later.
    :param env: An environment or its id, for callbacks and ``get_env()``. Training does not use it.
    :param learning_rate: Adam's learning rate, or a schedule of the remaining progress (from 1 to 0).
    :param batch_size: Number of transitions of each set in a gradient step.
    :param log_std_min: Floor of the policy's log standard deviation.
    :param max_grad_norm: Bound of the gradient's norm, or None for no clipping.
    :param optimizer_kwargs: Further keyword arguments of Adam.
    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of everything that training draws.
    :param device: Device of the computation.
    :raises ValueError: If a hyperparameter is out of its range or the data do not fit the policy.
    :raises TypeError: If the policy has no likelihood.
    """

    likelihood_ref: Likelihood
    """How the reference scores and samples actions."""
    policy_ref: nn.Module | None
    """Frozen copy of a policy that has weights in its ``log_prob``; None for SB3's policies, which have none there."""

    def __init__(
        self,
        policy: Reference | Source,
        preferences: PreferenceBuffer | None,
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        batch_size: int,
        log_std_min: float,
        max_grad_norm: float | None,
        optimizer_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        verbose: int,
        seed: int | None,
        device: torch.device | str,
    ) -> None:
        reference = load_reference(policy, env=env if isinstance(policy, nn.Module) else None)
        super().__init__(reference, env, learning_rate, stats_window_size, tensorboard_log, verbose, seed, device)
        self.preferences = preferences
        self.batch_size = batch_size
        self.log_std_min = log_std_min
        self.max_grad_norm = max_grad_norm
        self.optimizer_kwargs = optimizer_kwargs

    def _setup_model(self) -> None:
        check_training(self.learning_rate, self.batch_size, self.log_std_min, self.max_grad_norm)
        super()._setup_model()
        self.likelihood = self.likelihood_ref = self._build_likelihood(self.policy)
        self.policy_ref = None
        if isinstance(self.policy, HasLikelihood):
            # Training must not change the weights by which the reference scores actions.
            self.policy_ref = self.reference.trainable_copy().requires_grad_(False).to(self.device)
            self.likelihood_ref = self._build_likelihood(self.policy_ref)
        if self.preferences is not None:
            self._check_preferences(self.preferences)
        inputs = self._example_inputs(_N_EXAMPLES)
        check_shapes(self.likelihood, self.policy, inputs, _N_EXAMPLES)
        self.optimizer = torch.optim.Adam(
            trainable_parameters(self.policy, self.likelihood, inputs),
            lr=self.lr_schedule(1.0),
            fused=True,
            **(self.optimizer_kwargs or {}),
        )

    @abstractmethod
    def _build_likelihood(self, policy: nn.Module) -> Likelihood:
        """
        Build the likelihood by which this algorithm scores a policy's actions.

        :param policy: The policy that learns, or the reference's policy.
        :return: Its likelihood.
        :raises TypeError: If the policy has no likelihood that the algorithm can use.
        """

    def _check_preferences(self, preferences: PreferenceBuffer) -> None:
        preferences.check_spaces(self.observation_space, self.action_space, self.likelihood.needs == "masks")

    def _given_preferences(self) -> PreferenceBuffer:
        """
        Get the preferences to learn from.

        :return: The preferences.
        :raises ValueError: If no preferences were given, or they do not fit the policy.
        """
        if self.preferences is None:
            name = type(self).__name__
            raise ValueError(f"preferences: none were given. Pass {name}(policy, preferences=…), or set them.")
        self._check_preferences(self.preferences)
        return self.preferences

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "preferences", "likelihood_ref", "policy_ref"]
