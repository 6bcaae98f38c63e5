"""
Measure the cost gap between the data and the policy's own actions while PREFINE trains (Fig. 2 of the paper).

    python -m benchmarks cost-gap                   # HalfCheetahVelocity and Walker2dVelocity, three seeds

The reference, the two sets and the training are those of Table 1. During training, for each state of both sets, an
action is sampled from the policy, the simulator is set to the state, and the action is executed for one step. A speed
above the limit is a violation. The gap is the absolute difference between the violations of the recorded episode and of
the sampled actions, averaged over the episodes of a set.

The records are benchmarks/results/TIER/cost_gap/TASK.json; tasks whose record exists are skipped. The figure,
benchmarks/images/cost_gap.png, is drawn from the records each time.
"""

from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import tyro

from benchmarks import paper, records
from benchmarks.analyses.cost_gap_picture import draw
from benchmarks.paths import CACHE, DATA, IMAGES, RESULTS
from benchmarks.runs.cells import REF_QUANTILE, Cell, Folders, prepare, train_reference
from benchmarks.runs.methods import POLICY, Budget, Method
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import TIERS, TierName
from sb3_prefine import Trajectories, dsrl
from sb3_prefine.callbacks import CostGapCallback
from sb3_prefine.evaluation.cost_gap import CostFunction, CostGap
from sb3_prefine.evaluation.one_step_cost import one_step_costs
from sb3_prefine.utils.files import write_atomically

# The tasks of Fig. 2.
TASKS = ("HalfCheetahVelocity", "Walker2dVelocity")
PREFINE = Method.parse("PREFINE")


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = TASKS,
    *,
    tier: TierName = "small",
    measurements: int = 10,
    data: Path = DATA,
    results: Path = RESULTS,
    cache: Path = CACHE,
    picture: Path = IMAGES / "cost_gap.png",
) -> None:
    """
    Measure some tasks, and draw the figure.

    :param tasks: Velocity tasks such as HopperVelocity.
    :param tier: Tier whose gradient steps and seeds are used.
    :param measurements: Number of measurements during training, besides the one before the first step.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for TIER/cost_gap/TASK.json.
    :param cache: Folder for the references.
    :param picture: Path of the figure, which shows the tasks of Fig. 2.
    """
    torch.set_num_threads(1)
    folders, folder = Folders(data, cache), results / tier / "cost_gap"
    for task in paper.find_tasks(tasks):
        path = folder / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} exists already. Remove it to compute it again.")
            continue
        records.save(path, run(task, folders, TIERS[tier].budget, TIERS[tier].seeds, measurements))
        print(f"Wrote {path}.")
    measured = {name: records.load(folder / f"{name}.json") for name in TASKS if (folder / f"{name}.json").exists()}
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, draw(measured))
    print(f"Wrote {picture}.")


def run(task: dsrl.Task, folders: Folders, budget: Budget, seeds: tuple[int, ...], measurements: int) -> dict[str, Any]:
    """
    Measure one task with all seeds.

    :param task: A task whose simulator states can be restored from its observations.
    :param folders: Folders of the data and the references.
    :param budget: Gradient steps of the reference and of PREFINE.
    :param seeds: Seeds of the choice of episodes and of the training.
    :param measurements: Number of measurements during training.
    :return: The record: for each run and set the mean gap and the mean costs of the sampled actions and of the data;
        how well the simulator repeats the recorded costs; the cost of random actions; and the settings.
    :raises FileNotFoundError: If the data do not exist.
    :raises ValueError: If the data are another task's, the observations do not determine the simulator's state, or
        ``measurements`` is below 3 or does not divide the steps.
    """
    eval_freq, rest = divmod(budget.steps, measurements)
    if measurements < 3 or eval_freq == 0 or rest:
        raise ValueError(
            f"measurements: found {measurements} for {budget.steps} steps. Give 3 or more that divide the steps."
        )
    train_reference(task.name, budget, folders)
    costs = one_step_costs(gymnasium.make(paper.env_id(task), disable_env_checker=True))
    started = records.cpu_seconds()
    cells = [Cell(task.name, PREFINE, Selection(draw=seed), seed, budget) for seed in seeds]
    runs = [_run(cell, folders, costs, eval_freq) for cell in cells]
    return {
        "timesteps": list(range(0, budget.steps + 1, eval_freq)),
        "runs": runs,
        "cpu_seconds": round(records.cpu_seconds() - started, 1),
        "policy": POLICY,
        "ref_quantile": REF_QUANTILE,
        "ref_steps": budget.ref_steps,
        "steps": budget.steps,
        "settings": paper.settings(task),
        "data_sha256": records.checksum(folders.data / f"{task.name}.hdf5"),
        "versions": records.versions(task),
        "date": records.today(),
    }


def _run(cell: Cell, folders: Folders, costs: CostFunction, eval_freq: int) -> dict[str, Any]:
    setting = prepare(cell, folders)
    callback = CostGapCallback(costs, eval_freq=eval_freq, seed=cell.seed, verbose=1)
    cell.method.make(setting).learn(cell.budget.steps, callback, log_interval=None)
    return {
        "seed": cell.seed,
        **{
            name: {
                **_summarize([getattr(gaps, name) for gaps in callback.history]),
                **baseline_gaps(getattr(setting.preferences, name), costs, cell.seed),
            }
            for name in ("preferred", "dispreferred")
        },
    }


def _summarize(gaps: list[CostGap]) -> dict[str, Any]:
    return {
        "episodes": len(gaps[0].recorded),
        "recorded": round(float(gaps[0].recorded.mean()), 3),
        "sampled": [round(float(gap.sampled.mean()), 3) for gap in gaps],
        "gap": [round(gap.mean, 3) for gap in gaps],
    }


def baseline_gaps(episodes: Trajectories, costs: CostFunction, seed: int) -> dict[str, Any]:
    """
    Measure the gaps between which a policy's gap lies.

    The lower one is the gap of the recorded actions, which is the simulator's error; the upper one is the gap of
    uniformly random actions.

    :param episodes: The episodes of a set.
    :param costs: Function that computes the cost of actions in states.
    :param seed: Seed of the random actions.
    :return: Both gaps; the share of steps whose recorded cost is repeated; and the mean cost of the random actions.
    """
    rng = np.random.default_rng(seed)
    repeated_costs = costs(episodes.observations, episodes.actions)
    # The actions of all twelve tasks are in [-1, 1].
    random_costs = costs(episodes.observations, rng.uniform(-1.0, 1.0, episodes.actions.shape).astype(np.float32))
    repeated, uniform = (
        CostGap(episodes.episode_costs, np.add.reduceat(step_costs, episodes.episode_starts))
        for step_costs in (repeated_costs, random_costs)
    )
    return {
        "repeated": {
            "same": round(float((repeated_costs == episodes.costs).mean()), 5),
            "gap": round(repeated.mean, 3),
        },
        "uniform": {"sampled": round(float(uniform.sampled.mean()), 3), "gap": round(uniform.mean, 3)},
    }
