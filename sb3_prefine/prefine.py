"""PREFINE: make a trained policy safer, with preferred and dispreferred trajectories."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.objective import LossType, Objective, Sets
from sb3_prefine.policies.base import Likelihood
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.load import Source
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.preference_algorithm import PreferenceAlgorithm
from sb3_prefine.training.sequence_tables import build_sequence_tables
from sb3_prefine.training.streamed_tables import open_tables
from sb3_prefine.training.transition_tables import Batch, Tables
from sb3_prefine.utils.validation import (
    check_choice,
    check_count,
    check_label_smoothing,
    check_not_negative,
    check_positive_or_none,
)

# The policy that counterfactual actions are sampled from.
Counterfactuals = Literal["policy", "reference"]


class PREFINE(PreferenceAlgorithm):
    """
    Preference-based implicit reward and cost fine-tuning (PREFINE), offline: training uses no environment.

    At each state of the data, a counterfactual action is sampled from the current policy. A DPO-style loss on
    log-ratios against the frozen reference prefers the data's action to its counterfactual in the preferred set, and
    the counterfactual to the data's action in the dispreferred set. A supervised (SFT) term on the preferred set keeps
    the reward (Eq. 6-9 of the paper).

    One timestep is one gradient step on ``batch_size`` transitions of each set. Only the actor learns: critics and
    value heads of the checkpoint stay as they were.

    Below, the parameters of the model and the data come first, then those of the objective, of the optimisation, and
    of SB3's interface.

    :param policy: The reference π_ref, also the starting point: an SB3 model or policy, the path of a zip or an RL-Zoo
        folder, an ``nn.Module`` with a likelihood (:class:`~sb3_prefine.policies.HasLikelihood`), or a result of
        ``load_reference``.
    :param preferences: The preferred and dispreferred trajectories, or None to set them later: ``model.preferences =
        …``.
    :param env: An environment or its id, for callbacks and ``get_env()``. Training does not use it. Pass it without
        normalisation, which happens inside the model.
    :param fixed_std: Standard deviation of a Gaussian around a deterministic actor (TD3, DDPG), in units of actions
        scaled to [-1, 1]. None refuses such a policy.
    :param temperature: Temperature of the policy softmax(Q / temperature) for Q-values (DQN, QR-DQN). None refuses such
        a policy.
    :param log_std_min: Floor of the policy's log standard deviation, which clean data would drive to minus infinity.
    :param buffer_size: Number of transitions to hold in memory if the data are on disk (``Trajectories.from_hdf5(…,
        mmap=True)``) and larger; see :class:`~sb3_prefine.training.streamed_tables.StreamedTables`. Recurrent policies
        read all data into memory.

    :param beta: Temperature β of the preference term. The paper uses 0.05 (Safety-Gymnasium) and 0.2 (Bullet). 0 leaves
        supervised fine-tuning.
    :param sft_coef: Weight λ of the supervised term. The paper uses 1.6 (Safety-Gymnasium) and 1.0 (Bullet). 0 leaves
        vanilla DPO.
    :param loss_type: Loss of the preference term: ``"sigmoid"`` (the paper's), ``"sigmoid_norm"``, ``"hinge"``,
        ``"ipo"`` or ``"robust"``; see :func:`~sb3_prefine.objective.prefine_loss`.
    :param label_smoothing: Fraction of labels assumed to be wrong, in [0, 0.5).
    :param log_ratio_bound: Bound b: log-ratios x become b tanh(x/b). None leaves them unchanged.
    :param n_counterfactuals: Number of counterfactual actions per state, over which the loss is averaged.
    :param counterfactuals: Policy that counterfactual actions are sampled from: the current ``"policy"`` (the paper's)
        or the ``"reference"``.

    :param learning_rate: Adam's learning rate, or a schedule of the remaining progress (from 1 to 0).
    :param batch_size: Number of transitions of each set in one gradient step.
    :param max_grad_norm: Bound of the gradient's norm, or None for no clipping.
    :param optimizer_kwargs: Further keyword arguments of Adam, such as ``{"weight_decay": 1e-4}``.

    :param stats_window_size: Unused; part of SB3's interface.
    :param tensorboard_log: Folder of TensorBoard's logs, or None for no logs.
    :param verbose: Verbosity level: 0 for no output, 1 for info, 2 for debug messages.
    :param seed: Seed of the batches and the counterfactuals.
    :param device: Device of the computation.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises ValueError: If a hyperparameter is out of its range, the data do not fit the policy, or a normaliser is
        missing.
    :raises TypeError: If the policy has no likelihood, such as TD3's.
    """

    def __init__(
        self,
        policy: Reference | Source,
        preferences: PreferenceBuffer | None = None,
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        beta: float = 0.05,
        sft_coef: float = 1.6,
        loss_type: LossType = "sigmoid",
        label_smoothing: float = 0.0,
        log_ratio_bound: float | None = None,
        n_counterfactuals: int = 1,
        counterfactuals: Counterfactuals = "policy",
        log_std_min: float = -5.0,
        fixed_std: float | None = None,
        temperature: float | None = None,
        max_grad_norm: float | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
        buffer_size: int = 1_000_000,
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
        self.beta = beta
        self.sft_coef = sft_coef
        self.loss_type = loss_type
        self.label_smoothing = label_smoothing
        self.log_ratio_bound = log_ratio_bound
        self.n_counterfactuals = n_counterfactuals
        self.counterfactuals = counterfactuals
        self.fixed_std = fixed_std
        self.temperature = temperature
        self.buffer_size = buffer_size
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_not_negative("beta", self.beta)
        check_not_negative("sft_coef", self.sft_coef)
        if self.beta == self.sft_coef == 0:
            raise ValueError("beta, sft_coef: both are 0, which leaves nothing to learn. Raise one of them.")
        check_choice("loss_type", self.loss_type, get_args(LossType))
        if self.loss_type == "ipo" and self.beta == 0:
            raise ValueError("beta: 0 is not allowed for loss_type='ipo', whose margin is 1/(2 beta). Raise it.")
        check_label_smoothing(self.label_smoothing)
        check_positive_or_none("log_ratio_bound", self.log_ratio_bound)
        check_count("n_counterfactuals", self.n_counterfactuals)
        check_choice("counterfactuals", self.counterfactuals, get_args(Counterfactuals))
        check_positive_or_none("fixed_std", self.fixed_std)
        check_positive_or_none("temperature", self.temperature)
        check_count("buffer_size", self.buffer_size)
        self._tables: tuple[PreferenceBuffer | None, Tables] | None = None
        super()._setup_model()

    def _build_likelihood(self, policy: nn.Module) -> Likelihood:
        return likelihood_of(policy, self.log_std_min, fixed_std=self.fixed_std, temperature=self.temperature)

    def train(self, batch: Batch) -> None:
        """
        Make one gradient step on Eq. 9.

        After a non-finite loss or gradient, every later step is skipped; ``learn`` raises at its next check.

        :param batch: Transitions of both sets.
        """
        logp, logp_ref = self.log_probs(batch, self.generator)
        # The log-prob of an action is a sum over its components.
        objective = self.objective(lengths=batch.actions.shape[-1])
        loss = objective.terms(logp, logp_ref, batch.sets, batch.labels).loss
        grad_norm = self.descend(loss)
        # For a small network the metrics would take a large part of the update, so that they are computed from the same
        # log-probs for a hundred updates together.
        tensors = (logp.detach(), logp_ref, batch.sets.is_preferred, batch.sets.weights, batch.labels, grad_norm)
        self.metrics.defer(_metrics, objective, tensors)

    def log_probs(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """
        Score the data's actions and counterfactual actions.

        :param batch: B transitions.
        :param generator: Random generator of the counterfactuals.
        :return: Log-probs log π_θ and log π_ref of the data's actions and K counterfactuals, in nats, (1 + K, B) each.
        """
        # One forward pass gives the distribution by which the data's action and all counterfactuals are scored.
        params = self.likelihood.params(self.policy, batch.inputs)
        actions = self.with_counterfactuals(batch.actions, params, batch.params_ref, generator)
        with torch.no_grad():
            logp_ref = self.likelihood_ref.log_prob(batch.params_ref, actions)
        return self.likelihood.log_prob(params, actions), logp_ref

    @torch.no_grad()
    def with_counterfactuals(
        self, actions: Tensor, params: Tensor, params_ref: Tensor, generator: torch.Generator
    ) -> Tensor:
        """
        Sample counterfactual actions and stack them on the data's actions.

        The gradient stops at the sample: with a reparameterised sample, the log-prob of a Gaussian would have none.

        :param actions: Actions of the data in the encoding of the likelihood, (B, A).
        :param params: Parameters of the policy's distribution, (B, P).
        :param params_ref: Parameters of the reference's distribution, (B, P).
        :param generator: Random generator of the counterfactuals.
        :return: The data's actions, then K counterfactuals, (1 + K, B, A).
        """
        source, likelihood = params, self.likelihood
        if self.counterfactuals == "reference":
            source, likelihood = params_ref, self.likelihood_ref
        return torch.stack((actions, *(likelihood.sample(source, generator) for _ in range(self.n_counterfactuals))))

    def objective(self, lengths: int) -> Objective:
        """
        Build the objective from the current hyperparameters, which callbacks may change.

        :param lengths: Number of components of an action.
        :return: The objective.
        """
        return Objective(self.beta, self.sft_coef, self.loss_type, self.label_smoothing, self.log_ratio_bound, lengths)

    @torch.no_grad()
    def score(
        self, preferences: PreferenceBuffer | Tables, n_transitions: int = 4096, seed: int = 0
    ) -> dict[str, float]:
        """
        Compute the loss of Eq. 9 and its metrics on other preferences, such as held-out ones (``preferences.split``).

        All calls with the same seed use the same transitions and noise, so that only the policy makes a difference.

        :param preferences: Preferences that fit the policy; or their tables (``build_tables``), if you score often.
        :param n_transitions: Number of transitions of each set, drawn with replacement.
        :param seed: Seed of the transitions and the counterfactuals.
        :return: The metrics that training logs, for this one batch and without the gradient's norm.
        :raises ValueError: If the preferences do not fit the policy.
        """
        tables = self.build_tables(preferences) if isinstance(preferences, PreferenceBuffer) else preferences
        generator = torch.Generator(self.device).manual_seed(seed)
        batch = next(tables.batches(n_transitions, generator))
        objective = self.objective(lengths=batch.actions.shape[-1])
        terms = objective.terms(*self.log_probs(batch, generator), batch.sets, batch.labels)
        metrics = objective.metrics(terms, batch.sets)
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))

    @property
    def _states_per_update(self) -> int:
        return 2 * self.batch_size

    def batches(self) -> Iterator[Batch]:
        """
        Draw the batches that ``train`` takes, without end.

        :raises ValueError: If no preferences were given, or they do not fit the policy.
        """
        return self.current_tables().batches(self.batch_size, self.generator)

    def current_tables(self) -> Tables:
        """
        Get the tables of ``preferences``. They are built once, and again after other preferences were set.

        :return: The tables that ``batches`` draws from.
        :raises ValueError: If no preferences were given, or they do not fit the policy.
        """
        preferences = self._given_preferences()
        if self._tables is None or self._tables[0] is not preferences:
            self._tables = (preferences, self.build_tables(preferences))
        return self._tables[1]

    def set_tables(self, tables: Tables) -> None:
        """
        Use existing tables of ``preferences``, such as those of another run with the same data.

        :param tables: Tables with the same content as ``build_tables(self.preferences)``.
        """
        self._tables = (self.preferences, tables)

    def build_tables(self, preferences: PreferenceBuffer) -> Tables:
        """
        Normalise, encode and score data, for training or for ``score``.

        :param preferences: The data.
        :return: The tables.
        :raises ValueError: If the preferences do not fit the policy.
        """
        self._check_preferences(preferences)
        if self.likelihood.needs == "sequences":
            return build_sequence_tables(preferences, self.reference, self.likelihood, self.policy)
        return open_tables(preferences, self.reference, self.likelihood, self.device, self.buffer_size)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_tables"]


def _metrics(
    objective: Objective,
    logp: Tensor,
    logp_ref: Tensor,
    is_preferred: Tensor,
    weights: Tensor | None,
    labels: Tensor | None,
    grad_norm: Tensor,
) -> dict[str, Tensor]:
    sets = Sets(is_preferred, weights, logp.dtype)
    return {**objective.metrics(objective.terms(logp, logp_ref, sets, labels), sets), "train/grad_norm": grad_norm}
