"""Many runs at once: seeds, data draws and hyperparameters of one architecture, trained in the same updates."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, overload

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor
from tqdm import tqdm

from sb3_prefine.population.batched_update import BatchedUpdate, should_batch_networks
from sb3_prefine.population.compatibility import check_compatible, same_distribution
from sb3_prefine.prefine import PREFINE
from sb3_prefine.training.offline_algorithm import CHECK_INTERVAL
from sb3_prefine.training.optimizer import FiniteGuard
from sb3_prefine.training.transition_tables import (
    UPDATES_PER_DRAW,
    ScoredTransitions,
    TransitionTables,
    join_tables,
    preferred_first,
)
from sb3_prefine.utils.threads import threads_for

# One of SB3's for each run; or a function, which is called for every run.
Callbacks = Sequence[MaybeCallback] | Callable[[dict[str, Any], dict[str, Any]], bool]


class Population(Sequence[PREFINE]):
    """
    PREFINE models that are trained together, each as if it were alone.

    Every run ends with the weights, logs and random state that ``model.learn`` alone would give it, to the tolerance of
    floats. What is many small operations for one run is as many larger ones for R runs::

        reference = load_reference("ppo/HalfCheetah-v3")
        models = [PREFINE(reference, data, beta=beta, seed=seed) for beta in (0.05, 0.1, 0.2) for seed in range(5)]
        population = Population(models).learn(20_000, progress_bar=True)
        population[0].export("safe.zip")

    ``population[i]`` is the i-th model itself: it can be evaluated, saved, exported or trained further by itself, and
    in callbacks too. Runs of the same preferences (the same object) and reference share their tables in memory.

    On the CPU the networks run one after the other inside an update, which is fastest there. On CUDA they are one
    batched network (``torch.vmap``), but for a module of your own. The noise of a ``CVAEPolicy`` depends on every bit
    of the samples: batched, it is as good, but soon another than that of the run alone.

    :param models: of one architecture, on one device, alike in what ``SHARED_SETTINGS`` names. Preferences,
        seed, ``beta``, ``sft_coef``, ``log_ratio_bound``, ``learning_rate``, ``max_grad_norm``, ``optimizer_kwargs``
        and the weights to start from are each run's own
    :raises TypeError: something that is no PREFINE model, or one that cannot be trained together with others
    :raises ValueError: models that differ where they must not; names them, and the attribute
    """

    def __init__(self, models: Iterable[PREFINE]) -> None:
        self._models = list(models)
        check_compatible(self._models)
        self._batched = should_batch_networks(self._models[0])
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

        A callback that returns False ends its own run, and so does a loss or gradient that is not finite. The others go
        on.

        :param total_timesteps: the number of gradient steps of each run
        :param callback: one for each run, in any of the forms that SB3 takes (None too), called after each of its
            gradient steps; or one function for all of them, which finds the model in ``locals_["self"]``
        :param log_interval: gradient steps between two logs of a run, by its own logger, each the mean over them; None
            logs nothing
        :param tb_log_name: for TensorBoard, where the runs are called ``{tb_log_name}_{i}``; None is the name of the
            class
        :param reset_num_timesteps: False goes on counting from where the last call ended
        :param progress_bar: show one, of the gradient steps
        :return: the population
        :raises ValueError: there are no data, or they do not fit the policy; the callbacks are not one a run
        :raises FloatingPointError: a loss or gradient was not finite, when all runs have ended; names the runs, whose
            policies hold the last good weights
        """
        callbacks = _one_each(callback, len(self))
        check_compatible(self._models)
        columns, parts = self._share_tables()
        runs = []
        for i, (model, own, (tables, start)) in enumerate(zip(self._models, callbacks, parts, strict=True)):
            name = f"{tb_log_name or type(model).__name__}_{i}"
            total, initialized = model._setup_learn(total_timesteps, own, reset_num_timesteps, name)
            model.policy.set_training_mode(False)
            runs.append(_Run(i, model, tables, start, initialized, total, log_interval))
        for run in runs:
            run.callback.on_training_start(run.locals, globals())
        first, one_state = self._models[0], self._models[0]._example_inputs(1)
        with (
            threads_for(lambda: first._likelihood.params(first.policy, one_state), first._states_per_update),
            tqdm(total=total_timesteps, unit=" updates", disable=not progress_bar) as bar,
        ):
            self._train(runs, columns, total_timesteps, bar)
        failed = [f"models[{run.number}]: {run.error}" for run in runs if run.error is not None]
        if failed:
            raise FloatingPointError("\n".join((f"{len(failed)} of {len(runs)} runs were stopped.", *failed)))
        return self

    def _train(self, runs: Sequence["_Run"], columns: ScoredTransitions, n_updates: int, bar: tqdm) -> None:
        first = runs[0].model
        sets = preferred_first(first.batch_size, first.device)
        stack = BatchedUpdate(self._models, FiniteGuard(first.device, (len(runs),)), self._batched)
        try:
            for update in range(n_updates):
                if update % UPDATES_PER_DRAW == 0:
                    rows = torch.stack([run.draw() for run in runs], dim=1)
                for run in runs:
                    run.model._set_learning_rate(run.total_timesteps)
                stack.train(columns.at(rows[update % UPDATES_PER_DRAW], sets))
                bar.update()
                going_on = _after_update(runs, stack)
                if len(going_on) < len(runs):
                    runs, rows = [runs[i] for i in going_on], rows[:, going_on]
                    if not runs:
                        return
                    stack = stack.keep(going_on)
            for run, error in zip(runs, stack.guard.errors(), strict=True):
                run.end(error)
        finally:
            stack.release()

    def _share_tables(self) -> tuple[ScoredTransitions, list[tuple[TransitionTables, int]]]:
        """
        The tables of all models, one for those of the same data and reference.

        :return: their rows, one table after the other; for each model its table, and where that starts
        """
        found = []
        for i, model in enumerate(self._models):
            if model.preferences is None:
                raise ValueError(f"models[{i}].preferences: there are none to learn from. Set them, or leave it out.")
            of_same_data = (other for other in self._models[:i] if other.preferences is model.preferences)
            twin = next((other for other in of_same_data if same_distribution(other.reference, model.reference)), model)
            tables = twin._current_tables()
            if not isinstance(tables, TransitionTables):
                raise ValueError(
                    f"models[{i}].preferences: they lie on disk and hold more transitions than buffer_size="
                    f"{model.buffer_size:,}, and one stream cannot serve many runs. Make buffer_size larger, read the "
                    "data without mmap=True, or train it by itself: model.learn(…)."
                )
            found.append(tables)
        distinct = list({id(tables): tables for tables in found}.values())
        columns, parts = self._joined
        if columns is None or [id(tables) for tables in distinct] != [id(part) for part in parts]:
            columns, parts = self._joined = join_tables(distinct)
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part.actions))
        numbers = {id(tables): number for number, tables in enumerate(distinct)}
        chosen = [numbers[id(tables)] for tables in found]
        # In place of the tables that were joined, whose memory is freed.
        for model, number in zip(self._models, chosen, strict=True):
            assert model.preferences is not None
            model._tables = (model.preferences, parts[number])
        return columns, [(parts[number], starts[number]) for number in chosen]


