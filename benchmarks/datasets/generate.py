"""
Generate data in DSRL's layout for the paper's twelve tasks, for users who cannot download DSRL's files.

    python -m benchmarks generate rollout BallCircle   # roll out the committed agents: generated/BallCircle.hdf5
    python -m benchmarks generate train BallCircle     # train other agents

The data differ from DSRL's: other agents, on the installed simulators. data.md describes them. Some agents start as
clones of RL Zoo's; to train those, set RL_TRAINED_AGENTS to the folder of rl-trained-agents.
"""

import bisect
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm.auto import tqdm

from benchmarks import paper, records
from benchmarks.datasets.behaviors import Behavior, Behaviors
from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.lagrangian import recorded_cpu_seconds
from benchmarks.datasets.lagrangian import train as train_behaviors
from benchmarks.datasets.recipes import GOAL_SEEKERS, N_EPISODES, NOISE_FACTORS, RECIPES
from benchmarks.paths import CACHE, DATA, RESULTS
from sb3_prefine import Trajectories, collect, dsrl

WEIGHTS = Path(__file__).parent / "behavior_weights"
# Environments that are stepped together. Not an option, because the agents' noise is drawn for all of them at once.
N_ENVS = 8
# Number of grid cells per axis in which the plane of cost and return is thinned.
GRID_SIZE = 20

Tasks = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK [TASK ...]")]
Agent = Behavior | GoalSeeker


def train(tasks: Tasks, seed: int = 0) -> None:
    """
    Train the agents of some tasks. A run that was killed continues where it stopped.

    :param tasks: Names such as BallCircle.
    :param seed: Seed of the training.
    """
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        folder = CACHE / f"{task.name}-{seed}"
        behaviors = train_behaviors(paper.env_id(task), RECIPES[task.name], folder, seed)
        path = _weights_path(task)
        path.parent.mkdir(exist_ok=True)
        behaviors.save(path)
        record = {
            "sha256": records.checksum(path),
            "bytes": path.stat().st_size,
            "agents": len(behaviors),
            "timesteps": sum(RECIPES[task.name].timesteps),
            "cpu_seconds": recorded_cpu_seconds(folder),
            "seed": seed,
            "versions": records.versions(task),
            "date": records.today(),
        }
        records.save_if_new(RESULTS / "agents" / f"{task.name}.json", record)
        print(f"{path}: {len(behaviors)} agents")


def rollout(
    tasks: Tasks,
    out: Path = DATA,
    results: Path = RESULTS / "data",
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """
    Roll out the agents of some tasks, thin their episodes to DSRL's distribution, and write the files.

    The same versions, seed and kind of processor give the same bytes for any number of workers.

    :param tasks: Names such as BallCircle.
    :param out: Folder for TASK.hdf5.
    :param results: Folder for the record TASK.json. A record of the same file is kept.
    :param episodes: Number of episodes to roll out, of which some are dropped. By default a number that takes minutes,
        see recipes.py.
    :param seed: Seed of the episodes and of the choice of the two sets.
    :param workers: Number of processes.
    """
    for task in paper.find_tasks(tasks):
        n_episodes = N_EPISODES[task.name] if episodes is None else episodes
        started = records.cpu_seconds()
        rolled = roll_out(task, n_episodes, seed, workers)
        kept = thin(rolled, task)
        cpu_seconds = records.cpu_seconds() - started
        path = out / f"{task.name}.hdf5"
        made = _provenance(task, n_episodes, seed)
        versions = records.versions(task)
        kept.to_hdf5(path, {**made, **versions})
        record = {
            "sha256": records.checksum(path),
            "bytes": path.stat().st_size,
            **made,
            "rolled_out": len(rolled),
            "cpu_seconds": round(cpu_seconds, 1),
            **describe_episodes(kept),
            **describe_sets(kept, task, seed),
            "versions": versions,
            "date": records.today(),
        }
        new = records.save_if_new(results / f"{task.name}.json", record)
        print(f"{path}: {len(kept)} of {len(rolled)} episodes, SHA-256 {record['sha256']}")
        print(f"{results / task.name}.json: {'written' if new else 'describes this file already'}")


def agents_of(task: dsrl.Task) -> Sequence[Agent]:
    """
    Get the agents of a task: each trained agent with several noise levels, and the scripted agents of some tasks.

    :param task: One of the twelve tasks.
    :return: The agents.
    :raises FileNotFoundError: If the agents are not trained.
    """
    path = _weights_path(task)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Run `python -m benchmarks generate train {task.name}` first.")
    trained = [agent.with_noise(factor) for agent in Behaviors.load(path) for factor in NOISE_FACTORS[task.name]]
    return [*trained, *GOAL_SEEKERS.get(task.name, ())]


def roll_out(task: dsrl.Task, n_episodes: int, seed: int, workers: int) -> Trajectories:
    """
    Collect the same number of episodes of each agent of a task, agent by agent.

    :param task: One of the twelve tasks.
    :param n_episodes: Total number of episodes.
    :param seed: Seed of the episodes.
    :param workers: Number of processes.
    :return: The episodes.
    :raises FileNotFoundError: If the agents are not trained.
    :raises ValueError: If ``n_episodes`` or ``workers`` is not positive.
    """
    if n_episodes < 1 or workers < 1:
        raise ValueError(f"episodes, workers: found {n_episodes} and {workers}. Give at least one of each.")
    jobs = jobs_of(task, n_episodes, seed)
    # Forked processes would inherit threads and random states, and not every system can fork.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=n_episodes, desc=task.name, unit="episode") as bar,
    ):
        parts = []
        for part in pool.map(RolloutJob.collect, jobs):
            parts.append(part)
            bar.update(len(part))
    return Trajectories.concatenate(parts)


