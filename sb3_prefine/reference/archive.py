"""The reference inside a zip that ``save`` wrote."""

import io
import json
import pickle
import zipfile
from pathlib import Path

from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.normalizer import read_normalizer
from sb3_prefine.reference.reference import Reference, open_checkpoint
from sb3_prefine.reference.sb3_zip import Checkpoint
from sb3_prefine.reference.zoo_folder import env_wrapper

# Members of the zip.
_CHECKPOINT = "reference/checkpoint.zip"
_NORMALIZER = "reference/vecnormalize.pkl"
_SIDECARS = "reference/sidecars.json"
_WRITER = "reference/writer.txt"  # the name of the algorithm


def write_reference(reference: Reference, archive: zipfile.ZipFile) -> None:
    """Put a reference into a zip that is being written, as plain values."""
    archive.writestr(_CHECKPOINT, reference.checkpoint.archive)
    if reference.normalizer is not None:
        vec_normalize = reference.normalizer.to_vec_normalize(reference.observation_space, reference.action_space)
        archive.writestr(_NORMALIZER, pickle.dumps(vec_normalize))
    wrappers = [[wrapper.path, dict(wrapper.kwargs)] for wrapper in reference.env_wrappers]
    archive.writestr(_SIDECARS, json.dumps({"env_wrappers": wrappers, "config": dict(reference.config)}))


def read_reference(
    archive: zipfile.ZipFile, name: str, trust: bool = False, recipe: PolicyRecipe | None = None
) -> Reference:
    """
    Read the reference that ``write_reference`` put into a zip.

    :param name: what to call the zip in errors
    :param trust: unpickle what the reference's own zip carries
    :param recipe: How to build the policy, where the zip cannot tell.
    """
    sidecars = json.loads(archive.read(_SIDECARS))
    normalizer = None
    if _NORMALIZER in archive.namelist():
        normalizer = read_normalizer(archive.read(_NORMALIZER), f"the normaliser in {name}")
    checkpoint = Checkpoint.read(archive.read(_CHECKPOINT), name)
    wrappers = tuple(env_wrapper(path, kwargs, name, trust) for path, kwargs in sidecars["env_wrappers"])
    if recipe is None:
        recipe = checkpoint.recipe(trust=trust)
    return open_checkpoint(checkpoint, recipe, normalizer, wrappers, sidecars["config"])


def holds_reference(archive: zipfile.ZipFile) -> bool:
    """Whether ``PREFINE.save`` wrote this zip."""
    return _CHECKPOINT in archive.namelist()


def write_algorithm_name(algorithm: str, archive: zipfile.ZipFile) -> None:
    """Note in a zip that is being written which algorithm it is of."""
    archive.writestr(_WRITER, algorithm)


def saved_algorithm(file: Path | io.BufferedIOBase) -> str | None:
    """Which algorithm of this package saved the file, ``"PREFINE"`` or ``"BC"``; None for any other file."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        if not holds_reference(archive):
            return None
        # Files of before there was another algorithm do not say it.
        return archive.read(_WRITER).decode() if _WRITER in archive.namelist() else "PREFINE"
