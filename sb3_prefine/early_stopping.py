"""Training ends when it gets no better on preferences that were held out of it."""

import math
from copy import deepcopy
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.prefine import PREFINE
from sb3_prefine.tables import Batches

# Transitions of each set that the loss is taken of: an evaluation takes about as long as ten updates.
_N_TRANSITIONS = 4096


class EarlyStopping(BaseCallback):
    """
    Stop training when the loss on held-out preferences no longer falls, and go back to the best weights.

    No environment is needed. Hold out whole episodes, and train on the others::

        train, held_out = preferences.split(0.2)
        model = PREFINE("ppo/HalfCheetah-v3", train)
        model.learn(20_000, callback=EarlyStopping(held_out))

    Without it ``learn(N)`` makes N gradient steps. The loss is that of Eq. 9 with the model's own hyperparameters, each
    time of the same transitions and the same noise. It is logged as ``held_out/loss``, with ``held_out/accuracies`` and
    ``held_out/sft_loss``.

    :param held_out: preferences that the model does not train on
    :param eval_freq: gradient steps between two evaluations
    :param patience: stop after so many evaluations in a row without a new lowest loss
    :param seed: of the transitions and of the noise
    :param verbose: 0 for no output, 1 for a line at the end
    :raises ValueError: a number is not positive; at the start of training, if the preferences do not fit the policy
    :raises TypeError: at the start of training, if the model is not of PREFINE
    """

    model: PREFINE

    def __init__(
        self, held_out: PreferenceBuffer, *, eval_freq: int = 100, patience: int = 5, seed: int = 0, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        for name, value in (("eval_freq", eval_freq), ("patience", patience)):
            if value < 1:
                raise ValueError(f"{name}: {value} is not positive.")
        self.held_out = held_out
        self.eval_freq = eval_freq
        self.patience = patience
        self.seed = seed
        self.best_loss = math.inf
        self.best_timestep = 0

    def _on_training_start(self) -> None:
        if not isinstance(self.model, PREFINE):
            raise TypeError(
                f"EarlyStopping: it takes PREFINE's loss on the held-out preferences, and the model is a "
                f"{type(self.model).__name__}."
            )
        self._tables: Batches = self.model._build_tables(self.held_out)
        self.best_loss, self._evaluations_since = math.inf, 0
        self._evaluate()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.eval_freq == 0:
            self._evaluate()
        return self._evaluations_since < self.patience

    def _on_training_end(self) -> None:
        if self.num_timesteps != self._last_timestep:
            self._evaluate()
        self.model.policy.load_state_dict(self._best_weights)
        if self.verbose >= 1:
            stopped = "stopped" if self._evaluations_since >= self.patience else "ended"
            print(
                f"Training {stopped} after {self.num_timesteps:,} gradient steps. The weights are those after "
                f"{self.best_timestep:,}, whose loss on held-out preferences was lowest: {self.best_loss:,.3f}."
            )

    def _evaluate(self) -> None:
        found = self.model._score(self._tables, _N_TRANSITIONS, self.seed)
        for name in ("train/loss", "train/sft_loss", "rewards/accuracies"):
            self.logger.record(f"held_out/{name.partition('/')[2]}", found[name])
        self._last_timestep = self.num_timesteps
        self._evaluations_since += 1
        if found["train/loss"] < self.best_loss:
            self.best_loss, self.best_timestep, self._evaluations_since = found["train/loss"], self.num_timesteps, 0
            self._best_weights: dict[str, Any] = deepcopy(self.model.policy.state_dict())
