"""
Find a checkpoint and its sidecar files: RL Zoo's ``config.yml``, with the env wrappers, and ``vecnormalize.pkl``.

RL Zoo writes ``ENV_1/ENV.zip`` with ``ENV_1/ENV/{config.yml,vecnormalize.pkl}``. Repositories on the Hugging Face Hub
have ``config.yml`` and ``vec_normalize.pkl`` next to the zip.
"""

import ast
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from sb3_prefine.reference.hub import download_checkpoint, is_hub_id

# A config.yml may name env wrappers of these modules, and they are imported.
_KNOWN_MODULES = ("sb3_contrib.", "stable_baselines3.", "gymnasium.wrappers.")
# Current paths of wrappers that old configurations name.
_NEW_PATHS = {
    "utils.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper",
    "rl_zoo3.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper",
}


def find_checkpoint(source: str | Path, algo: str | None = None) -> "CheckpointFiles":
    """
    Find a checkpoint and its sidecar files.

    :param source: The path of a zip or of an RL-Zoo folder, also inside the folder that the environment variable
        ``RL_TRAINED_AGENTS`` names (``"ppo/HalfCheetah-v3"``); or a name on the Hugging Face Hub
        (``"hf://sb3/ppo-HalfCheetah-v3"``, see :func:`~sb3_prefine.reference.hub.is_hub_id`).
    :param algo: RL Zoo's name of the algorithm, e.g. ``"ppo"``. With it, ``"HalfCheetah-v3"`` is enough.
    :return: The paths of the files, and the configuration.
    :raises FileNotFoundError: If there is no such path, or no zip in it. The message lists the paths that were tried.
    """
    candidates = _candidates(Path(source), algo)
    for path in candidates:
        if path.is_file():
            return _with_sidecars(path)
        if path.is_dir() and any(path.glob("*.zip")):
            return _with_sidecars(_zip_in(path))
    if is_hub_id(source):
        return _with_sidecars(download_checkpoint(source))
    hint = "" if "RL_TRAINED_AGENTS" in os.environ else " (RL_TRAINED_AGENTS is not set)"
    raise FileNotFoundError(
        f"policy: there is no checkpoint at {source}. Correct the path. These were tried: "
        f"{', '.join(str(path) for path in candidates)}{hint}."
    )


@dataclass(frozen=True)
class CheckpointFiles:
    """
    A checkpoint and its sidecar files.

    :param zip_path: Path of the zip.
    :param normalizer_path: Path of the pickled ``VecNormalize``; None if the checkpoint has none.
    :param config: RL Zoo's hyperparameters from ``config.yml``; empty without that file.
    """

    zip_path: Path
    normalizer_path: Path | None
    config: Mapping[str, Any]

    @property
    def normalizes_observations(self) -> bool:
        """Whether the configuration says that the policy saw normalised observations."""
        normalize = self.config.get("normalize", False)
        if isinstance(normalize, str):
            normalize = ast.literal_eval(normalize)
        if isinstance(normalize, dict):
            return bool(normalize.get("norm_obs", True))
        return bool(normalize)

    def env_wrappers(self, trust: bool = False) -> tuple["EnvWrapper", ...]:
        """
        Get the env wrappers that the configuration names, the innermost first.

        :param trust: Accept wrappers of any module.
        :raises ValueError: If the configuration names something that this package does not apply.
        """
        for key in ("vec_env_wrapper", "frame_stack"):
            if self.config.get(key):
                raise ValueError(
                    f"{self.zip_path}: it was trained with {key}: {self.config[key]} (see its config.yml), which "
                    "sb3_prefine does not apply. Apply it to your environment and data yourself, and copy the zip to "
                    "another folder to load the policy without its config.yml."
                )
        entries = [
            next(iter(entry.items())) if isinstance(entry, dict) else (str(entry), None)
            for entry in as_list(self.config.get("env_wrapper"))
        ]
        return tuple(env_wrapper(path, kwargs, str(self.zip_path), trust) for path, kwargs in entries)