@dataclass
class _Run:
    """
    :param number: which of the models
    :param start: where the rows of its tables start among those of all
    :param total_timesteps: where it ends
    :param error: why it was stopped
    """

    number: int
    model: PREFINE
    tables: TransitionTables
    start: int
    callback: BaseCallback
    total_timesteps: int
    log_interval: int | None
    error: FloatingPointError | None = None

    @cached_property
    def locals(self) -> dict[str, Any]:
        """What callbacks find in ``self.locals``."""
        names = ("callback", "total_timesteps", "log_interval")
        return {"self": self.model, **{name: getattr(self, name) for name in names}}

    def draw(self) -> Tensor:
        """Its rows of the next 100 batches, (100, B)."""
        return self.start + self.tables.draw(self.model.batch_size, self.model._generator)

    def is_due(self, interval: int | None) -> bool:
        return interval is not None and self.model._n_updates % interval == 0

    def end(self, error: FloatingPointError | None) -> None:
        self.error = error
        if error is None:
            self.callback.on_training_end()


def _after_update(runs: Sequence[_Run], stack: BatchedUpdate) -> list[int]:
    """
    What ``PREFINE.learn`` does after an update, for every run.

    :return: the places of the runs that go on
    """
    for run in runs:
        run.model._n_updates += 1
        run.model.num_timesteps += 1
    errors: list[FloatingPointError | None] = [None] * len(runs)
    if any(run.is_due(CHECK_INTERVAL) for run in runs):
        errors = stack.guard.errors()
    if any(run.is_due(run.log_interval) for run in runs):
        stack.hand_out_metrics()
    going_on = []
    for i, (run, error) in enumerate(zip(runs, errors, strict=True)):
        if error is not None and run.is_due(CHECK_INTERVAL):
            run.end(error)
            continue
        run.callback.update_locals(run.locals)
        if not run.callback.on_step():
            run.end(stack.guard.errors()[i])
            continue
        if run.is_due(run.log_interval):
            run.model.dump_logs()
        going_on.append(i)
    return going_on


def _one_each(callback: Callbacks | None, n_runs: int) -> list[MaybeCallback]:
    """
    :return: the callback of each run
    :raises TypeError: one callback for all runs
    :raises ValueError: not one a run
    """
    if isinstance(callback, BaseCallback):
        raise TypeError(
            f"callback: a {type(callback).__name__} watches one model, and there are {n_runs}. Pass a list with one "
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
        raise ValueError("callback: the same object is there twice, and it watches one model. Make one for each run.")
    return callbacks
