"""
Choose β and λ on held-out preferences with Optuna, without stepping an environment.

    python -m benchmarks tune BallCircle --trials 20

A fifth of the episodes of both sets is held out. Each trial trains PREFINE with other weights on the rest. Its value is
Eq. 9 on the held-out episodes with the paper's weights, so that trials are comparable. The study is saved in
benchmarks/cache/tuning.db, so a study that was stopped continues. The chosen weights, with three digits, are written to
benchmarks/results/tuning/TASK.json, and the printed command trains with them as in Table 1.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import torch
import tyro

from benchmarks import paper, records
from benchmarks.paths import CACHE, DATA, RESULTS
from benchmarks.runs.cells import Folders, open_reference, train_reference
from benchmarks.runs.methods import Method
from benchmarks.runs.studies import TIERS, TierName
from sb3_prefine import PREFINE, PreferenceBuffer, Reference, dsrl

HELD_OUT = 0.2


@dataclass(frozen=True)
class Options:
    """
    Options of the study.

    :param trials: Total number of trials over all calls.
    :param steps: Gradient steps of each trial.
    :param seed: Seed of the two sets, of the held-out episodes, of the training and of the sampler.
    """

    trials: int = 20
    steps: int = 2_000
    seed: int = 0


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),
    tier: TierName = "small",
    data: Path = DATA,
    results: Path = RESULTS / "tuning",
    cache: Path = CACHE,
) -> None:
    """
    Tune the weights of some tasks.

    :param tasks: Names such as BallCircle.
    :param options: Options of the study.
    :param tier: Tier whose references are fine-tuned.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for TASK.json.
    :param cache: Folder for the references and the study.
    """
    torch.set_num_threads(1)
    folders = Folders(data, cache)
    for task in paper.find_tasks(tasks):
        train_reference(task.name, TIERS[tier].budget, folders)
        reference = open_reference(task.name, TIERS[tier].budget, folders)
        preferences = paper.choose_sets(task, dsrl.load(task, data / f"{task.name}.hdf5"), options.seed)
        study = tune(task, reference, preferences, options, f"sqlite:///{cache / 'tuning.db'}")
        found = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        chosen = {name: float(f"{study.best_params[name]:.3g}") for name in ("beta", "sft_coef")}
        method = str(Method("PREFINE", tuple(chosen.items())))
        record = {
            "method": method,
            "held_out_loss": study.best_value,
            "paper": {name: paper.settings(task)[name] for name in ("beta", "sft_coef")},
            "trials": [{**trial.params, "held_out_loss": trial.value} for trial in found],
            "options": asdict(options),
            "versions": {**records.versions(task), "optuna": optuna.__version__},
            "date": records.today(),
        }
        records.save(results / f"{task.name}.json", record)
        print(f"{task.name}: held-out loss {study.best_value:.4f}. To train with it:")
        print(f"python -m benchmarks run --tier {tier} --tasks {task.name} --methods {method}")


def tune(
    task: dsrl.Task, reference: Reference, preferences: PreferenceBuffer, options: Options, storage: str | None = None
) -> optuna.Study:
    """
    Run the trials of one study.

    :param task: One of the twelve tasks.
    :param reference: The reference policy π_ref.
    :param preferences: The two sets, of which a part is held out.
    :param options: Options of the study.
    :param storage: URL of Optuna's storage. If None, the study is kept in memory.
    :return: The study with all its trials.
    """
    settings = paper.settings(task)
    train, held_out = preferences.split(HELD_OUT, options.seed)

    def objective(trial: optuna.Trial) -> float:
        weights: dict[str, Any] = {
            "beta": trial.suggest_float("beta", 0.01, 2.0, log=True),
            "sft_coef": trial.suggest_float("sft_coef", 0.05, 4.0, log=True),
        }
        model = PREFINE(reference, train, seed=options.seed, device="cpu", **weights)
        model.learn(options.steps, log_interval=None)
        model.beta, model.sft_coef = settings["beta"], settings["sft_coef"]
        return model.score(held_out)["train/loss"]

    study = optuna.create_study(
        study_name=f"{task.name}-{options.steps}-{options.seed}",
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=options.seed),
        load_if_exists=True,
    )
    # The first trial has the paper's weights.
    study.enqueue_trial({name: settings[name] for name in ("beta", "sft_coef")}, skip_if_exists=True)
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    study.optimize(objective, n_trials=max(0, options.trials - len(done)), show_progress_bar=True)
    return study
