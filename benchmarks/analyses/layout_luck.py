"""
Why clones of safe episodes are not safe where each episode has a layout of its own (CarGoal1, PointGoal1).

    python -m benchmarks layout-luck

It asks two questions of the generated data. **Luck:** a careless agent's episode is safe, too, where the layout is
kind. So what do the other episodes of the agents cost whose episodes are preferred? The data do not say which agent an
episode is of; its first observation does, for it shows the layout, and the seeds that each agent was rolled out with
are known. **Cloning:** to walk around hazards is a rule of many lidar rays, which a network has to learn from actions
alone. So what does a clone of one careful agent cost, of its own episodes and nothing else, where no luck is in play?

What came out is in benchmarks/results/luck/, one file a task; a task whose file is there is not done again.
tables_page.py reads it.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import tyro
from tqdm.auto import tqdm

from benchmarks import paper, records
from benchmarks.datasets.generate import N_ENVS, jobs_of
from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.recipes import EPISODES
from benchmarks.paths import DATA, RESULTS
from benchmarks.runs import scores
from benchmarks.runs.cells import EVALUATION_SEED
from benchmarks.runs.methods import POLICY
from sb3_prefine import Evaluation, Trajectories, collect, dsrl, evaluate_policy
from sb3_prefine.baselines import BC
from sb3_prefine.rollout.predictor import PolicyLike

TASKS = ("PointGoal1", "CarGoal1")
# Slow, with a wide berth, and next to no noise: the most careful of recipes.py.
CAREFUL = {"speed": 1.0, "margin": 0.2, "caution": 6.0, "noise": 0.05}


@dataclass(frozen=True)
class Options:
    """
    The same for every task.

    :param episodes: of the careful agent, to clone
    :param steps: gradient steps of the clone
    :param evaluation_episodes: of the agent and of its clone, on the same layouts
    :param seed: of everything
    """

    episodes: int = 100
    steps: int = 5_000
    evaluation_episodes: int = 20
    seed: int = 0


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = TASKS,
    *,
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),
    data: Path = DATA,
    results: Path = RESULTS / "luck",
) -> None:
    """
    :param tasks: Goal tasks
    :param options: the same for every task
    :param data: the folder with TASK.hdf5, of generate.py
    :param results: the folder for TASK.json
    :raises ValueError: a task whose layouts are the same in all episodes
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"tasks: found {name}. Only {' and '.join(TASKS)} have layouts; name those.")
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} is there already; remove it to do it again.")
            continue
        trajectories = dsrl.load(task.name, data / f"{task.name}.hdf5")
        record = {
            **luck(task, trajectories, EPISODES[task.name], options.seed),
            **cloning(task, options),
            "options": asdict(options),
            "data_sha256": records.checksum(data / f"{task.name}.hdf5"),
            "versions": records.versions(task),
            "date": records.today(),
        }
        records.save(path, record)
        print(f"Wrote {path}.")


def luck(task: dsrl.Task, trajectories: Trajectories, n_episodes: int, seed: int) -> dict[str, Any]:
    """
    :param task: a Goal task
    :param trajectories: its data
    :param n_episodes: that were rolled out for them
    :param seed: of the choice of the two sets
    :return: the mean cost of D_p, and that of the other episodes of their agents, with its interval
    :raises ValueError: an episode is not of these agents
    """
    preferred = paper.choose(task, trajectories, seed).preferred_ids
    assert preferred is not None
    others = costs_of_others(trajectories.episode_costs, authors(task, trajectories, n_episodes), preferred)
    score = scores.summarize([others])
    return {
        "preferred_cost": float(trajectories.episode_costs[preferred].mean()),
        "others_cost": {"mean": score.mean, "low": score.low, "high": score.high},
        "with_others": len(others),
    }


def authors(task: dsrl.Task, trajectories: Trajectories, n_episodes: int) -> np.ndarray:
    """
    Which agent each episode is of.

    :param task: a Goal task
    :param trajectories: its data, made by ``generate.py rollout`` with seed 0
    :param n_episodes: that were rolled out for them
    :return: the agents' numbers, (len(trajectories),)
    :raises ValueError: an episode is not of these agents
    """
    agent_of: dict[bytes, int] = {}
    for number, job in enumerate(tqdm(jobs_of(task, n_episodes, seed=0), desc=f"{task.name}: layouts", unit="agent")):
        layouts = collect(
            job.agent, partial(_one_step, job.env_id), job.n_episodes, n_envs=N_ENVS, seed=job.seed, progress_bar=False
        )
        agent_of |= dict.fromkeys(_first_observations(layouts), number)
    found = [agent_of.get(layout) for layout in _first_observations(trajectories)]
    if None in found:
        raise ValueError(
            f"{task.name}: {found.count(None)} of {len(found)} episodes are of none of the agents. Make the data with "
            f"`python -m benchmarks generate rollout {task.name}`."
        )
    return np.array(found)


def costs_of_others(costs: np.ndarray, authors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """
    For each of the chosen episodes: the mean cost of the others of its agent. Those that are alone are left out.

    :param costs: of all episodes
    :param authors: the agent of each
    :param chosen: numbers of episodes
    """
    same = (authors[chosen][:, None] == authors) & (chosen[:, None] != np.arange(len(costs)))
    return np.array([costs[others].mean() for others in same if others.any()])


def cloning(task: dsrl.Task, options: Options) -> dict[str, Any]:
    """
    :return: the episode costs and returns of a careful agent, and of its clone by the mode and by samples
    """
    env_id = paper.env_id(task)
    agent = GoalSeeker(task.name.removesuffix("Goal1"), **CAREFUL)
    own = collect(agent, env_id, options.episodes, n_envs=N_ENVS, seed=options.seed)
    clone = BC(POLICY, own, env=env_id, seed=options.seed, device="cpu").learn(options.steps, progress_bar=True)

    seed = EVALUATION_SEED + options.seed

    def run(policy: PolicyLike, deterministic: bool) -> dict[str, list[float]]:
        n_episodes = options.evaluation_episodes
        return _episodes(evaluate_policy(policy, env_id, n_episodes, deterministic=deterministic, seed=seed))

    return {
        "agent": asdict(agent),
        "of_agent": run(agent, deterministic=False),
        "of_clone": run(clone, deterministic=True),
        "of_clone_by_samples": run(clone, deterministic=False),
    }


def _episodes(evaluation: Evaluation) -> dict[str, list[float]]:
    return {"rewards": evaluation.episode_rewards.round(3).tolist(), "costs": evaluation.episode_costs.tolist()}


def _one_step(env_id: str) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(gymnasium.make(env_id), 1)


def _first_observations(trajectories: Trajectories) -> list[bytes]:
    """Of each episode, as something that can be looked up."""
    assert isinstance(trajectories.observations, np.ndarray)  # a Dict observation space has more than one
    return [row.tobytes() for row in trajectories.observations[trajectories.episode_starts].astype(np.float32)]
