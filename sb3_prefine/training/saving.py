"""Reading the zip that ``PREFINE.save`` or ``BC.save`` wrote: SB3's layout, the reference inside, nothing unpickled."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import get_system_info

from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.archive import read_reference


def custom_objects_for_load(
    file: Path | io.BufferedIOBase, given: Mapping[str, Any], trust: bool = False, recipe: PolicyRecipe | None = None
) -> dict[str, Any]:
    """
    The ``custom_objects`` with which SB3's ``load`` unpickles nothing.

    :param file: what ``save`` wrote
    :param given: objects to use instead of those in the file, by name
    :param trust: leave the pickled rest of the file to SB3
    :param recipe: How to build the reference's policy, where the file cannot tell.
    :raises ValueError: the file holds something pickled that was not given, such as a schedule
    """
    with zipfile.ZipFile(file) as archive:
        reference = read_reference(archive, str(file), trust, recipe)
        fields = json.loads(archive.read("data"))
    if not isinstance(file, Path):
        file.seek(0)
    objects = {
        # SB3's load hands it to the constructor as its policy.
        "policy_class": reference,
        "observation_space": reference.observation_space,
        "action_space": reference.action_space,
        # Made anew, by _setup_model and by learn.
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


def print_versions(path: Path) -> None:
    """Print the versions here, and those that an SB3 zip was saved with, as SB3's ``load`` does."""
    print("== CURRENT SYSTEM INFO ==")
    get_system_info()
    with zipfile.ZipFile(path) as archive:
        if "system_info.txt" in archive.namelist():
            print("== SAVED MODEL SYSTEM INFO ==")
            print(archive.read("system_info.txt").decode())
