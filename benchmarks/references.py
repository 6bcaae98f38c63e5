"""
The paper's reference policies, and PREFINE from the paper's selection: one threshold, one seed, every task.

    python benchmarks/references.py BallCircle         # all twelve without names

Of each task's data: π_ref is cloned from the episodes of highest return, whatever they cost (section 5.1); the two sets
are chosen by cost; PREFINE fine-tunes π_ref. What came out is in benchmarks/results/references/, one file a task. A
task whose file is there is not done again. `python benchmarks/data_page.py` makes the tables from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import paper
import records
import torch
import tyro

from sb3_prefine import PREFINE, Evaluation, Trajectories, dsrl, evaluate_policy
from sb3_prefine.baselines import BC

HERE = Path(__file__).parent
# Where neither the paper nor DSRL says it: as many episodes as make π_ref's cost high, as in Table 1.
REF_QUANTILE = 0.2
# Added to the seed of the data and the training: evaluated are other episodes.
EVALUATION_SEED = 10_000


@dataclass(frozen=True)
class Options:
    """
    The same for every task.

    :param policy: of the reference; the paper's is CVAEPolicy
    :param ref_steps: gradient steps of behaviour cloning
    :param steps: gradient steps of PREFINE
    :param episodes: of each evaluation
    :param seed: of everything
    """

    policy: Literal["GaussianPolicy", "SquashedPolicy", "CVAEPolicy"] = "GaussianPolicy"
    ref_steps: int = 20_000
    steps: int = 20_000
    episodes: int = 20
    seed: int = 0


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = dsrl.PAPER_TASKS,
    *,
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),
    data: Path = HERE / "generated",
    results: Path = HERE / "results" / "references",
) -> None:
    """
    :param tasks: names such as BallCircle
    :param options: the same for every task
    :param data: the folder with TASK.hdf5, see generate.py
    :param results: the folder for TASK.json
    """
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} is there already; remove it to do it again.")
            continue
        result = run(task, data / f"{task.name}.hdf5", options)
        records.save(path, result)
        means = (f"{name} {_means(result[name])}" for name in ("reference", "preferred", "prefine"))
        print(f"{task.name}: {', '.join(means)} (return / cost)")


def run(task: dsrl.Task, path: Path, options: Options) -> dict[str, Any]:
    """
    One task, from its data to the fine-tuned policy.

    :param task: one of the twelve
    :param path: of its data
    :param options: how
    :return: returns and costs of the episodes of the reference, of both sets and of PREFINE; what it took, and of what
        it was made
    :raises FileNotFoundError: the data are not there
    :raises ValueError: the data are another task's, or no episode is safe or unsafe
    """
    env_id, settings, seed = paper.env_id(task), paper.settings(task), options.seed
    trajectories = dsrl.load(task, path)
    preferences = paper.choose(task, trajectories, seed)
    cpu_seconds: dict[str, float] = {}
    with _timed(cpu_seconds, "reference"):
        reference = BC(options.policy, trajectories, env=env_id, ref_quantile=REF_QUANTILE, seed=seed, device="cpu")
        reference.learn(options.ref_steps, progress_bar=True)
    with _timed(cpu_seconds, "prefine"):
        model = PREFINE(
            reference,
            preferences,
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            beta=settings["beta"],
            sft_coef=settings["sft_coef"],
            seed=seed,
            device="cpu",
        )
        model.learn(options.steps, progress_bar=True)
    with _timed(cpu_seconds, "evaluation"):
        before, after = (
            evaluate_policy(policy, env_id, n_episodes=options.episodes, seed=EVALUATION_SEED + seed)
            for policy in (reference, model)
        )
    return {
        "reference": _of_policy(before),
        "preferred": _of_data(preferences.preferred),
        "dispreferred": _of_data(preferences.dispreferred),
        "prefine": _of_policy(after),
        "cpu_seconds": cpu_seconds,
        "policy": options.policy,
        "ref_quantile": REF_QUANTILE,
        "ref_steps": options.ref_steps,
        "steps": options.steps,
        "seed": seed,
        "settings": settings,
        "data": {"episodes": len(trajectories), "sha256": records.checksum(path)},
        "versions": records.versions(task),
        "date": records.today(),
    }


@contextmanager
def _timed(cpu_seconds: dict[str, float], name: str) -> Iterator[None]:
    started = records.cpu_seconds()
    yield
    cpu_seconds[name] = round(records.cpu_seconds() - started, 1)


def _of_policy(evaluation: Evaluation) -> dict[str, list[float]]:
    """Return, cost and length of each episode."""
    return {
        "rewards": evaluation.episode_rewards.round(3).tolist(),
        "costs": evaluation.episode_costs.tolist(),
        "lengths": evaluation.episode_lengths.tolist(),
    }


def _of_data(trajectories: Trajectories) -> dict[str, list[float]]:
    """The same of a set."""
    return _of_policy(
        Evaluation(trajectories.episode_returns, trajectories.episode_costs, trajectories.episode_lengths)
    )


def _means(episodes: dict[str, list[float]]) -> str:
    return " / ".join(f"{sum(episodes[what]) / len(episodes[what]):,.1f}" for what in ("rewards", "costs"))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
