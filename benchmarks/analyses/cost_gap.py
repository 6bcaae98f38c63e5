"""
How the cost gap between the data and the policy's own actions changes as PREFINE trains (Fig. 2 of the paper).

    python -m benchmarks cost-gap                   # HalfCheetahVelocity and Walker2dVelocity, three seeds

The reference and the two sets are those of Table 1 (run.py), and PREFINE trains as there. On the way, at each state of
each episode of both sets an action is sampled from the policy, the state is restored in the simulator, and the action
is followed for one step: above the speed limit it is a violation. The gap is the absolute difference between the
violations of the recorded episode and those of the sampled actions, a mean over the episodes of a set.

What came out is in benchmarks/results/TIER/cost_gap/, one file a task; a task whose file is there is not done again.
The picture, benchmarks/images/cost_gap.png, is drawn from the files each time.
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

# Fig. 2 has no others.
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
    :param tasks: velocity tasks such as HopperVelocity
    :param tier: whose gradient steps and seeds
    :param measurements: how often the gap is measured on the way, after the one before the first step
    :param data: the folder with TASK.hdf5, see generate.py
    :param results: the folder for TIER/cost_gap/TASK.json
    :param cache: the folder for the references
    :param picture: of the tasks of Fig. 2
    """
    torch.set_num_threads(1)
    folders, folder = Folders(data, cache), results / tier / "cost_gap"
    for task in paper.find_tasks(tasks):
        path = folder / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} is there already; remove it to do it again.")
            continue
        records.save(path, run(task, folders, TIERS[tier].budget, TIERS[tier].seeds, measurements))
        print(f"Wrote {path}.")
    measured = {name: records.load(folder / f"{name}.json") for name in TASKS if (folder / f"{name}.json").exists()}
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, draw(measured))
    print(f"Wrote {picture}.")


def run(task: dsrl.Task, folders: Folders, budget: Budget, seeds: tuple[int, ...], measurements: int) -> dict[str, Any]:
    """
    One task, from its data to the gaps of all seeds.

    :param task: one whose states can be restored from its observations
    :param folders: where the data are, and where the reference is or goes
    :param budget: gradient steps of both
    :param seeds: of the choice of episodes and of training
    :param measurements: how often the gap is measured
    :return: of each run and set the mean gap, the mean cost of the sampled actions and that of the data; how well
        the simulator repeats the recorded costs; what random actions would cost; and of what it was made
    :raises FileNotFoundError: the data are not there
    :raises ValueError: the data are another task's, the simulator's state is not in the observations, or a third of the
        steps would not be measured
    """
    eval_freq, rest = divmod(budget.steps, measurements)
    if measurements < 3 or eval_freq == 0 or rest:
        raise ValueError(f"measurements: {measurements} of {budget.steps} steps. Give 3 or more that divide the steps.")
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
    watch = CostGapCallback(costs, eval_freq=eval_freq, seed=cell.seed, verbose=1)
    cell.method.make(setting).learn(cell.budget.steps, watch, log_interval=None)
    return {
        "seed": cell.seed,
        **{
            name: {
                **_of_set([getattr(gaps, name) for gaps in watch.history]),
                **scale(getattr(setting.preferences, name), costs, cell.seed),
            }
            for name in ("preferred", "dispreferred")
        },
    }


def _of_set(gaps: list[CostGap]) -> dict[str, Any]:
    return {
        "episodes": len(gaps[0].recorded),
        "recorded": round(float(gaps[0].recorded.mean()), 3),
        "sampled": [round(float(gap.sampled.mean()), 3) for gap in gaps],
        "gap": [round(gap.mean, 3) for gap in gaps],
    }


def scale(episodes: Trajectories, costs: CostFunction, seed: int) -> dict[str, Any]:
    """
    Between which gaps a policy's can lie: that of the recorded actions, which is the simulator's error, and that of
    actions drawn uniformly, of a policy that knows nothing.

    :return: of the recorded actions also the share of steps whose cost is repeated
    """
    rng = np.random.default_rng(seed)
    again = costs(episodes.observations, episodes.actions)
    # The actions of all twelve tasks are in [-1, 1].
    blind = costs(episodes.observations, rng.uniform(-1.0, 1.0, episodes.actions.shape).astype(np.float32))
    repeated, uniform = (
        CostGap(episodes.episode_costs, np.add.reduceat(of, episodes.episode_starts)) for of in (again, blind)
    )
    return {
        "repeated": {"same": round(float((again == episodes.costs).mean()), 5), "gap": round(repeated.mean, 3)},
        "uniform": {"sampled": round(float(uniform.sampled.mean()), 3), "gap": round(uniform.mean, 3)},
    }
