"""
Makes a file in DSRL's layout for each of the paper's twelve tasks, from nothing, for whoever cannot download DSRL's.

    python -m benchmarks generate train BallCircle     # the agents; they are committed, so nobody has to
    python -m benchmarks generate rollout BallCircle   # benchmarks/generated/BallCircle.hdf5, from the agents

Some agents begin as clones of RL Zoo's: to train them anew, the environment variable RL_TRAINED_AGENTS names the folder
of rl-trained-agents. What comes out is generated data: other agents than DSRL's, on the simulators that are installed.
data.md shows it.
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
from benchmarks.datasets.lagrangian import cpu_seconds_of
from benchmarks.datasets.lagrangian import train as train_behaviors
from benchmarks.datasets.recipes import EPISODES, NOISE_FACTORS, RECIPES, SEEKERS
from benchmarks.paths import CACHE, DATA, RESULTS
from sb3_prefine import Trajectories, collect, dsrl

WEIGHTS = Path(__file__).parent / "behavior_weights"
# Environments that are stepped together. It is not an option: the agents' noise is drawn for all of them at once.
N_ENVS = 8
# The cost-return plane is thinned in so many cells each way.
N_CELLS = 20

Tasks = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK [TASK ...]")]
Agent = Behavior | GoalSeeker


def train(tasks: Tasks, seed: int = 0) -> None:
    """
    Train the agents of tasks, one after the other. A run that was killed goes on where it stopped.

    :param tasks: names such as BallCircle
    :param seed: of everything
    """
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        folder = CACHE / f"{task.name}-{seed}"
        behaviors = train_behaviors(paper.env_id(task), RECIPES[task.name], folder, seed)
        path = _weights(task)
        path.parent.mkdir(exist_ok=True)
        behaviors.save(path)
        record = {
            "sha256": records.checksum(path),
            "bytes": path.stat().st_size,
            "agents": len(behaviors),
            "timesteps": sum(RECIPES[task.name].timesteps),
            "cpu_seconds": cpu_seconds_of(folder),
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
    Roll the agents of tasks out, thin their episodes to DSRL's shape, and write the file.

    The same versions, seed and kind of processor give the same bytes, whatever the number of workers.

    :param tasks: names such as BallCircle
    :param out: the folder for TASK.hdf5
    :param results: the folder for TASK.json, from which data_page.py makes its page; a record of the same file stays
    :param episodes: to roll out; fewer are kept. Without it as many as take minutes, see recipes.py
    :param seed: of the episodes, and of the choice of the two sets
    :param workers: processes
    """
    for task in paper.find_tasks(tasks):
        n_episodes = EPISODES[task.name] if episodes is None else episodes
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
        print(f"{results / task.name}.json: {'written' if new else 'is of the same file already'}")


def agents_of(task: dsrl.Task) -> Sequence[Agent]:
    """
    The agents of a task: each trained one with several amounts of noise, and the scripted ones that some tasks have.

    :raises FileNotFoundError: they are not trained
    """
    path = _weights(task)
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there. Run `python -m benchmarks generate train {task.name}` first.")
    trained = [agent.with_noise(factor) for agent in Behaviors.load(path) for factor in NOISE_FACTORS[task.name]]
    return [*trained, *SEEKERS.get(task.name, ())]


def roll_out(task: dsrl.Task, n_episodes: int, seed: int, workers: int) -> Trajectories:
    """
    Episodes of all agents of a task, agent by agent, as many of each.

    :param task: one of the twelve
    :param n_episodes: of all together
    :param seed: of all of them
    :param workers: processes
    :raises FileNotFoundError: the agents are not trained
    :raises ValueError: ``n_episodes`` or ``workers`` is not positive
    """
    if n_episodes < 1 or workers < 1:
        raise ValueError(f"episodes={n_episodes}, workers={workers}: give at least one of each.")
    jobs = jobs_of(task, n_episodes, seed)
    # Forked processes would inherit threads and random states, and not every system can fork.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=n_episodes, desc=task.name, unit="episode") as bar,
    ):
        parts = []
        for part in pool.map(Job.collect, jobs):
            parts.append(part)
            bar.update(len(part))
    return Trajectories.concatenate(parts)


