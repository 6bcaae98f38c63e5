"""Many runs at once: seeds, datasets and hyperparameters with one architecture, trained in the same updates."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self, overload

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor
from tqdm import tqdm

from sb3_prefine.population.batched_update import BatchedUpdate, should_batch_networks
from sb3_prefine.population.compatibility import check_compatible, same_distribution
from sb3_prefine.prefine import PREFINE
from sb3_prefine.training.draw_rows import UPDATES_PER_DRAW
from sb3_prefine.training.optimizer import FiniteGuard
from sb3_prefine.training.training_run import TrainingRun
from sb3_prefine.training.transition_tables import ScoredTransitions, TransitionTables, join_tables, preferred_first

# A callback of SB3 for each run; or a function, which is called for every run.
Callbacks = Sequence[MaybeCallback] | Callable[[dict[str, Any], dict[str, Any]], bool]


class Population(Sequence[PREFINE]):
    """
    PREFINE models that are trained together, with the same results as separately.

    Every model gets the weights, logs and random state that ``model.learn`` would give it, up to rounding errors. An
    update of R runs launches the same number of operations as an update of one run, on larger tensors::

        reference = load_reference("ppo/HalfCheetah-v3")
        models = [PREFINE(reference, data, beta=beta, seed=seed) for beta in (0.05, 0.1, 0.2) for seed in range(5)]
        population = Population(models).learn(20_000, progress_bar=True)
        population[0].export("safe.zip")

    ``population[i]`` is the i-th model itself: you can evaluate, save, export or train it separately, also in
    callbacks. Runs with the same preferences (the same object) and the same reference share their tables in memory.

    On the CPU, the networks are computed one after the other in each update, which is fastest there. On CUDA they are
    one batched network (``torch.vmap``), except for a custom module. The noise of a ``CVAEPolicy`` depends on the exact
    samples: if its networks are batched, the noise is equally valid, but differs from that of a separate run.

    :param models: Models with the same architecture and device, and with equal attributes in ``SHARED_SETTINGS``. They
        may differ in preferences, seed, ``beta``, ``sft_coef``, ``log_ratio_bound``, ``learning_rate``,
        ``max_grad_norm``, ``optimizer_kwargs`` and initial weights.
    :raises TypeError: If one is not a PREFINE model, or cannot be trained together with others.
    :raises ValueError: If models differ where they must not; names them and the attribute.
    """

    def __init__(self, models: Iterable[PREFINE]) -> None:
        self._models = list(models)
        check_compatible(self._models)
        self._joined: tuple[ScoredTransitions | None, list[TransitionTables]] = (None, [])

    def __len__(self) -> int:
        return len(self._models)

    @overload
    def __getitem__(self, index: int) -> PREFINE: ...
    @overload
    def __getitem__(self, index: slice) -> list[PREFINE]: ...
    def __getitem__(self, index: int | slice) -> PREFINE | list[PREFINE]:
        return self._models[index]

    def learn(
        self,
        total_timesteps: int,
        callback: Callbacks | None = None,
        log_interval: int | None = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train all models.

        A callback that returns False ends its own run, and so does a non-finite loss or gradient. The others continue.

        :param total_timesteps: Number of gradient steps of each run.
        :param callback: A list with a callback for each run, each in any form that SB3 takes (or None); or one function
            for all runs, which finds the model in ``locals_["self"]``. Called after each gradient step of its run.
        :param log_interval: Gradient steps between two logs of a run by its logger, which hold the means since the last
            one; None for no logs.
        :param tb_log_name: Name for TensorBoard, in which run i is ``{tb_log_name}_{i}``; None for the class's name.
        :param reset_num_timesteps: Whether to count from 0 again. False continues the count of the last call.
        :param progress_bar: Whether to show a progress bar of the gradient steps.
        :return: The population.
        :raises ValueError: If there are no data, they do not fit the policy, or there is not one callback for each run.
        :raises FloatingPointError: If a loss or gradient was not finite; raised when all runs have ended. Names the
            runs, whose policies hold the last finite weights.
        """
        callbacks = _callback_of_each_run(callback, len(self))
        check_compatible(self._models)
        transitions, tables = self._share_tables()
        runs = []
        for i, (model, own, (table, first_row)) in enumerate(zip(self._models, callbacks, tables, strict=True)):
            name = f"{tb_log_name or type(model).__name__}_{i}"
            total, initialized = model._setup_learn(total_timesteps, own, reset_num_timesteps, name)
            runs.append(_Run(i, model, TrainingRun(model, initialized, total, log_interval), table, first_row))
        for run in runs:
            training = run.training
            locals_ = {"callback": training.callback, "total_timesteps": training.total_timesteps}
            training.start({"self": run.model, "log_interval": log_interval, **locals_}, globals())
        with (
            self._models[0].limited_threads(),
            tqdm(total=total_timesteps, unit=" updates", disable=not progress_bar) as bar,
        ):
            self._train(runs, transitions, total_timesteps, bar)
        failed = [f"models[{run.number}]: {run.training.error}" for run in runs if run.training.error is not None]
        if failed:
            raise FloatingPointError("\n".join((f"{len(failed)} of {len(runs)} runs were stopped.", *failed)))
        return self

    def _train(self, runs: list["_Run"], transitions: ScoredTransitions, n_updates: int, bar: tqdm) -> None:
        first = runs[0].model
        sets = preferred_first(first.batch_size, first.device)
        guard = FiniteGuard(first.device, (len(runs),))
        update = BatchedUpdate(self._models, guard, should_batch_networks(first))
        try:
            for step in range(n_updates):
                if step % UPDATES_PER_DRAW == 0:
                    rows = torch.stack([run.draw() for run in runs], dim=1)
                for run in runs:
                    run.training.set_learning_rate()
                update.train(transitions.at(rows[step % UPDATES_PER_DRAW], sets))
                bar.update()
                continuing = _after_step(runs, update)
                if len(continuing) < len(runs):
                    runs, rows = [runs[i] for i in continuing], rows[:, continuing]
                    if not runs:
                        return
                    update = update.select_runs(continuing)
            for run, error in zip(runs, guard.errors(), strict=True):
                run.training.end(error)
        finally:
            update.clear_gradients()

    def _share_tables(self) -> tuple[ScoredTransitions, list[tuple[TransitionTables, int]]]:
        """
        Build the tables of all models. Models with the same data and reference share a table.

        :return: The rows of all tables, one table after the other; and for each model its table and its first row.
        """
        tables = [self._table_of(i) for i in range(len(self))]
        distinct = list({id(table): table for table in tables}.values())
        transitions, views = self._joined
        if transitions is None or [id(table) for table in distinct] != [id(view) for view in views]:
            transitions, views = self._joined = join_tables(distinct)
        positions = {id(table): position for position, table in enumerate(distinct)}
        first_rows = [sum(len(view.actions) for view in views[:position]) for position in range(len(views))]
        shared = [(views[position], first_rows[position]) for position in (positions[id(table)] for table in tables)]
        for model, (view, _) in zip(self._models, shared, strict=True):
            # This frees the memory of the tables that were joined.
            model.set_tables(view)
        return transitions, shared

    def _table_of(self, i: int) -> TransitionTables:
        """Get the table of a model, or that of an earlier model with the same data and reference."""
        model = self._models[i]
        if model.preferences is None:
            raise ValueError(
                f"models[{i}].preferences: None, which is nothing to learn from. Set them, or leave it out."
            )
        with_same_data = (other for other in self._models[:i] if other.preferences is model.preferences)
        same = (other for other in with_same_data if same_distribution(other.reference, model.reference))
        table = next(same, model).current_tables()
        if not isinstance(table, TransitionTables):
            raise ValueError(
                f"models[{i}].preferences: they are on disk and hold more transitions than buffer_size="
                f"{model.buffer_size:,}, and one stream cannot serve many runs. Make buffer_size larger, read the "
                "data without mmap=True, or train it separately: model.learn(…)."
            )
        return table


