"""Write the reference into the zip of ``save``, and read it from there."""

import io
import json
import pickle
import zipfile
from pathlib import Path

from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.normalizer import read_normalizer
from sb3_prefine.reference.reference import Reference, build_reference
from sb3_prefine.reference.sb3_zip import SB3Zip
from sb3_prefine.reference.zoo_folder import env_wrapper

# Names of the files in the zip.
_CHECKPOINT = "reference/checkpoint.zip"
_NORMALIZER = "reference/vecnormalize.pkl"
_SIDECARS = "reference/sidecars.json"
_ALGORITHM = "reference/writer.txt"


def write_reference(reference: Reference, archive: zipfile.ZipFile) -> None:
    """
    Write a reference into an open zip, as plain values.

    :param reference: The reference.
    :param archive: A zip opened for writing.
    """
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
    Read the reference that :func:`write_reference` wrote.

    :param archive: A zip opened for reading.
    :param name: Name of the zip in error messages.
    :param trust: Unpickle the contents of the reference's own zip.
    :param recipe: How to build the policy; None reads it from the zip.
    :return: The reference.
    """
    sidecars = json.loads(archive.read(_SIDECARS))
    normalizer = None
    if _NORMALIZER in archive.namelist():
        normalizer = read_normalizer(archive.read(_NORMALIZER), f"the normaliser in {name}")
    checkpoint = SB3Zip.read(archive.read(_CHECKPOINT), name)
    wrappers = tuple(env_wrapper(path, kwargs, name, trust) for path, kwargs in sidecars["env_wrappers"])
    if recipe is None:
        recipe = checkpoint.recipe(trust=trust)
    return build_reference(checkpoint, recipe, normalizer, wrappers, sidecars["config"])


def holds_reference(archive: zipfile.ZipFile) -> bool:
    """Whether the ``save`` of an algorithm of this package wrote the zip."""
    return _CHECKPOINT in archive.namelist()


def write_algorithm_name(algorithm: str, archive: zipfile.ZipFile) -> None:
    """
    Write the name of the algorithm into an open zip.

    :param algorithm: Name of its class, e.g. ``"PREFINE"``.
    :param archive: A zip opened for writing.
    """
    archive.writestr(_ALGORITHM, algorithm)


def saved_algorithm(file: Path | io.BufferedIOBase) -> str | None:
    """
    Get the algorithm of this package that saved a file.

    :param file: A path, or a file opened for reading.
    :return: Name of its class, such as ``"PREFINE"`` or ``"BC"``; None if ``save`` did not write the file.
    """
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        if not holds_reference(archive):
            return None
        # The oldest files have no name, because PREFINE was the only algorithm.
        return archive.read(_ALGORITHM).decode() if _ALGORITHM in archive.namelist() else "PREFINE"
