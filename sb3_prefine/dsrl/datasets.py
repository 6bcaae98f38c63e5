"""DSRL's datasets: downloading, loading and checking them."""

import os
from pathlib import Path

import h5py
import numpy as np

from sb3_prefine.data.columns import Observations
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.dsrl.download import REPOSITORY, download_file
from sb3_prefine.dsrl.tasks import PAPER_TASKS, TASKS, Task, find_task
from sb3_prefine.envs import env_ids


def load(task: str | Task, path: str | os.PathLike[str] | None = None) -> Trajectories:
    """
    Load the dataset of a task. If the file does not exist, it is downloaded.

    An interrupted download is resumed by the next call, and the file appears under its name only when it is complete
    and checked. Files are shared with dsrl, which uses the same folder and names.

    :param task: The name of the task, the id of its environment or dsrl's id, as in :func:`find_task`.
    :param path: Another file, for example with your own episodes of this task. None means :func:`dataset_path`.
    :return: All episodes, in the order of the file.
    :raises FileNotFoundError: If there is no such file, locally or (without ``path``) in the repository.
    :raises ConnectionError: If the file does not exist and cannot be downloaded. The message says where to put it.
    :raises ImportError: If the file does not exist and huggingface_hub, which downloads it, is missing.
    :raises ValueError: If there is no such task; or if the file is damaged, lacks columns, contains NaN or infinite
        values, or belongs to another task. A file that was just downloaded is then removed; other files stay.
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
        with download_file(path) as downloaded:
            return _read(downloaded, task)
    except (ImportError, ConnectionError, FileNotFoundError) as error:
        raise type(error)(f"{error} {_alternatives(task, path)}") from error


def dataset_path(task: str | Task) -> Path:
    """
    Return the path of a task's dataset in ``$DSRL_DATASET_DIR``, or in ``~/.dsrl/datasets``, as in dsrl.

    :param task: A name of the task, as in :func:`find_task`.
    :return: The path, whether the file exists or not.
    :raises ValueError: If there is no such task.
    """
    folder = os.environ.get("DSRL_DATASET_DIR") or "~/.dsrl/datasets"
    return Path(folder).expanduser() / find_task(task).file_name


def _read(path: Path, task: Task) -> Trajectories:
    """Read a file, and check that it contains the task's episodes, of known cost."""
    other = next((t for t in TASKS.values() if t.file_name == path.name and t != task), None)
    if other is not None:
        raise ValueError(
            f"{path}: its name is that of the dataset of {other.name}, not of {task.name}. Load it as {other.name}, or "
            "rename the file."
        )
    trajectories = Trajectories.from_hdf5(path)
    with h5py.File(path, "r") as file:
        # `sb3-prefine collect` writes this. A user's own id may stand for the same task, so only known ids count.
        env_id = str(file.attrs.get("env")).rpartition(":")[2]
    if env_id in env_ids() and env_id != task.env_id:
        raise ValueError(f"{path}: recorded in {env_id}. Give episodes of {task.name}, recorded in {task.env_id}.")
    _check_sizes(path, task, trajectories)
    unknown = np.flatnonzero(np.isnan(trajectories.episode_costs))
    if len(unknown):
        raise ValueError(
            f"{path}: 'costs' is NaN in {len(unknown)} of {len(trajectories)} episodes (first: episode {unknown[0]}). "
            "Repair the file or remove those episodes; Trajectories.from_hdf5 reads it as it is."
        )
    return trajectories


def _check_sizes(path: Path, task: Task, trajectories: Trajectories) -> None:
    """Check that observations, actions and episodes have the sizes of the task."""
    longest = int(trajectories.episode_lengths.argmax())
    n_steps = int(trajectories.episode_lengths[longest])
    found = _size(trajectories.observations), _size(trajectories.actions)
    if task.observation_size is not None and found != (task.observation_size, task.action_size):
        problem = (
            f"observations and actions have the sizes {found[0]} and {found[1]}, those of {task.name} have "
            f"{task.observation_size} and {task.action_size}"
        )
    elif n_steps > task.max_episode_steps:
        problem = f"episode {longest} has {n_steps} steps, those of {task.name} have at most {task.max_episode_steps}"
    else:
        return
    matching = [
        other.name
        for other in TASKS.values()
        if (other.observation_size, other.action_size) == found and other.max_episode_steps >= n_steps
    ]
    raise ValueError(
        f"{path}: {problem}. Load it as the task that it belongs to (tasks with these sizes: "
        f"{', '.join(matching) or 'none'})."
    )


def _size(column: Observations) -> int | str:
    """Return the length of the vectors in a column, or a description if it does not contain vectors."""
    if not isinstance(column, np.ndarray):
        return "of a dict"
    return column.shape[1] if column.ndim == 2 else str(column.shape[1:])


def _alternatives(task: Task, path: Path) -> str:
    """Say how to get the file, or such episodes, without the download."""
    ways = [
        f"Or put {task.file_name} into {path.parent} yourself: "
        f"https://huggingface.co/datasets/{REPOSITORY}/resolve/main/{task.file_name}."
    ]
    if task.name in PAPER_TASKS:
        ways.append(
            f"Or make such episodes: python -m benchmarks generate rollout {task.name}; give load(…, path=…) its file."
        )
    return " ".join(ways)
