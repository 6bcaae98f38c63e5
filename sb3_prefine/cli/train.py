"""``sb3-prefine train``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sb3_prefine.cli.options import Hyperparameters, Opening, Selection, check_outputs, read_trajectories
from sb3_prefine.utils.files import with_zip_suffix

if TYPE_CHECKING:
    from sb3_prefine.callbacks import EarlyStopping
    from sb3_prefine.data.preferences import PreferenceBuffer
    from sb3_prefine.prefine import PREFINE
    from sb3_prefine.reference.reference import Reference

# Without tyro's "(default: )": what is left out is no file.
_Files = Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class Data:
    """
    What to learn from: --preferred and --dispreferred, or --data and --cost-limit.

    :param preferred: HDF5 files of episodes to do more like
    :param dispreferred: HDF5 files of episodes to do less like
    :param data: HDF5 files of episodes to choose both sets from, by their cost and return
    :param cost_limit: episodes of --data that cost less are safe, the others unsafe
    :param data_seed: seed of the choice from --data
    :param mmap: leave the data on disk, for more than the memory holds; a compressed file is uncompressed once, into a
        copy beside it
    """

    preferred: _Files = ()
    dispreferred: _Files = ()
    data: _Files = ()
    cost_limit: float | None = None
    data_seed: int = 0
    mmap: bool = False

    def read(self, selection: Selection) -> "PreferenceBuffer":
        """
        The two sets.

        :param selection: how to choose them from ``data``
        :raises ValueError: it is not one of the two ways
        """
        from sb3_prefine.data.preferences import PreferenceBuffer

        if self.data and not (self.preferred or self.dispreferred):
            if self.cost_limit is None:
                raise ValueError("--data needs --cost-limit: what costs less is safe.")
            return selection.choose(read_trajectories(self.data, self.mmap), self.cost_limit, self.data_seed)
        if self.data or not (self.preferred and self.dispreferred):
            raise ValueError("Name the data: --preferred and --dispreferred, or --data and --cost-limit.")
        return PreferenceBuffer(
            read_trajectories(self.preferred, self.mmap), read_trajectories(self.dispreferred, self.mmap)
        )


@dataclass(frozen=True)
class Watching:
    """
    Evaluation, by the policy's mode. Training itself needs no environment.

    :param eval_env: an environment's id: evaluate before and after training, and keep the best safe policy on the way
    :param eval_cost_limit: the most that an episode may cost; not given, it is --cost-limit
    :param eval_episodes: episodes of one evaluation
    :param eval_freq: gradient steps between two evaluations on the way; 0 for none
    :param eval_n_envs: environments to make; 16 for each process take the least time a step
    :param eval_n_workers: processes that step them; the episodes are the same
    :param eval_seed: seed of the episodes before and after; those on the way, which choose the best, have the next one
    """

    eval_env: str | None = None
    eval_cost_limit: float | None = None
    eval_episodes: int = 20
    eval_freq: int = 1_000
    eval_n_envs: int = 32
    eval_n_workers: int = 1
    eval_seed: int = 0

    def cost_limit(self, data: Data) -> float | None:
        """
        The limit of the evaluation; None if there is none.

        :param data: whose limit is taken where there is no other
        :raises ValueError: there is an environment and no limit
        """
        if self.eval_env is None:
            return None
        cost_limit = data.cost_limit if self.eval_cost_limit is None else self.eval_cost_limit
        if cost_limit is None:
            raise ValueError("--eval-env needs --eval-cost-limit: the most that an episode may cost.")
        return cost_limit


@dataclass(frozen=True)
class Stopping:
    """
    When training ends before --steps. It needs no environment.

    :param held_out: the part of the episodes of each set that is not trained on: when the loss on them no longer falls,
        training stops and goes back to the weights where it was lowest; 0 trains on all, and makes all steps
    :param patience: stop after so many evaluations in a row, one every 100 steps, without a new lowest loss
    """

    held_out: float = 0.1
    patience: int = 5

    def split(self, preferences: "PreferenceBuffer", seed: int) -> tuple["PreferenceBuffer", "EarlyStopping | None"]:
        """
        :param preferences: all there are
        :param seed: of the choice
        :return: what to train on, and when to stop; all of them and None where they are too few to hold any out
        :raises ValueError: a number out of its range
        """
        from sb3_prefine.callbacks import EarlyStopping

        if not 0 <= self.held_out < 1:
            raise ValueError(
                f"--held-out: {self.held_out:g} is not a part of the episodes; give one of at least 0, below 1."
            )
        if self.patience < 1:
            raise ValueError(f"--patience: {self.patience} is not positive.")
        if self.held_out == 0:
            return preferences, None
        fewest = min(len(preferences.preferred), len(preferences.dispreferred))
        if int(fewest * self.held_out + 0.5) in (0, fewest):
            print(f"No early stop: {fewest} episodes of a set are too few to hold {self.held_out:.0%} of them out.")
            return preferences, None
        rest, held_out = preferences.split(self.held_out, seed)
        return rest, EarlyStopping(held_out, patience=self.patience, verbose=1)


def train(
    policy: tyro.conf.Positional[str],
    data: Data,
    selection: Selection,
    hyperparameters: Hyperparameters,
    stopping: Stopping,
    evaluation: Watching,
    opening: Opening,
    *,
    out: Path,
    steps: int = 3_000,
    seed: int = 0,
    device: str = "auto",
    save_model: Path | None = None,
    tensorboard: Path | None = None,
    overwrite: bool = False,
) -> None:
    """
    Make a policy safer from preferred and dispreferred episodes.

    Writes a plain Stable-Baselines3 zip of the class that the policy came from, with its normaliser beside it, if it
    has one. With --eval-env the best of the safe policies on the way, if there is one, becomes NAME_best.zip beside it.

    From two sets, and from one that is split by cost:
      sb3-prefine train ppo/HalfCheetah-v3 --preferred good.hdf5 --dispreferred bad.hdf5 --out safe.zip
      sb3-prefine train ppo/HalfCheetah-v3 --data own.hdf5 slower.hdf5 --cost-limit 25 --out safe.zip \\
        --learning-rate 1e-3 --steps 2000 --eval-env SpeedLimitHalfCheetah-v0

    :param policy: a zip, an RL-Zoo folder, a name like ppo/HalfCheetah-v3 in the folder that the environment variable
        RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub
    :param out: the zip to write
    :param steps: gradient steps, at most
    :param seed: seed of the batches, of the counterfactual actions, and of what is held out
    :param device: where to compute: auto, cpu, cuda, cuda:1, ...
    :param save_model: also write a PREFINE zip, with the optimizer and the reference: PREFINE.load goes on training
    :param tensorboard: write logs for TensorBoard into this folder
    :param overwrite: replace the output files if they are there
    """
    out, save_model = with_zip_suffix(out), save_model and with_zip_suffix(save_model)
    best = out.with_name(f"{out.stem}_best.zip") if evaluation.eval_env is not None and evaluation.eval_freq else None
    if steps < 1:
        raise ValueError(f"--steps: {steps} is not positive.")
    check_outputs(out, best, save_model, overwrite=overwrite)
    cost_limit = evaluation.cost_limit(data)

    reference = opening.open(policy)
    preferences = data.read(selection)
    trained_on, early_stopping = stopping.split(preferences, seed)
    model = _model(reference, trained_on, hyperparameters, seed, device, tensorboard)
    from sb3_prefine.cli.evaluated_training import learn, learn_watched
    from sb3_prefine.evaluation.tables import data_table, print_table, results_table

    sets = [("dispreferred data", preferences.dispreferred), ("preferred data", preferences.preferred)]
    if cost_limit is None:
        seconds = learn(model, steps, early_stopping)
        table = data_table(sets, data.cost_limit)
    else:
        seconds, evaluations = learn_watched(model, steps, early_stopping, evaluation, cost_limit, best)
        table = results_table(evaluations, cost_limit, sets)
    exported = model.export(out)
    if save_model is not None:
        model.save(save_model)

    print_table(table)
    print(f"{model.num_timesteps:,} gradient steps in {seconds:.1f} s.")
    print(f"Wrote {exported}: a plain Stable-Baselines3 zip" + (f" ({reference.algo})." if reference.algo else "."))
    if best is not None:
        print(f"Wrote {best}: the best safe one on the way." if best.exists() else "No policy on the way was safe.")
    if save_model is not None:
        print(f"Wrote {save_model}: PREFINE.load goes on training it.")


def _model(
    reference: "Reference",
    preferences: "PreferenceBuffer",
    hyperparameters: Hyperparameters,
    seed: int,
    device: str,
    tensorboard: Path | None,
) -> "PREFINE":
    from sb3_prefine.prefine import PREFINE

    try:
        return PREFINE(
            reference,
            preferences,
            **asdict(hyperparameters),
            seed=seed,
            device=device,
            tensorboard_log=None if tensorboard is None else str(tensorboard),
        )
    except TypeError as error:
        # The constructor's word for a policy without a likelihood: here it is the value of an argument.
        raise ValueError(str(error)) from error
