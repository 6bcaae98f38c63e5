"""One call of ``learn``: everything around its gradient steps."""

from collections.abc import Callable
from typing import Any, Protocol

from stable_baselines3.common.callbacks import BaseCallback

# Gradient steps between two checks for non-finite values: each check waits for the device.
CHECK_INTERVAL = 100


class Trainable(Protocol):
    """What a run needs from its model. ``_n_updates`` is the name of SB3."""

    num_timesteps: int
    _n_updates: int

    def set_learning_rate(self, total_timesteps: int) -> None: ...

    def dump_logs(self) -> None: ...


class TrainingRun:
    """
    One call of ``learn`` for one model: learning rate, counts, check for non-finite values, callbacks and logs.

    ``OfflineAlgorithm.learn`` drives one run, ``Population.learn`` drives one for each model::

        run.start(locals(), globals())
        while not run.is_complete:
            run.set_learning_rate()
            model.train(next(batches))
            run.count_step()
            if not run.after_step(guard.error):
                break
        run.end(guard.error())

    :param model: The model to train.
    :param callback: Its callback, initialised.
    :param total_timesteps: Number of timesteps at which the run is complete.
    :param log_interval: Gradient steps between two logs, or None for no logs.
    """

    def __init__(
        self, model: Trainable, callback: BaseCallback, total_timesteps: int, log_interval: int | None
    ) -> None:
        self.model = model
        self.callback = callback
        self.total_timesteps = total_timesteps
        self.log_interval = log_interval
        self.error: FloatingPointError | None = None

    def start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """
        Call the callback's ``on_training_start``.

        :param locals_: What callbacks find in ``self.locals``.
        :param globals_: What callbacks find in ``self.globals``.
        """
        self._locals = locals_
        self.callback.on_training_start(locals_, globals_)

    @property
    def is_complete(self) -> bool:
        """Whether all gradient steps were made."""
        return self.model.num_timesteps >= self.total_timesteps

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next gradient step."""
        self.model.set_learning_rate(self.total_timesteps)

    def count_step(self) -> None:
        """Count a gradient step."""
        self.model._n_updates += 1
        self.model.num_timesteps += 1

    @property
    def is_log_due(self) -> bool:
        """Whether ``after_step`` will write logs."""
        return self.log_interval is not None and self.model._n_updates % self.log_interval == 0

    def after_step(self, find_error: Callable[[], FloatingPointError | None]) -> bool:
        """
        Check for non-finite values, call the callback and write logs, each at its interval.

        :param find_error: Asks the device whether a value was not finite.
        :return: False if the run has to end, because of an error or of the callback.
        """
        if self.model._n_updates % CHECK_INTERVAL == 0 and find_error() is not None:
            return False
        self.callback.update_locals(self._locals)
        if not self.callback.on_step():
            return False
        if self.is_log_due:
            self.model.dump_logs()
        return True

    def end(self, error: FloatingPointError | None) -> None:
        """
        Call the callback's ``on_training_end``, unless there was an error.

        :param error: Error of the run; kept as ``self.error``.
        """
        self.error = error
        if error is None:
            self.callback.on_training_end()