@dataclass(frozen=True)
class _Run:
    """
    One model during ``Population.learn``.

    :param number: Position of the model in the population.
    :param model: The model.
    :param training: Its callbacks, counts and logs.
    :param table: Its table.
    :param first_row: First row of this table among the rows of all tables.
    """

    number: int
    model: PREFINE
    training: TrainingRun
    table: TransitionTables
    first_row: int

    def draw(self) -> Tensor:
        """Draw the rows of the next 100 batches, (100, B), among the rows of all tables."""
        return self.first_row + self.table.draw(self.model.batch_size, self.model.generator)


def _after_step(runs: Sequence[_Run], update: BatchedUpdate) -> list[int]:
    """
    Count the gradient step of every run, call its callback and write its logs.

    :return: Positions of the runs that continue.
    """
    for run in runs:
        run.training.count_step()
    if any(run.training.is_log_due for run in runs):
        update.distribute_metrics()
    # All runs share one question to the device, which is only asked if a run needs the answer.
    errors = cache(update.guard.errors)

    def error_of(run: int) -> FloatingPointError | None:
        return errors()[run]

    continuing = []
    for i, run in enumerate(runs):
        if run.training.after_step(partial(error_of, i)):
            continuing.append(i)
        else:
            run.training.end(error_of(i))
    return continuing


def _callback_of_each_run(callback: Callbacks | None, n_runs: int) -> list[MaybeCallback]:
    """
    Get the callback of each run.

    :raises TypeError: If there is one callback object for all runs.
    :raises ValueError: If there is not one callback for each run, or if two runs have the same one.
    """
    if isinstance(callback, BaseCallback):
        raise TypeError(
            f"callback: a {type(callback).__name__} belongs to one model, and there are {n_runs}. Pass a list with one "
            "for each run, or a function."
        )
    if callback is None or callable(callback):
        return [callback] * n_runs
    callbacks = list(callback)
    if len(callbacks) != n_runs:
        raise ValueError(
            f"callback: there are {len(callbacks)} for {n_runs} runs. Pass one for each, which may be None or a list."
        )
    objects = [c for own in callbacks for c in (own if isinstance(own, list) else [own]) if isinstance(c, BaseCallback)]
    if len({id(c) for c in objects}) < len(objects):
        raise ValueError("callback: two runs have the same object, which belongs to one model. Make one for each run.")
    return callbacks
