"""
Explain why clones of safe episodes are not safe if each episode has its own layout (CarGoal1, PointGoal1).

    python -m benchmarks layout-luck

The analysis asks two questions about the generated data. **Luck:** a careless agent's episode is also safe if its
layout is easy. What do the other episodes cost of the agents whose episodes are preferred? The data do not name the
agent of an episode, but its first observation shows the layout, and the seeds with which each agent was rolled out are
known. **Cloning:** avoiding hazards is a rule over many lidar rays, which a network has to learn from actions alone.
What does a clone cost that is trained on episodes of one careful agent only, so that luck plays no role?

The records are benchmarks/results/luck/TASK.json; tasks whose record exists are skipped. `report` shows them.
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
from benchmarks.datasets.recipes import N_EPISODES
from benchmarks.paths import DATA, RESULTS
from benchmarks.runs import scores
from benchmarks.runs.cells import EVALUATION_SEED
from benchmarks.runs.methods import POLICY
from sb3_prefine import Evaluation, Trajectories, collect, dsrl, evaluate_policy
from sb3_prefine.baselines import BC
from sb3_prefine.rollout.predictor import PolicyLike

TASKS = ("PointGoal1", "CarGoal1")
# The most careful agent of recipes.py: slow, with a wide margin and hardly any noise.
CAREFUL_AGENT = {"speed": 1.0, "margin": 0.2, "caution": 6.0, "noise": 0.05}


@dataclass(frozen=True)
class Options:
    """
    Options for all tasks.

    :param episodes: Episodes of the careful agent that are cloned.
    :param steps: Gradient steps of the clone.
    :param evaluation_episodes: Evaluation episodes of the agent and of its clone, with the same layouts.
    :param seed: Seed of the sets, the episodes and the training.
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
    Analyse some tasks.

    :param tasks: Goal tasks.
    :param options: Options for all tasks.
    :param data: Folder with the generated TASK.hdf5.
    :param results: Folder for TASK.json.
    :raises ValueError: If a task has the same layout in all episodes.
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"tasks: found {name}. Choose from {' and '.join(TASKS)}, which have layouts.")
    torch.set_num_threads(1)
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} exists already. Remove it to compute it again.")
            continue
        trajectories = dsrl.load(task.name, data / f"{task.name}.hdf5")
        record = {
            **measure_layout_luck(task, trajectories, N_EPISODES[task.name], options.seed),
            **measure_cloning(task, options),
            "options": asdict(options),
            "data_sha256": records.checksum(data / f"{task.name}.hdf5"),
            "versions": records.versions(task),
            "date": records.today(),
        }
        records.save(path, record)
        print(f"Wrote {path}.")


def measure_layout_luck(task: dsrl.Task, trajectories: Trajectories, n_episodes: int, seed: int) -> dict[str, Any]:
    """
    Compare the preferred episodes with the other episodes of their agents.

    :param task: A Goal task.
    :param trajectories: Its data.
    :param n_episodes: Number of episodes that were rolled out for the data.
    :param seed: Seed of the choice of the two sets.
    :return: The mean cost of D_p, and the mean cost of the other episodes of its agents with its interval.
    :raises ValueError: If an episode belongs to none of the agents.
    """
    preferred = paper.choose_sets(task, trajectories, seed).preferred_ids
    assert preferred is not None
    others = mean_costs_of_other_episodes(
        trajectories.episode_costs, find_agents(task, trajectories, n_episodes), preferred
    )
    score = scores.summarize([others])
    return {
        "preferred_cost": float(trajectories.episode_costs[preferred].mean()),
        "others_cost": {"mean": score.mean, "low": score.low, "high": score.high},
        "with_others": len(others),
    }


def find_agents(task: dsrl.Task, trajectories: Trajectories, n_episodes: int) -> np.ndarray:
    """
    Find the agent of each episode by its layout.

    :param task: A Goal task.
    :param trajectories: Its data, made by ``generate rollout`` with seed 0.
    :param n_episodes: Number of episodes that were rolled out for the data.
    :return: (n_episodes,) numbers of the agents.
    :raises ValueError: If an episode belongs to none of the agents.
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
            f"{task.name}: {found.count(None)} of {len(found)} episodes belong to no agent. Make the data with "
            f"`python -m benchmarks generate rollout {task.name}`."
        )
    return np.array(found)


def mean_costs_of_other_episodes(costs: np.ndarray, agents_of_episodes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """
    Average the costs of the other episodes of the agent of each chosen episode.

    :param costs: (n_episodes,) costs of all episodes.
    :param agents_of_episodes: (n_episodes,) agent of each episode.
    :param chosen: Numbers of the chosen episodes.
    :return: The mean costs. Agents with a single episode are left out.
    """
    same = (agents_of_episodes[chosen][:, None] == agents_of_episodes) & (chosen[:, None] != np.arange(len(costs)))
    return np.array([costs[others].mean() for others in same if others.any()])


def measure_cloning(task: dsrl.Task, options: Options) -> dict[str, Any]:
    """
    Clone a careful agent, and evaluate both.

    :param task: A Goal task.
    :param options: Options for all tasks.
    :return: Episode costs and returns of the agent, and of its clone with deterministic and with stochastic actions.
    """
    env_id = paper.env_id(task)
    agent = GoalSeeker(task.name.removesuffix("Goal1"), **CAREFUL_AGENT)
    episodes = collect(agent, env_id, options.episodes, n_envs=N_ENVS, seed=options.seed)
    clone = BC(POLICY, episodes, env=env_id, seed=options.seed, device="cpu").learn(options.steps, progress_bar=True)

    seed = EVALUATION_SEED + options.seed

    def evaluate(policy: PolicyLike, deterministic: bool) -> dict[str, list[float]]:
        n_episodes = options.evaluation_episodes
        return _episodes(evaluate_policy(policy, env_id, n_episodes, deterministic=deterministic, seed=seed))

    return {
        "agent": asdict(agent),
        "of_agent": evaluate(agent, deterministic=False),
        "of_clone": evaluate(clone, deterministic=True),
        "of_clone_stochastic": evaluate(clone, deterministic=False),
    }


def _episodes(evaluation: Evaluation) -> dict[str, list[float]]:
    return {"rewards": evaluation.episode_rewards.round(3).tolist(), "costs": evaluation.episode_costs.tolist()}


def _one_step(env_id: str) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(gymnasium.make(env_id), 1)


def _first_observations(trajectories: Trajectories) -> list[bytes]:
    """Get the first observation of each episode as a dictionary key."""
    assert isinstance(trajectories.observations, np.ndarray)  # a Dict observation space has more than one
    return [row.tobytes() for row in trajectories.observations[trajectories.episode_starts].astype(np.float32)]
