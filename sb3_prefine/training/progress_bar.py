"""A progress bar for training without an environment, which SB3's progress bar needs."""

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from tqdm import tqdm


def add_progress_bar(callback: MaybeCallback) -> CallbackList:
    """
    Add a progress bar after the callbacks.

    :param callback: Callbacks in any form that SB3 takes.
    :return: All of them, the progress bar last.
    """
    callbacks = callback if isinstance(callback, list) else [callback]
    converted = [entry if isinstance(entry, BaseCallback) else ConvertCallback(entry) for entry in callbacks]
    return CallbackList([*converted, ProgressBar()])


class ProgressBar(BaseCallback):
    """Shows the gradient steps of one call of ``learn``."""

    def _on_training_start(self) -> None:
        self.bar = tqdm(total=self.locals["total_timesteps"] - self.model.num_timesteps, unit=" updates")

    def _on_step(self) -> bool:
        self.bar.update()
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
