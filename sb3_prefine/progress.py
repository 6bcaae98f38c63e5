"""A progress bar for training without an environment, which SB3's own asks for."""

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm


class ProgressBar(BaseCallback):
    """Shows the gradient steps of one call of ``learn``."""

    def _on_training_start(self) -> None:
        self.bar = tqdm(total=self.locals["total_timesteps"] - self.model.num_timesteps, unit=" updates")

    def _on_step(self) -> bool:
        self.bar.update()
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