def jobs_of(task: dsrl.Task, n_episodes: int, seed: int) -> list["RolloutJob"]:
    """
    List the rollouts of :func:`roll_out`, one for each agent that has episodes.

    :param task: One of the twelve tasks.
    :param n_episodes: Total number of episodes. If it is not divisible, the first agents have one more each.
    :param seed: Seed from which, with the agent's number alone, the seed of each agent's episodes follows.
    :return: The rollouts.
    :raises FileNotFoundError: If the agents are not trained.
    """
    agents = agents_of(task)
    shares = [n_episodes // len(agents) + (i < n_episodes % len(agents)) for i in range(len(agents))]
    seeds = np.random.SeedSequence(seed).generate_state(len(agents)).tolist()
    return [
        RolloutJob(paper.env_id(task), agent, share, job_seed)
        for agent, share, job_seed in zip(agents, shares, seeds, strict=True)
        if share
    ]


def thin(trajectories: Trajectories, task: dsrl.Task) -> Trajectories:
    """
    Keep episodes up to DSRL's highest cost, spread over the plane of cost and return, and at most as many as DSRL has.

    DSRL's own filter limits the episodes per grid cell; the limit is the highest that gives few enough episodes.

    :param trajectories: All episodes.
    :param task: Task whose highest cost and number of episodes in DSRL are the limits.
    :return: The episodes that are kept.
    :raises ValueError: If every episode costs more than DSRL's highest cost.
    """
    allowed = trajectories.episode_costs <= task.max_episode_cost
    if not allowed.any():
        raise ValueError(
            f"{task.name}: each of the {len(trajectories)} episodes costs more than {task.max_episode_cost:g}, the "
            "highest cost in DSRL's data. Roll out more agents."
        )
    trajectories = trajectories[allowed]

    def with_limit(limit: int) -> Trajectories:
        return dsrl.thin(trajectories, dsrl.Grid(GRID_SIZE, GRID_SIZE, max_npb=limit, min_npb=0))

    # Limits start at 1, so the number of limits that give few enough episodes is also the highest such limit.
    limits = range(1, len(trajectories) + 1)
    n_allowed = bisect.bisect_right(limits, n_dsrl_episodes(task), key=lambda limit: len(with_limit(limit)))
    return with_limit(max(1, n_allowed))


def n_dsrl_episodes(task: dsrl.Task) -> int:
    """Get the number of episodes in DSRL's file, which is part of the file's name."""
    return int(task.file_name.removesuffix(".hdf5").rpartition("-")[2])


def describe_episodes(trajectories: Trajectories) -> dict[str, Any]:
    """Summarise episodes: counts, and each return and cost with means and standard deviations."""
    returns, costs = trajectories.episode_returns, trajectories.episode_costs
    return {
        "episodes": len(trajectories),
        "transitions": trajectories.n_transitions,
        "mean_return": round(float(returns.mean()), 3),
        "std_return": round(float(returns.std()), 3),
        "mean_cost": round(float(costs.mean()), 3),
        "std_cost": round(float(costs.std()), 3),
        "returns": returns.round(2).tolist(),
        "costs": costs.round(2).tolist(),
    }


def describe_sets(trajectories: Trajectories, task: dsrl.Task, seed: int) -> dict[str, Any]:
    """Get the threshold τ and the numbers of the episodes in both sets."""
    chosen = paper.choose_sets(task, trajectories, seed)
    assert chosen.preferred_ids is not None
    assert chosen.dispreferred_ids is not None
    return {
        "cost_limit": paper.settings(task)["cost_limit"],
        "preferred": chosen.preferred_ids.tolist(),
        "dispreferred": chosen.dispreferred_ids.tolist(),
    }


@dataclass(frozen=True)
class RolloutJob:
    """
    A rollout of one agent.

    :param env_id: Id of the environment.
    :param agent: The agent.
    :param n_episodes: Number of episodes.
    :param seed: Seed of the episodes.
    """

    env_id: str
    agent: Agent
    n_episodes: int
    seed: int

    def collect(self) -> Trajectories:
        """Roll out the agent."""
        return collect(self.agent, self.env_id, self.n_episodes, n_envs=N_ENVS, seed=self.seed, progress_bar=False)


def _weights_path(task: dsrl.Task) -> Path:
    return WEIGHTS / f"{task.name}.npz"


def _provenance(task: dsrl.Task, n_episodes: int, seed: int) -> dict[str, str | int]:
    # These values are part of the files, and the records name the files by checksum: do not change their wording.
    scripted = "goal_seeker.py and " if task.name in GOAL_SEEKERS else ""
    return {
        "origin": "generated by benchmarks/generate.py of sb3-prefine; not DSRL's data",
        "command": f"python benchmarks/generate.py rollout {task.name} --episodes {n_episodes} --seed {seed}",
        "env": paper.env_id(task),
        "agents": len(agents_of(task)),
        "agents_from": f"{scripted}SHA-256 {records.checksum(_weights_path(task))}",
        "seed": seed,
    }


COMMANDS = {"train": train, "rollout": rollout}
