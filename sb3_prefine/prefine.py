"""PREFINE: a policy somebody already trained becomes safer, from preferred and dispreferred trajectories."""

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import update_learning_rate

from sb3_prefine.checks import Counterfactuals, check_hyperparameters
from sb3_prefine.custom import check_shapes
from sb3_prefine.files import with_zip_suffix, write_atomically
from sb3_prefine.folder import find_checkpoint
from sb3_prefine.inputs import zeros_of
from sb3_prefine.likelihood import example_inputs, likelihood_of, trainable_parameters
from sb3_prefine.objective import LossType, prefine_loss
from sb3_prefine.offline import OfflineAlgorithm, check_actions, check_env, make_env, refuse_normalized
from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.reference import Reference, Source, load_reference, write_reference
from sb3_prefine.saving import is_prefine_zip, plain_objects, print_versions
from sb3_prefine.sequences import build_sequence_tables
from sb3_prefine.tables import Batch, Batches, build_tables
from sb3_prefine.tracking import FiniteGuard, MetricMeans

# States that a likelihood is tried on before it is trained.
_N_EXAMPLES = 2
# Updates between two questions to the device whether all was finite.
_CHECK_INTERVAL = 100


class PREFINE(OfflineAlgorithm):
    """
    Preference-based implicit reward and cost fine-tuning (PREFINE), offline: no environment is touched in training.

    For a state and the data's action, a counterfactual action is sampled from the current policy. A DPO-style loss on
    log-ratios against the frozen reference pushes preferred actions over their counterfactuals, and counterfactuals
    over dispreferred actions; a supervised (SFT) term on the preferred data keeps the reward (Eq. 6-9 of the paper).

    One timestep is one gradient step on ``batch_size`` transitions of each set. Only the actor learns: critics and
    value heads of the checkpoint stay as they were.

    :param policy: the reference π_ref, also the starting point: an SB3 model or policy, the path of a zip or an RL-Zoo
        folder, an ``nn.Module`` with a likelihood (:class:`~sb3_prefine.custom.HasLikelihood`), or what
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
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.reference = load_reference(policy, env=env if isinstance(policy, torch.nn.Module) else None)
        super().__init__(
            type(self.reference.policy),
            make_env(env, self.reference),
            learning_rate,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        check_actions(self.reference.action_space)
        if self.env is None:
            self.n_envs = 1
        else:
            check_env(self.env, self.reference.observation_space, self.reference.action_space)
        self.observation_space = self.reference.observation_space
        self.action_space = self.reference.action_space
        self.batch_size = batch_size
        self.beta = beta
        self.sft_coef = sft_coef
        self.loss_type = loss_type
        self.label_smoothing = label_smoothing
        self.log_ratio_bound = log_ratio_bound
        self.n_counterfactuals = n_counterfactuals
        self.counterfactuals = counterfactuals
        self.log_std_min = log_std_min
        self.fixed_std = fixed_std
        self.temperature = temperature
        self.max_grad_norm = max_grad_norm
        self.optimizer_kwargs = optimizer_kwargs
        self.preferences = preferences
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_hyperparameters(
            beta=self.beta,
            sft_coef=self.sft_coef,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
            log_ratio_bound=self.log_ratio_bound,
            n_counterfactuals=self.n_counterfactuals,
            counterfactuals=self.counterfactuals,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            log_std_min=self.log_std_min,
            fixed_std=self.fixed_std,
            temperature=self.temperature,
            max_grad_norm=self.max_grad_norm,
        )
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy_class = type(self.reference.policy)
        self.policy = self.reference.trainable_copy().to(self.device)
        self._likelihood = likelihood_of(
            self.policy, self.log_std_min, fixed_std=self.fixed_std, temperature=self.temperature
        )
        self._tables: tuple[PreferenceBuffer, Batches] | None = None
        self._guard = FiniteGuard(self.device)
        self._metrics = MetricMeans()
        if self.preferences is not None:
            self.preferences.check_spaces(self.observation_space, self.action_space)
        zeros = self.reference.normalize(zeros_of(self.observation_space, _N_EXAMPLES))
        inputs = example_inputs(self.policy, self._likelihood, self.policy.obs_to_tensor(zeros)[0])
        check_shapes(self._likelihood, self.policy, inputs, _N_EXAMPLES)
        self.optimizer = torch.optim.Adam(
            trainable_parameters(self.policy, self._likelihood, inputs),
            lr=self.lr_schedule(1.0),
            fused=True,
            **(self.optimizer_kwargs or {}),
        )

    def train(self, batch: Batch) -> None:
        """
        One gradient step of Eq. 9.

        Once a loss or gradient was not finite no step is made: the weights stay good until ``learn`` asks and raises.

        :param batch: transitions of both sets
        """
        # One forward pass a state: the data's action and the counterfactuals are scored under it.
        params = self._likelihood.params(self.policy, batch.inputs)
        with torch.no_grad():
            # The gradient stops at the sample, not at its log-prob: an undetached Gaussian sample has none.
            source = params if self.counterfactuals == "policy" else batch.params_ref
            drawn = [self._likelihood.sample(source, self._generator) for _ in range(self.n_counterfactuals)]
            actions = torch.stack((batch.actions, *drawn))
            logp_ref = self._likelihood.log_prob(batch.params_ref, actions)
        logp = self._likelihood.log_prob(params, actions)

        loss, metrics = prefine_loss(
            logp[0],
            logp_ref[0],
            logp[1:],
            logp_ref[1:],
            batch.is_preferred,
            beta=self.beta,
            sft_coef=self.sft_coef,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
            log_ratio_bound=self.log_ratio_bound,
            weights=batch.weights,
            labels=batch.labels,
            # A row's log-prob is a sum over the components of its action.
            lengths=batch.actions.shape[-1],
        )
        self.optimizer.zero_grad()
        loss.backward()
        max_norm = math.inf if self.max_grad_norm is None else self.max_grad_norm
        grad_norm = torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], max_norm)
        self.optimizer.found_inf = self._guard.check(loss.detach() + grad_norm)  # type: ignore[attr-defined]
        self.optimizer.step()
        self._metrics.add({**metrics, "train/grad_norm": grad_norm})

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "PREFINE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Fine-tune the policy.

        :param total_timesteps: the number of gradient steps
        :param callback: called after every gradient step
        :param log_interval: gradient steps between two logs, each the mean over them; None logs nothing
        :param tb_log_name: the name of the run for TensorBoard
        :param reset_num_timesteps: False goes on counting from where the last call ended
        :param progress_bar: show one
        :return: the model
        :raises ValueError: there are no preferences, or they do not fit the policy
        :raises FloatingPointError: a loss or gradient was not finite; the policy holds the last good weights
        """
        tables = self._current_tables()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        # Evaluation mode throughout: batch statistics (CrossQ) or dropout would part π_θ from π_ref at equal weights.
        self.policy.set_training_mode(False)
        batches = tables.batches(self.batch_size, self._generator)

        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            update_learning_rate(self.optimizer, self.lr_schedule(self._current_progress_remaining))
            self.train(next(batches))
            self._n_updates += 1
            self.num_timesteps += 1
            if self._n_updates % _CHECK_INTERVAL == 0:
                self._guard.raise_if_stopped()
            callback.update_locals(locals())
            if not callback.on_step():
                break
            if log_interval is not None and self._n_updates % log_interval == 0:
                self.dump_logs()
        self._guard.raise_if_stopped()
        callback.on_training_end()
        return self

    def export(self, path: str | Path) -> Path:
        """
        Write a plain zip of the class the reference came from: ``PPO.load(path)`` opens it.

        Only the actor's weights differ: critics and value head still value the old policy. A normaliser and env
        wrappers are written beside it as RL Zoo does. If the reference was a policy without an algorithm, it is the
        file that ``BasePolicy.load`` opens; if it was an ``nn.Module``, its state dict, as torch saves it.

        :param path: with or without ``.zip``
        :return: the path of the file
        """
        return self.reference.export(self.policy, path)

    def to_reference(self) -> Reference:
        """The fine-tuned policy as a reference, for another round."""
        return self.reference.with_weights(self.policy)

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save policy, optimizer, hyperparameters and the reference, so that training can go on. No data are saved.

        A file appears whole or not at all.

        :param path: a path, with or without ``.zip``, or a file opened for writing
        :param exclude: attributes to leave out beside the usual ones
        :param include: attributes to save although they are usually left out
        """
        file = io.BytesIO()
        super().save(file, exclude, include)
        with zipfile.ZipFile(file, "a") as archive:
            write_reference(self.reference, archive)
        if isinstance(path, (str, Path)):
            path = with_zip_suffix(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, file.getvalue())
        else:
            path.write(file.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        policy: Source | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Open what ``save`` wrote; the zip of another algorithm (PPO, SAC, …) becomes the reference of a new model.

        :param path: a path, or a file opened for reading
        :param env: as in the constructor
        :param device: of the computation
        :param custom_objects: objects to use instead of those in a file that ``save`` wrote, by name
        :param print_system_info: print the versions it was saved with and those here
        :param force_reset: as in SB3
        :param trust: unpickle what the file carries, as SB3 does: this runs its code
        :param policy: a policy like the reference, where that is of a class of your own, which no file can rebuild: its
            weights are not used
        :param kwargs: attributes to change, such as ``preferences`` or ``learning_rate``
        :return: the model
        :raises ValueError: the file cannot be read without unpickling something; the message names it
        """
        if isinstance(path, (str, Path)):
            path = find_checkpoint(path).zip_path
        if not is_prefine_zip(path):
            if not isinstance(path, Path):
                raise ValueError("path: the file was not written by PREFINE.save. Give the path of the checkpoint.")
            if custom_objects:
                raise ValueError(
                    f"custom_objects: {', '.join(custom_objects)} cannot be put into the zip of another algorithm. "
                    "Pass env=<the environment or its id> for the spaces, or open it with load_reference."
                )
            if print_system_info:
                print_versions(path)
            return cls(load_reference(path, env=env, trust=trust), env=env, device=device, **kwargs)
        known = plain_objects(path, {**kwargs, **(custom_objects or {})}, trust, policy)
        if env is not None:
            refuse_normalized(env)
            env = cls._wrap_env(env)
            check_env(env, known["observation_space"], known["action_space"])
            # SB3 compares them to the last bit, and would refuse an environment that has become float64.
            known |= {"observation_space": env.observation_space, "action_space": env.action_space}
        return super().load(path, env, device, known, print_system_info, force_reset, **kwargs)

    def _current_tables(self) -> Batches:
        """The tables of ``self.preferences``, made anew when other preferences were set."""
        if self.preferences is None:
            raise ValueError("preferences: there are none to learn from. Pass PREFINE(policy, preferences=…).")
        if self._tables is None or self._tables[0] is not self.preferences:
            self.preferences.check_spaces(self.observation_space, self.action_space)
            tables: Batches
            if self._likelihood.needs == "sequences":
                tables = build_sequence_tables(self.preferences, self.reference, self._likelihood, self.policy)
            else:
                tables = build_tables(self.preferences, self.reference, self._likelihood, self.device)
            self._tables = (self.preferences, tables)
        return self._tables[1]

    def _excluded_save_params(self) -> list[str]:
        own = ("preferences", "reference", "_generator", "_guard", "_likelihood", "_metrics", "_tables")
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "optimizer"], []
