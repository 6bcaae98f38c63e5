"""PREFINE: a policy somebody already trained becomes safer, from preferred and dispreferred trajectories."""

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
from sb3_prefine.training.transition_tables import Batch, Batches
from sb3_prefine.utils.validation import (
    check_choice,
    check_count,
    check_label_smoothing,
    check_not_negative,
    check_positive_or_none,
)

# What counterfactual actions are sampled from.
Counterfactuals = Literal["policy", "reference"]


class PREFINE(PreferenceAlgorithm):
    """
    Preference-based implicit reward and cost fine-tuning (PREFINE), offline: no environment is touched in training.

    For a state and the data's action, a counterfactual action is sampled from the current policy. A DPO-style loss on
    log-ratios against the frozen reference pushes preferred actions over their counterfactuals, and counterfactuals
    over dispreferred actions; a supervised (SFT) term on the preferred data keeps the reward (Eq. 6-9 of the paper).

    One timestep is one gradient step on ``batch_size`` transitions of each set. Only the actor learns: critics and
    value heads of the checkpoint stay as they were.

    :param policy: the reference π_ref, also the starting point: an SB3 model or policy, the path of a zip or an RL-Zoo
        folder, an ``nn.Module`` with a likelihood (:class:`~sb3_prefine.policies.HasLikelihood`), or what
        ``load_reference`` returned
    :param preferences: the preferred and dispreferred trajectories; may be given later, as ``model.preferences = …``
    :param env: not used to train; for callbacks and ``get_env()``. Raw: normalisation happens inside the model
    :param learning_rate: of Adam, or a schedule of the progress remaining (from 1 to 0)
    :param batch_size: transitions of each set in one gradient step
    :param beta: temperature β of the preference term; the paper uses 0.05 (Safety-Gymnasium) and 0.2 (Bullet);
        0 leaves supervised fine-tuning alone
    :param sft_coef: weight λ of the supervised term; the paper uses 1.6 (Safety-Gymnasium) and 1.0 (Bullet);
        0 leaves vanilla DPO
    :param loss_type: of the preference term: ``"sigmoid"`` (the paper's), ``"sigmoid_norm"``, ``"hinge"``, ``"ipo"`` or
        ``"robust"``; see :func:`~sb3_prefine.objective.prefine_loss`
    :param label_smoothing: the fraction of labels taken to be wrong, in [0, 0.5)
    :param log_ratio_bound: log-ratios x become b tanh(x/b); None leaves them
    :param n_counterfactuals: counterfactual actions a state, whose losses are averaged
    :param counterfactuals: sampled from the current ``"policy"`` (the paper) or from the ``"reference"``
    :param log_std_min: floor of the policy's log-std, which clean data would otherwise drive to minus infinity
    :param fixed_std: take a deterministic actor (TD3, DDPG) for a Gaussian of this standard deviation, in units of
        actions scaled to [-1, 1]; None refuses such a policy
    :param temperature: take Q-values (DQN, QR-DQN) for the policy softmax(Q / temperature); None refuses such a policy
    :param max_grad_norm: clip the gradient's norm at this value; None does not clip
    :param optimizer_kwargs: further arguments of Adam, such as ``{"weight_decay": 1e-4}``
    :param buffer_size: of data on disk (``Trajectories.from_hdf5(…, mmap=True)``) that hold more transitions than this,
        so many are in memory at a time: see
        :class:`~sb3_prefine.training.streamed_tables.Stream`. Recurrent policies read all
    :param stats_window_size: as in SB3; unused
    :param tensorboard_log: the folder of TensorBoard's logs; None writes none
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: of the batches and the counterfactuals
    :param device: of the computation
    :param _init_setup_model: build the networks at once
    :raises ValueError: a hyperparameter out of its range, data that do not fit the policy, a missing normaliser
    :raises TypeError: a policy without a likelihood, such as TD3's
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
            raise ValueError(
                "beta: 0 does not go with loss_type='ipo', which aims at a margin of 1/(2 beta). Raise it."
            )
        check_label_smoothing(self.label_smoothing)
        check_positive_or_none("log_ratio_bound", self.log_ratio_bound)
        check_count("n_counterfactuals", self.n_counterfactuals)
        check_choice("counterfactuals", self.counterfactuals, get_args(Counterfactuals))
        check_positive_or_none("fixed_std", self.fixed_std)
        check_positive_or_none("temperature", self.temperature)
        check_count("buffer_size", self.buffer_size)
        self._tables: tuple[PreferenceBuffer, Batches] | None = None
        super()._setup_model()

    def _likelihood_of(self, policy: nn.Module) -> Likelihood:
        return likelihood_of(policy, self.log_std_min, fixed_std=self.fixed_std, temperature=self.temperature)

    def train(self, batch: Batch) -> None:
        """
        One gradient step of Eq. 9.

        Once a loss or gradient was not finite no step is made: the weights stay good until ``learn`` asks and raises.

        :param batch: transitions of both sets
        """
        sets, labels = batch.sets, batch.labels
        logp, logp_ref = self._log_probs(batch, self._generator)
        # A row's log-prob is a sum over the components of its action.
        objective = self._objective(lengths=batch.actions.shape[-1])
        grad_norm = self._descend(objective.terms(logp, logp_ref, sets, labels).loss)
        tensors = (logp.detach(), logp_ref, sets.is_preferred, sets.weights, labels, grad_norm)
        self._metrics.add_later(_metrics, objective, tensors)

    def score(self, preferences: PreferenceBuffer, n_transitions: int = 4096, seed: int = 0) -> dict[str, float]:
        """
        The loss of Eq. 9 and its metrics on other preferences, such as held-out ones (``preferences.split``).

        The same transitions and the same noise every time: what differs between two calls is the policy.

        :param preferences: that fit the policy
        :param n_transitions: of each set, drawn with replacement
        :param seed: of the transitions and of the counterfactuals
        :return: what training logs, of this one batch, without the gradient's norm
        :raises ValueError: the preferences do not fit the policy
        """
        return self._score(self._build_tables(preferences), n_transitions, seed)

    @torch.no_grad()
    def _score(self, tables: Batches, n_transitions: int, seed: int) -> dict[str, float]:
        generator = torch.Generator(self.device).manual_seed(seed)
        batch = next(tables.batches(n_transitions, generator))
        objective = self._objective(lengths=batch.actions.shape[-1])
        terms = objective.terms(*self._log_probs(batch, generator), batch.sets, batch.labels)
        metrics = objective.metrics(terms, batch.sets)
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))

    def _log_probs(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """
        :param generator: of the counterfactuals
        :return: log π_θ and log π_ref of the data's actions and of K counterfactuals, (1 + K, B) each
        """
        # One forward pass a state: the data's action and the counterfactuals are scored under it.
        params = self._likelihood.params(self.policy, batch.inputs)
        actions = self._with_counterfactuals(batch.actions, params, batch.params_ref, generator)
        with torch.no_grad():
            logp_ref = self._likelihood_ref.log_prob(batch.params_ref, actions)
        return self._likelihood.log_prob(params, actions), logp_ref

    def _objective(self, lengths: int) -> Objective:
        """Of the hyperparameters as they are now."""
        return Objective(self.beta, self.sft_coef, self.loss_type, self.label_smoothing, self.log_ratio_bound, lengths)

    @torch.no_grad()
    def _with_counterfactuals(
        self, actions: Tensor, params: Tensor, params_ref: Tensor, generator: torch.Generator
    ) -> Tensor:
        """
        Draw counterfactual actions.

        The gradient stops at the sample, not at its log-prob: an undetached Gaussian sample has none.

        :param actions: of the data, encoded, (B, A)
        :param params: parameters of the policy's distribution, (B, P)
        :param params_ref: of the reference's, (B, P)
        :return: (1 + K, B, A): the data's actions, then K counterfactuals
        """
        source, likelihood = params, self._likelihood
        if self.counterfactuals == "reference":
            source, likelihood = params_ref, self._likelihood_ref
        return torch.stack((actions, *(likelihood.sample(source, generator) for _ in range(self.n_counterfactuals))))

    @property
    def _states_per_update(self) -> int:
        return 2 * self.batch_size

    def _batches(self) -> Iterator[Batch]:
        return self._current_tables().batches(self.batch_size, self._generator)

    def _current_tables(self) -> Batches:
        """The tables of ``self.preferences``, made anew when other preferences were set."""
        preferences = self._given_preferences()
        if self._tables is None or self._tables[0] is not preferences:
            self._tables = (preferences, self._build_tables(preferences))
        return self._tables[1]

    def _build_tables(self, preferences: PreferenceBuffer) -> Batches:
        self._check_preferences(preferences)
        if self._likelihood.needs == "sequences":
            return build_sequence_tables(preferences, self.reference, self._likelihood, self.policy)
        return open_tables(preferences, self.reference, self._likelihood, self.device, self.buffer_size)

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