def jobs_of(task: dsrl.Task, n_episodes: int, seed: int) -> list["Job"]:
    """
    What :func:`roll_out` does, agent by agent; an agent without episodes is left out.

    :param task: one of the twelve
    :param n_episodes: of all together; the first agents have one more each where it is not divisible
    :param seed: every agent's episodes have a seed that depends on it and the agent's number alone
    :raises FileNotFoundError: the agents are not trained
    """
    agents = agents_of(task)
    shares = [n_episodes // len(agents) + (i < n_episodes % len(agents)) for i in range(len(agents))]
    seeds = np.random.SeedSequence(seed).generate_state(len(agents)).tolist()
    return [
        Job(paper.env_id(task), agent, share, job_seed)
        for agent, share, job_seed in zip(agents, shares, seeds, strict=True)
        if share
    ]


def thin(trajectories: Trajectories, task: dsrl.Task) -> Trajectories:
    """
    Episodes up to DSRL's highest cost, spread over the cost-return plane, no more than DSRL has.

    DSRL's own filter does it, with the cells as full as they may be.

    :param trajectories: all that were rolled out
    :param task: whose highest cost and number of episodes to take
    :raises ValueError: every episode costs more than that
    """
    allowed = trajectories.episode_costs <= task.max_episode_cost
    if not allowed.any():
        raise ValueError(
            f"{task.name}: each of the {len(trajectories)} episodes costs more than {task.max_episode_cost:g}, the "
            "highest cost in DSRL's data. Roll more agents out."
        )
    trajectories = trajectories[allowed]

    def filled(most: int) -> Trajectories:
        return dsrl.thin(trajectories, dsrl.Grid(N_CELLS, N_CELLS, max_npb=most, min_npb=0))

    # How many values of `most`, from 1 on, leave no more episodes than DSRL has is the highest of them.
    values = range(1, len(trajectories) + 1)
    return filled(max(1, bisect.bisect_right(values, n_dsrl_episodes(task), key=lambda most: len(filled(most)))))


def n_dsrl_episodes(task: dsrl.Task) -> int:
    """The number of episodes in DSRL's file, which is a part of its name."""
    return int(task.file_name.removesuffix(".hdf5").rpartition("-")[2])


def describe_episodes(trajectories: Trajectories) -> dict[str, Any]:
    """Counts, and each episode's return and cost with their means and standard deviations."""
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
    """The threshold τ, and the numbers of the episodes of both sets."""
    chosen = paper.choose(task, trajectories, seed)
    assert chosen.preferred_ids is not None
    assert chosen.dispreferred_ids is not None
    return {
        "cost_limit": paper.settings(task)["cost_limit"],
        "preferred": chosen.preferred_ids.tolist(),
        "dispreferred": chosen.dispreferred_ids.tolist(),
    }


@dataclass(frozen=True)
class Job:
    """
    The episodes of one agent.

    :param env_id: of the environment
    :param agent: whose
    :param n_episodes: how many
    :param seed: of them
    """

    env_id: str
    agent: Agent
    n_episodes: int
    seed: int

    def collect(self) -> Trajectories:
        """Roll them out."""
        return collect(self.agent, self.env_id, self.n_episodes, n_envs=N_ENVS, seed=self.seed, progress_bar=False)


def _weights(task: dsrl.Task) -> Path:
    return WEIGHTS / f"{task.name}.npz"


def _provenance(task: dsrl.Task, n_episodes: int, seed: int) -> dict[str, str | int]:
    # Part of the files, whose checksums the records name: the wording stays as it was when they were made.
    scripted = "goal_seeker.py and " if task.name in SEEKERS else ""
    return {
        "origin": "generated by benchmarks/generate.py of sb3-prefine; not DSRL's data",
        "command": f"python benchmarks/generate.py rollout {task.name} --episodes {n_episodes} --seed {seed}",
        "env": paper.env_id(task),
        "agents": len(agents_of(task)),
        "agents_from": f"{scripted}SHA-256 {records.checksum(_weights(task))}",
        "seed": seed,
    }


COMMANDS = {"train": train, "rollout": rollout}
