"""Training for ``sb3-prefine train``: with evaluations before, on the way and after, or without."""

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_prefine.callbacks import CostEvalCallback, EarlyStopping
from sb3_prefine.cli.train import Watching
from sb3_prefine.evaluation.evaluate import Evaluation, evaluate_policy
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.reference import Reference
from sb3_prefine.rollout.predictor import PolicyLike


def learn(model: PREFINE, steps: int, stopping: EarlyStopping | None, *callbacks: BaseCallback) -> float:
    """Train, with a progress bar; return how many seconds it took."""
    start = time.perf_counter()
    model.learn(steps, [*callbacks, *([] if stopping is None else [stopping])], progress_bar=True)
    return time.perf_counter() - start


def learn_watched(
    model: PREFINE,
    steps: int,
    stopping: EarlyStopping | None,
    watching: Watching,
    cost_limit: float,
    best_path: Path | None,
) -> tuple[float, list[tuple[str, Evaluation]]]:
    """
    Train, and evaluate the reference, the last policy, and the best safe one on the way.

    :param model: about to be trained
    :param steps: gradient steps
    :param stopping: may end it earlier
    :param watching: the environment, and how often
    :param cost_limit: the most that an episode may cost
    :param best_path: the zip of the best safe policy; None does not look for one
    :return: the seconds of the training, evaluations on the way included, and a name and an evaluation for each policy
    """
    before = ("reference", _evaluate(model.reference, watching))
    keep = None
    callbacks = []
    if best_path is not None:
        # What an earlier run left there would pass for this one's.
        best_path.unlink(missing_ok=True)
        keep = _KeepBest(best_path)
        watch = CostEvalCallback(
            str(watching.eval_env),
            cost_limit=cost_limit,
            eval_freq=watching.eval_freq,
            n_eval_episodes=watching.eval_episodes,
            n_envs=watching.eval_n_envs,
            n_workers=watching.eval_n_workers,
            seed=watching.eval_seed + 1,
            callback_on_new_best=keep,
            callback_after_eval=_Tell(),
            verbose=0,
        )
        callbacks.append(watch)
    seconds = learn(model, steps, stopping, *callbacks)
    made = model.num_timesteps if stopping is None else stopping.best_timestep
    evaluations = [before, (f"after {made:,} steps", _evaluate(model, watching))]
    if keep is not None and keep.best is not None:
        evaluations.append((f"best safe: {keep.step:,} steps", _evaluate(keep.best, watching)))
    return seconds, evaluations


def _evaluate(policy: PolicyLike, watching: Watching) -> Evaluation:
    return evaluate_policy(
        policy,
        str(watching.eval_env),
        watching.eval_episodes,
        n_envs=watching.eval_n_envs,
        n_workers=watching.eval_n_workers,
        seed=watching.eval_seed,
        progress_bar=True,
    )


class _KeepBest(BaseCallback):
    """Called at a new best safe policy: remembers it, and exports it at once, so that Ctrl-C leaves it there."""

    model: PREFINE

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.best: Reference | None = None
        self.step = 0

    def _on_step(self) -> bool:
        self.best = self.model.to_reference()
        self.step = self.model.num_timesteps
        self.model.export(self._path)
        return True


class _Tell(BaseCallback):
    """Called after an evaluation: one line, above the progress bar."""

    parent: CostEvalCallback

    def _on_step(self) -> bool:
        tqdm.write(f"after {self.num_timesteps:,} steps: {self.parent.last_evaluation}")
        return True