def env_wrapper(path: str, kwargs: Mapping[str, Any] | None, name: str, trust: bool = False) -> "EnvWrapper":
    """
    Check an env wrapper that a file names.

    :param path: Import path of the wrapper, also one of an old RL Zoo.
    :param kwargs: Keyword arguments of the wrapper.
    :param name: Name of the file in error messages.
    :param trust: Accept wrappers of any module.
    :raises ValueError: If the wrapper is from an unknown module.
    """
    path = _NEW_PATHS.get(path, path)
    if not trust and not path.startswith(_KNOWN_MODULES):
        raise ValueError(
            f"{name}: it was trained behind the env wrapper {path}, which is not from sb3-contrib, Stable-Baselines3 "
            "or gymnasium. Load it with trust=True, which runs the code of that module, if you trust it."
        )
    return EnvWrapper(path, kwargs or {})


@dataclass(frozen=True)
class EnvWrapper:
    """
    An env wrapper that a policy was trained behind. It is imported when it is called.

    :param path: Import path of the wrapper, e.g. ``"sb3_contrib.common.wrappers.TimeFeatureWrapper"``.
    :param kwargs: Keyword arguments of the wrapper.
    """

    path: str
    kwargs: Mapping[str, Any]

    def __call__(self, env: gym.Env) -> gym.Env:
        module, _, name = self.path.rpartition(".")
        try:
            wrapper = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise ImportError(f'{self.path} is missing: pip install "sb3-prefine[contrib]".') from error
        # A file names the path, and must not make this call any other function of a known module.
        if not (isinstance(wrapper, type) and issubclass(wrapper, gym.Wrapper)):
            raise ValueError(f"{self.path} is not an env wrapper. Correct env_wrapper in the config.yml.")
        return wrapper(env, **self.kwargs)


def wrap_env(env: gym.Env, wrappers: Sequence[EnvWrapper]) -> gym.Env:
    """
    Apply env wrappers.

    :param env: The environment.
    :param wrappers: The wrappers, the innermost first.
    """
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def as_list(value: Any) -> Sequence[Any]:
    """
    Turn a value of ``config.yml``, which may be a list, a single item or empty, into a list.

    :param value: The value.
    """
    if not value:
        return []
    return value if isinstance(value, list) else [value]


def _candidates(source: Path, algo: str | None) -> list[Path]:
    zoo = os.environ.get("RL_TRAINED_AGENTS")
    roots = [source] + (
        [Path(zoo) / source, Path(zoo) / (algo or "") / source] if zoo and not source.is_absolute() else []
    )
    names = [
        path for root in roots for path in (root, root.with_name(root.name + ".zip"), root.with_name(root.name + "_1"))
    ]
    return list(dict.fromkeys(names))


def _zip_in(folder: Path) -> Path:
    """Choose RL Zoo's ``ENV_1/ENV.zip``, otherwise the best model, otherwise the only zip of the folder."""
    zips = sorted(folder.glob("*.zip"))
    preferred = (folder.name.rpartition("_")[0] + ".zip", folder.name + ".zip", "best_model.zip")
    for name in preferred:
        if folder / name in zips:
            return folder / name
    if len(zips) == 1:
        return zips[0]
    found = ", ".join(path.name for path in zips)
    raise FileNotFoundError(f"policy: {folder} has several zips (found: {found}). Name the one you mean.")


def _with_sidecars(zip_path: Path) -> CheckpointFiles:
    zoo = zip_path.parent / zip_path.parent.name.rpartition("_")[0]  # for best_model.zip in ENV_1
    folders = [folder for folder in (zip_path.with_suffix(""), zip_path.parent, zoo) if folder.is_dir()]
    pickles = [folder / name for folder in folders for name in ("vecnormalize.pkl", "vec_normalize.pkl")]
    configs = [folder / "config.yml" for folder in folders]
    config = next((_read_config(path) for path in configs if path.is_file()), {})
    return CheckpointFiles(zip_path, next((path for path in pickles if path.is_file()), None), config)


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that reads the ``OrderedDict`` tag of RL Zoo as a plain mapping."""


def _ordered_dict(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> dict[str, Any]:
    [pairs] = loader.construct_sequence(node, deep=True)
    return dict(pairs)


_PlainLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.load(path.read_text(), Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} cannot be read as plain YAML: {error}. Remove the lines that are not plain YAML, or the file."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} contains {type(config).__name__}, not a mapping of hyperparameters. Correct or remove the file."
        )
    return config
