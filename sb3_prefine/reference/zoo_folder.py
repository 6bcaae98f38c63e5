"""
What stands beside a checkpoint: RL Zoo's ``config.yml`` and ``vecnormalize.pkl``, and the env wrappers they name.

RL Zoo writes ``ENV_1/ENV.zip`` with ``ENV_1/ENV/{config.yml,vecnormalize.pkl}``; repositories on the Hugging Face Hub
keep ``config.yml`` and ``vec_normalize.pkl`` next to the zip.
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

# Wrappers of these modules may be imported because a config.yml names them.
_KNOWN_MODULES = ("sb3_contrib.", "stable_baselines3.", "gymnasium.wrappers.")
# Where wrappers of old configurations live today.
_MOVED = {
    "utils.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper",
    "rl_zoo3.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper",
}


@dataclass(frozen=True)
class EnvWrapper:
    """
    An env wrapper that a policy was trained behind.

    :param path: its import path, e.g. ``"sb3_contrib.common.wrappers.TimeFeatureWrapper"``
    :param kwargs: its keyword arguments
    """

    path: str
    kwargs: Mapping[str, Any]

    def __call__(self, env: gym.Env) -> gym.Env:
        module, _, name = self.path.rpartition(".")
        try:
            wrapper = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise ImportError(f'{self.path} is missing: pip install "sb3-prefine[contrib]".') from error
        # A file names it: anything else of a known module must not be called.
        if not (isinstance(wrapper, type) and issubclass(wrapper, gym.Wrapper)):
            raise ValueError(f"{self.path} is not an env wrapper. Correct env_wrapper in the config.yml.")
        return wrapper(env, **self.kwargs)


@dataclass(frozen=True)
class CheckpointFolder:
    """
    A checkpoint's files.

    :param zip_path: the zip
    :param normalizer_path: the pickled ``VecNormalize``, if there is one
    :param config: RL Zoo's hyperparameters (``config.yml``), empty if there are none
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

    def env_wrappers(self, trust: bool = False) -> tuple[EnvWrapper, ...]:
        """
        The env wrappers that the configuration names, the innermost first.

        :param trust: import wrappers of any module
        :raises ValueError: the configuration names something that cannot be applied here
        """
        for key in ("vec_env_wrapper", "frame_stack"):
            if self.config.get(key):
                raise ValueError(
                    f"{self.zip_path}: it was trained with {key}: {self.config[key]} (says its config.yml), which is "
                    "not applied here. Apply it to your environment and data yourself and load the policy without its "
                    "folder: copy the zip elsewhere."
                )
        entries = [
            next(iter(entry.items())) if isinstance(entry, dict) else (str(entry), None)
            for entry in as_list(self.config.get("env_wrapper"))
        ]
        return tuple(env_wrapper(path, kwargs, str(self.zip_path), trust) for path, kwargs in entries)


def env_wrapper(path: str, kwargs: Mapping[str, Any] | None, name: str, trust: bool = False) -> EnvWrapper:
    """
    The env wrapper that a file names.

    :param path: its import path, today's or that of an old RL Zoo
    :param kwargs: its keyword arguments
    :param name: what to call the file in errors
    :param trust: allow wrappers of any module
    :raises ValueError: a wrapper of a module that is not known
    """
    path = _MOVED.get(path, path)
    if not trust and not path.startswith(_KNOWN_MODULES):
        raise ValueError(
            f"{name}: it was trained behind the env wrapper {path}, which is not one of sb3-contrib, Stable-Baselines3 "
            "or gymnasium. Load it with trust=True if you trust that module: importing it runs its code."
        )
    return EnvWrapper(path, kwargs or {})


def wrap_env(env: gym.Env, wrappers: Sequence[EnvWrapper]) -> gym.Env:
    """Apply env wrappers, the innermost first."""
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def find_checkpoint(source: str | Path, algo: str | None = None) -> CheckpointFolder:
    """
    Find a checkpoint and what stands beside it.

    :param source: a zip, an RL-Zoo folder, or such a path inside the folder that the environment variable
        ``RL_TRAINED_AGENTS`` names, as in ``"ppo/HalfCheetah-v3"``; or a name on the Hugging Face Hub, as in
        ``"hf://sb3/ppo-HalfCheetah-v3"`` (:func:`~sb3_prefine.reference.hub.is_hub_id`)
    :param algo: RL Zoo's name of the algorithm, as in ``"ppo"``: with it ``"HalfCheetah-v3"`` is enough
    :raises FileNotFoundError: nothing there, or no zip in it; says where it looked
    """
    looked = _candidates(Path(source), algo)
    for path in looked:
        if path.is_file():
            return _with_sidecars(path)
        if path.is_dir() and any(path.glob("*.zip")):
            return _with_sidecars(_zip_in(path))
    if is_hub_id(source):
        return _with_sidecars(download_checkpoint(source))
    hint = "" if "RL_TRAINED_AGENTS" in os.environ else " (RL_TRAINED_AGENTS is not set)"
    raise FileNotFoundError(
        f"policy: there is no checkpoint at {source}. Looked at {', '.join(str(path) for path in looked)}{hint}."
    )


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
    """RL Zoo's ``ENV_1/ENV.zip``; else the best model; else the only zip there is."""
    zips = sorted(folder.glob("*.zip"))
    wanted = (folder.name.rpartition("_")[0] + ".zip", folder.name + ".zip", "best_model.zip")
    for name in wanted:
        if folder / name in zips:
            return folder / name
    if len(zips) == 1:
        return zips[0]
    found = ", ".join(path.name for path in zips)
    raise FileNotFoundError(f"policy: {folder} has several zips (found: {found}). Name the one you mean.")


def _with_sidecars(zip_path: Path) -> CheckpointFolder:
    beside = (zip_path.with_suffix(""), zip_path.parent)
    zoo = zip_path.parent / zip_path.parent.name.rpartition("_")[0]  # for best_model.zip in ENV_1
    folders = [folder for folder in (*beside, zoo) if folder.is_dir()]
    pickles = [folder / name for folder in folders for name in ("vecnormalize.pkl", "vec_normalize.pkl")]
    configs = [folder / "config.yml" for folder in folders]
    config = next((_read_config(path) for path in configs if path.is_file()), {})
    return CheckpointFolder(zip_path, next((path for path in pickles if path.is_file()), None), config)


class _PlainLoader(yaml.SafeLoader):
    """Safe, and reads the ``OrderedDict`` tag that RL Zoo writes as a plain mapping."""


def _ordered_dict(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> dict[str, Any]:
    [pairs] = loader.construct_sequence(node, deep=True)
    return dict(pairs)


_PlainLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.load(path.read_text(), Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} cannot be read as plain YAML: {error}. Remove what is not plain, or the file."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping of hyperparameters but {type(config).__name__}.")
    return config


def as_list(value: Any) -> Sequence[Any]:
    """What a ``config.yml`` gives as a list, as one thing, or not at all."""
    if not value:
        return []
    return value if isinstance(value, list) else [value]
