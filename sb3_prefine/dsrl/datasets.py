"""DSRL's datasets: loading them, and normalised scores."""

import math
import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from sb3_prefine.data.columns import Observations
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.dsrl.download import REPOSITORY, downloaded
from sb3_prefine.dsrl.tasks import PAPER_TASKS, TASKS, Task, find_task
from sb3_prefine.envs import env_ids


def load(task: str | Task, path: str | os.PathLike[str] | None = None) -> Trajectories:
    """
    The episodes of a task's dataset: from its file, which is downloaded if it is not there.

    The download goes on where one was cut off, and its file appears under its name only once it is whole and checked.
    What dsrl downloaded is found, and dsrl finds what was downloaded here.

    :param task: its name, the id of its environment or dsrl's id, as :func:`find_task` takes them
    :param path: a file elsewhere, for example one of your own episodes of this task; None for :func:`dataset_path`
    :return: all its episodes, in the file's order
    :raises FileNotFoundError: there is no such file, here or (without ``path``) in the repository
    :raises ConnectionError: the file is not here and cannot be downloaded; says where to put it
    :raises ImportError: the file is not here, and huggingface_hub, which downloads it, is missing
    :raises ValueError: there is no such task; the file is damaged, lacks columns, holds NaN or infinite values, or is
        that of another task. A file that was just downloaded is removed then, another stays
    """
    task = find_task(task)
    if path is not None:
        return _read(Path(path), task)
    path = dataset_path(task)
    if path.exists():
        try:
            return _read(path, task)
        except ValueError as error:
            raise ValueError(f"{error} (The file stays where it is; without it, load() downloads DSRL's.)") from error
    try:
        with downloaded(path) as fresh:
            return _read(fresh, task)
    except (ImportError, ConnectionError, FileNotFoundError) as error:
        raise type(error)(f"{error} {_other_ways(task, path)}") from error


def dataset_path(task: str | Task) -> Path:
    """
    Where the file of a task belongs: in ``$DSRL_DATASET_DIR``, or in ``~/.dsrl/datasets``, as with dsrl.

    :raises ValueError: there is no such task
    """
    folder = os.environ.get("DSRL_DATASET_DIR") or "~/.dsrl/datasets"
    return Path(folder).expanduser() / find_task(task).file_name


def normalized_reward(task: str | Task, episode_returns: ArrayLike) -> np.ndarray:
    """
    DSRL's normalised reward: 0 for the lowest return in the task's dataset, 1 for the highest.

    :param task: whose constants to take
    :param episode_returns: of any shape; the normalised mean is the mean of the normalised ones
    :return: of the same shape, float64
    :raises ValueError: there is no such task
    """
    task = find_task(task)
    returns = np.asarray(episode_returns, np.float64)
    return (returns - task.min_episode_reward) / (task.max_episode_reward - task.min_episode_reward)


def normalized_cost(episode_costs: ArrayLike, kappa: float) -> np.ndarray:
    """
    DSRL's normalised cost, (C + ε) / (κ + ε) with ε = 1 where κ is 0 and 0 elsewhere; safe up to 1 (paper, Eq. 10).

    It depends on no task. DSRL's scores are means over the three κ of ``Task.target_costs``.

    :param episode_costs: of any shape; NaN where it is unknown, and so is the result there
    :param kappa: the limit κ of the evaluation, which dsrl calls ``target_cost``; not the threshold τ on the data
    :return: of the same shape, float64
    :raises ValueError: ``kappa`` is negative, NaN or infinite
    """
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa={kappa}: give a limit on the cost of an episode, 0 or more.")
    epsilon = 1.0 if kappa == 0 else 0.0
    return (np.asarray(episode_costs, np.float64) + epsilon) / (kappa + epsilon)


def _read(path: Path, task: Task) -> Trajectories:
    other = next((t for t in TASKS.values() if t.file_name == path.name and t != task), None)
    if other is not None:
        raise ValueError(f"{path}: by its name this is the dataset of {other.name}, not of {task.name}.")
    trajectories = Trajectories.from_hdf5(path)
    with h5py.File(path, "r") as file:
        # What `sb3-prefine collect` notes. An id of somebody's own may well stand for the same task.
        env_id = str(file.attrs.get("env")).rpartition(":")[2]
    if env_id in env_ids() and env_id != task.env_id:
        raise ValueError(f"{path}: recorded in {env_id}, which is not the environment of {task.name}.")
    _check_sizes(path, task, trajectories)
    unknown = np.flatnonzero(np.isnan(trajectories.episode_costs))
    if len(unknown):
        raise ValueError(
            f"{path}: 'costs' is NaN in {len(unknown)} of {len(trajectories)} episodes (first: episode {unknown[0]}). "
            "Repair the file or remove those episodes; Trajectories.from_hdf5 reads it as it is."
        )
    return trajectories


def _check_sizes(path: Path, task: Task, trajectories: Trajectories) -> None:
    """Refuse another task's observations, actions and lengths of episodes."""
    longest = int(trajectories.episode_lengths.argmax())
    n_steps = int(trajectories.episode_lengths[longest])
    found = _size(trajectories.observations), _size(trajectories.actions)
    if task.observation_size is not None and found != (task.observation_size, task.action_size):
        problem = (
            f"observations and actions have the sizes {found[0]} and {found[1]}, those of {task.name} have "
            f"{task.observation_size} and {task.action_size}"
        )
    elif n_steps > task.max_episode_steps:
        problem = (
            f"episode {longest} has {n_steps} steps, those of {task.name} end after {task.max_episode_steps} at the "
            "latest"
        )
    else:
        return
    fitting = [
        other.name
        for other in TASKS.values()
        if (other.observation_size, other.action_size) == found and other.max_episode_steps >= n_steps
    ]
    raise ValueError(
        f"{path}: {problem}. These are episodes of another task (fitting: {', '.join(fitting) or 'none'})."
    )


def _size(column: Observations) -> int | str:
    """The length of the vectors in a column, or what it holds instead."""
    if not isinstance(column, np.ndarray):
        return "of a dict"
    return column.shape[1] if column.ndim == 2 else str(column.shape[1:])


def _other_ways(task: Task, path: Path) -> str:
    ways = [
        f"Or put {task.file_name} into {path.parent} yourself: "
        f"https://huggingface.co/datasets/{REPOSITORY}/resolve/main/{task.file_name}."
    ]
    if task.name in PAPER_TASKS:
        ways.append(
            f"Or make such episodes: python -m benchmarks generate rollout {task.name}; give load(…, path=…) its file."
        )
    return " ".join(ways)
