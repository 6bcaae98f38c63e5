"""A progress bar for training without an environment, which SB3's own asks for."""

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from tqdm import tqdm


def add_progress_bar(callback: MaybeCallback) -> CallbackList:
    """A model's callbacks, in any of the forms that SB3 takes, and a progress bar after them."""
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
