"""Zips in SB3's layout with the reference inside, which open without unpickling anything."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_system_info

from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.archive import read_reference
from sb3_prefine.reference.load import load_reference
from sb3_prefine.reference.reference import Reference
from sb3_prefine.utils.files import with_zip_suffix, write_atomically


def write_zip(target: str | Path | io.BufferedIOBase, content: bytes) -> None:
    """
    Write a zip. If this is interrupted, an existing file stays as it was.

    :param target: Path, with or without ``.zip``, or a file opened for writing.
    :param content: Content of the zip.
    """
    if isinstance(target, (str, Path)):
        path = with_zip_suffix(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    else:
        target.write(content)


def custom_objects_for_load(
    file: Path | io.BufferedIOBase, given: Mapping[str, Any], trust: bool = False, recipe: PolicyRecipe | None = None
) -> dict[str, Any]:
    """
    Collect the ``custom_objects`` with which SB3's ``load`` unpickles nothing.

    :param file: A file that ``save`` wrote.
    :param given: Objects to use instead of those in the file, by name.
    :param trust: Whether SB3 may unpickle what remains in the file.
    :param recipe: How to build the reference's policy, if the file cannot tell.
    :return: The objects by name.
    :raises ValueError: If the file holds a pickled object that was not given, such as a schedule.
    """
    with zipfile.ZipFile(file) as archive:
        reference = read_reference(archive, str(file), trust, recipe)
        fields = json.loads(archive.read("data"))
    if not isinstance(file, Path):
        file.seek(0)
    objects = {
        # SB3's load passes it to the constructor as its policy.
        "policy_class": reference,
        "observation_space": reference.observation_space,
        "action_space": reference.action_space,
        # _setup_model and learn create these again.
        **dict.fromkeys(("lr_schedule", "ep_info_buffer", "ep_success_buffer")),
        **given,
    }
    pickled = {name for name, field in fields.items() if isinstance(field, dict) and ":serialized:" in field}
    unread = sorted(pickled - set(objects))
    if unread and not trust:
        raise ValueError(
            f"{file}: {', '.join(unread)} cannot be read without unpickling. Pass it, as in .load(path, "
            f"{unread[0]}=...), or trust=True if you trust where the file comes from."
        )
    return objects


def load_other_zip(
    path: Path | io.BufferedIOBase,
    algorithm: str,
    env: GymEnv | None,
    custom_objects: Mapping[str, Any] | None,
    print_system_info: bool,
    trust: bool,
) -> Reference:
    """
    Open the zip of another algorithm (PPO, SAC, …) as a reference.

    :param path: Path of the zip.
    :param algorithm: Name of the algorithm whose ``load`` was called, for errors.
    :param env: Environment for the spaces, or None.
    :param custom_objects: Not supported here.
    :param print_system_info: Whether to print the versions of the libraries.
    :param trust: Whether to unpickle everything in the file.
    :return: The reference.
    :raises ValueError: If ``path`` is not a path, or if there are custom objects.
    """
    if not isinstance(path, Path):
        raise ValueError(f"path: the file was not written by {algorithm}.save. Pass the path of the checkpoint.")
    if custom_objects:
        raise ValueError(
            f"custom_objects: {', '.join(custom_objects)} cannot be put into the zip of another algorithm. "
            "Pass env=<the environment or its id> for the spaces, or open it with load_reference."
        )
    if print_system_info:
        _print_versions(path)
    return load_reference(path, env=env, trust=trust)


def _print_versions(path: Path) -> None:
    """Print the versions of the libraries, here and when an SB3 zip was saved, as SB3's ``load`` does."""
    print("== CURRENT SYSTEM INFO ==")
    get_system_info()
    with zipfile.ZipFile(path) as archive:
        if "system_info.txt" in archive.namelist():
            print("== SAVED MODEL SYSTEM INFO ==")
            print(archive.read("system_info.txt").decode())
