"""``sb3-prefine train``."""

from pathlib import Path

from sb3_prefine.cli.options import (
    CheckpointOptions,
    DataOptions,
    EarlyStoppingOptions,
    EvaluationOptions,
    Hyperparameters,
    PolicyArgument,
    SelectionOptions,
)
from sb3_prefine.cli.outputs import check_outputs
from sb3_prefine.utils.files import with_zip_suffix


def train(
    policy: PolicyArgument,
    data: DataOptions,
    selection: SelectionOptions,
    hyperparameters: Hyperparameters,
    early_stopping: EarlyStoppingOptions,
    evaluation: EvaluationOptions,
    checkpoint: CheckpointOptions,
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
    Make a policy safer with preferred and dispreferred episodes.

    Writes a plain Stable-Baselines3 zip of the class that the policy came from, and its normaliser, if it has one, next
    to the zip. With --eval-env, the best safe policy found during training, if there is one, is written to
    NAME_best.zip next to it.

    From two sets, and from one dataset that is split by cost:
      sb3-prefine train ppo/HalfCheetah-v3 --preferred good.hdf5 --dispreferred bad.hdf5 --out safe.zip
      sb3-prefine train ppo/HalfCheetah-v3 --data own.hdf5 slower.hdf5 --cost-limit 25 --out safe.zip \\
        --learning-rate 1e-3 --steps 2000 --eval-env SpeedLimitHalfCheetah-v0

    :param out: The zip to write.
    :param steps: Largest number of gradient steps.
    :param seed: Seed of the batches, the counterfactual actions, and the choice of the held-out episodes.
    :param device: Device for the computation: auto, cpu, cuda, cuda:1, ...
    :param save_model: Also write a PREFINE zip, from which PREFINE.load can continue training.
    :param tensorboard: Write logs for TensorBoard to this folder.
    :param overwrite: Replace existing output files.
    """
    out, save_model = with_zip_suffix(out), save_model and with_zip_suffix(save_model)
    best = out.with_name(f"{out.stem}_best.zip") if evaluation.eval_env is not None and evaluation.eval_freq else None
    if steps < 1:
        raise ValueError(f"--steps: {steps} is not positive. Give a whole number of at least 1.")
    check_outputs(out, best, save_model, overwrite=overwrite)
    cost_limit = _evaluation_cost_limit(evaluation, data)

    from sb3_prefine.cli.evaluated_training import hold_out, train_and_evaluate, train_only
    from sb3_prefine.cli.inputs import open_policy, read_preferences
    from sb3_prefine.evaluation.tables import data_table, print_table, results_table
    from sb3_prefine.prefine import PREFINE

    reference = open_policy(policy, checkpoint)
    preferences = read_preferences(data, selection)
    training_set, stopping = hold_out(preferences, early_stopping, seed)
    try:
        model = PREFINE(
            reference,
            training_set,
            **vars(hyperparameters),
            seed=seed,
            device=device,
            tensorboard_log=None if tensorboard is None else str(tensorboard),
        )
    except TypeError as error:
        # PREFINE's error for a policy without a likelihood. For the command line, it is an argument with a wrong value.
        raise ValueError(f"{error}") from error

    datasets = [("dispreferred data", preferences.dispreferred), ("preferred data", preferences.preferred)]
    if cost_limit is None:
        seconds = train_only(model, steps, stopping)
        table = data_table(datasets, data.cost_limit)
    else:
        seconds, evaluations = train_and_evaluate(model, steps, stopping, evaluation, cost_limit, best)
        table = results_table(evaluations, cost_limit, datasets)
    exported = model.export(out)
    if save_model is not None:
        model.save(save_model)

    print_table(table)
    print(f"{model.num_timesteps:,} gradient steps in {seconds:.1f} s.")
    print(f"Wrote {exported}: a plain Stable-Baselines3 zip" + (f" ({reference.algo})." if reference.algo else "."))
    if best is not None and best.exists():
        print(f"Wrote {best}: the best safe policy found during training.")
    elif best is not None:
        print("No policy found during training was safe.")
    if save_model is not None:
        print(f"Wrote {save_model}: PREFINE.load can continue training from it.")


def _evaluation_cost_limit(evaluation: EvaluationOptions, data: DataOptions) -> float | None:
    """The cost limit of the evaluations, or None without an environment."""
    if evaluation.eval_env is None:
        return None
    cost_limit = data.cost_limit if evaluation.eval_cost_limit is None else evaluation.eval_cost_limit
    if cost_limit is None:
        raise ValueError("--eval-cost-limit: --eval-env needs it. Give the highest cost of a safe episode.")
    return cost_limit
