"""The keys of ``prefine.yml`` and of ``-params``: checks them, and loads the data that they name."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.prefine import PREFINE
from sb3_prefine.utils.signatures import NOT_HYPERPARAMETERS

MODEL_KEYS = tuple(name for name in inspect.signature(PREFINE).parameters if name not in NOT_HYPERPARAMETERS)
SELECTION_KEYS = (
    "cost_limit",
    "n_preferred",
    "n_dispreferred",
    "data_seed",
    "n_strata",
    "dispreferred_pool",
    "unsafe",
)
DATA_KEYS = ("dataset", "preferred", "dispreferred", *SELECTION_KEYS)
# RL Zoo handles these itself.
_ZOO_KEYS = ("n_timesteps", "env_kwargs", "env_wrapper", "monitor_kwargs", "callback")
_ALL_KEYS = ("pretrained", "eval_cost_limit", *DATA_KEYS, *_ZOO_KEYS, *MODEL_KEYS)

_REFUSED = {
    "normalize": "PREFINE finds the policy's own normaliser next to the policy, and applies it inside the model.",
    "frame_stack": "PREFINE does not support stacked frames.",
    "vec_env_wrapper": "PREFINE does not support wrappers of a VecEnv, only those of an environment (env_wrapper).",
    "n_envs": "PREFINE trains without environments. --n-eval-envs sets the number for the evaluation.",
}
_EXAMPLE = "-params \"pretrained:'ppo/HalfCheetah-v3'\" \"dataset:'data.hdf5'\""


def check_keys(hyperparams: Mapping[str, Any], command_line: Mapping[str, Any], trained_agent: str) -> dict[str, Any]:
    """
    Refuse keys that are unknown, missing, or contradict each other.

    :param hyperparams: All hyperparameters, including those of the command line.
    :param command_line: The hyperparameters of ``-params``.
    :param trained_agent: The path of ``-i``, or ``""``.
    :return: The hyperparameters. If ``-params`` names the two sets, they do not contain the keys of the file that
        select from a ``dataset``.
    :raises ValueError: If a key is refused. The message says what to pass.
    """
    if "policy" in hyperparams:
        raise ValueError(
            f"policy: it is not a key here. Name the policy to start from as pretrained, as in {_EXAMPLE}."
        )
    for key, reason in _REFUSED.items():
        if hyperparams.get(key):
            raise ValueError(f"{key}: {hyperparams[key]!r} was given. {reason} Leave the key out.")
    unknown = sorted(set(hyperparams) - set(_ALL_KEYS) - set(_REFUSED))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such hyperparameter. Choose from {', '.join(sorted(_ALL_KEYS))}.")
    _check_policy(hyperparams, trained_agent)
    return _check_data(hyperparams, command_line)


def load_preferences(keys: Mapping[str, Any]) -> PreferenceBuffer:
    """
    Read the data that the keys name.

    :param keys: Either ``dataset`` and the keys that select from it (the arguments of ``PreferenceBuffer.from_costs``,
        with ``data_seed`` for ``seed``), or ``preferred`` and ``dispreferred``. Other keys are ignored.
    :return: The preferred and the dispreferred episodes.
    :raises FileNotFoundError: If a file does not exist.
    :raises ValueError: If a file cannot be read, or has no episodes to select.
    """
    if "dataset" not in keys:
        return PreferenceBuffer(_read(keys["preferred"]), _read(keys["dispreferred"]))
    selection = {key: keys[key] for key in SELECTION_KEYS if key in keys}
    selection["seed"] = selection.pop("data_seed", 0)
    return PreferenceBuffer.from_costs(_read(keys["dataset"]), **selection)


def _check_policy(hyperparams: Mapping[str, Any], trained_agent: str) -> None:
    pretrained = hyperparams.get("pretrained")
    if trained_agent and pretrained:
        raise ValueError(f"pretrained: {pretrained!r} was given, and -i {trained_agent}. Leave one of them out.")
    if not trained_agent and not pretrained:
        raise ValueError(
            "pretrained: no policy to start from was given. Pass the path of a zip or of an RL-Zoo folder, or a name "
            f"inside the folder that RL_TRAINED_AGENTS names, as in {_EXAMPLE}."
        )


def _check_data(hyperparams: Mapping[str, Any], command_line: Mapping[str, Any]) -> dict[str, Any]:
    files = [key for key in ("dataset", "preferred", "dispreferred") if hyperparams.get(key)]
    if files == ["dataset"]:
        if hyperparams.get("cost_limit") is None:
            raise ValueError(
                "cost_limit: no limit was given to divide the dataset's episodes into safe and unsafe ones. Pass the "
                'sum of costs below which an episode is safe, as in -params "cost_limit:40".'
            )
        return dict(hyperparams)
    if files != ["preferred", "dispreferred"]:
        found = " and ".join(files) if "dataset" in files else f"only {files[0]}" if files else "none of them"
        raise ValueError(
            f"dataset, preferred, dispreferred: found {found}. Pass either one file to "
            "select episodes from (-params \"dataset:'data.hdf5'\"), or the two sets (-params "
            "\"preferred:'good.hdf5'\" \"dispreferred:'bad.hdf5'\")."
        )
    unused = [key for key in SELECTION_KEYS if key in command_line]
    if unused:
        raise ValueError(
            f"{', '.join(unused)}: this selects episodes from a dataset, but preferred and dispreferred were given. "
            "Leave it out, or pass a dataset."
        )
    return {key: value for key, value in hyperparams.items() if key not in SELECTION_KEYS}


def _read(path: str) -> Trajectories:
    return Trajectories.from_hdf5(Path(path).expanduser())
