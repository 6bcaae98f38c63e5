"""The keys of ``prefine.yml`` and of ``-params``: which there are, which fit together, and the data they name."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.prefine import PREFINE

# What RL Zoo itself passes to the constructor, and what is made from the keys below.
_NOT_KEYS = {"policy", "preferences", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}
MODEL_KEYS = tuple(name for name in inspect.signature(PREFINE).parameters if name not in _NOT_KEYS)
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
# Consumed by RL Zoo.
_ZOO_KEYS = ("n_timesteps", "env_kwargs", "env_wrapper", "monitor_kwargs", "callback")
_KEYS = ("pretrained", "eval_cost_limit", *DATA_KEYS, *_ZOO_KEYS, *MODEL_KEYS)

_REFUSED = {
    "normalize": "The policy's own frozen normaliser is found beside it and applied inside the model.",
    "frame_stack": "Stacked frames are not applied here.",
    "vec_env_wrapper": "Wrappers of a VecEnv are not applied here; wrappers of an environment are: env_wrapper.",
    "n_envs": "PREFINE trains without environments; --n-eval-envs is for the evaluation.",
}
_EXAMPLE = "-params \"pretrained:'ppo/HalfCheetah-v3'\" \"dataset:'data.hdf5'\""


def check_keys(hyperparams: Mapping[str, Any], command_line: Mapping[str, Any], trained_agent: str) -> dict[str, Any]:
    """
    Refuse keys that are unknown, missing, or contradict each other.

    :param hyperparams: all of them, those of the command line included
    :param command_line: those that ``-params`` gave
    :param trained_agent: the path that ``-i`` gave, or ``""``
    :return: the hyperparameters, without the file's way of choosing from a ``dataset`` where ``-params`` names the two
        sets instead
    :raises ValueError: names the key and says what to pass
    """
    if "policy" in hyperparams:
        raise ValueError(f"policy: name the policy to start from as pretrained, as in {_EXAMPLE}.")
    for key, reason in _REFUSED.items():
        if hyperparams.get(key):
            raise ValueError(f"{key}: {hyperparams[key]!r} was given. {reason} Leave the key out.")
    unknown = sorted(set(hyperparams) - set(_KEYS) - set(_REFUSED))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such hyperparameter. There are {', '.join(sorted(_KEYS))}.")
    _check_policy(hyperparams, trained_agent)
    return _check_data(hyperparams, command_line)


def load_preferences(keys: Mapping[str, Any]) -> PreferenceBuffer:
    """
    Read the data that the keys name.

    :param keys: ``dataset`` and the keys that choose from it (the arguments of ``PreferenceBuffer.from_costs``, with
        ``data_seed`` for its ``seed``), or ``preferred`` and ``dispreferred``; other keys are ignored
    :return: the preferred and the dispreferred episodes
    :raises FileNotFoundError: there is no such file
    :raises ValueError: a file cannot be read, or has no episodes to choose
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
            "pretrained: there is no policy to start from. Pass the path of a zip or of an RL-Zoo folder, or a name "
            f"inside the folder that RL_TRAINED_AGENTS names, as in {_EXAMPLE}."
        )


def _check_data(hyperparams: Mapping[str, Any], command_line: Mapping[str, Any]) -> dict[str, Any]:
    files = [key for key in ("dataset", "preferred", "dispreferred") if hyperparams.get(key)]
    if files == ["dataset"]:
        if hyperparams.get("cost_limit") is None:
            raise ValueError(
                "cost_limit: the dataset's episodes are divided by it into safe and unsafe ones, and there is none. "
                'Pass the sum of costs that an episode has to stay below, as in -params "cost_limit:40".'
            )
        return dict(hyperparams)
    if files != ["preferred", "dispreferred"]:
        found = f"{' and '.join(files)} alone" if "dataset" not in files else " and ".join(files)
        raise ValueError(
            f"dataset, preferred, dispreferred: found {found if files else 'none of them'}. Pass either one file to "
            "choose episodes from (-params \"dataset:'data.hdf5'\"), or the two sets (-params "
            "\"preferred:'good.hdf5'\" \"dispreferred:'bad.hdf5'\")."
        )
    useless = [key for key in SELECTION_KEYS if key in command_line]
    if useless:
        raise ValueError(
            f"{', '.join(useless)}: this chooses episodes from a dataset, and preferred and dispreferred are chosen "
            "already. Leave it out, or pass a dataset."
        )
    return {key: value for key, value in hyperparams.items() if key not in SELECTION_KEYS}


def _read(path: str) -> Trajectories:
    return Trajectories.from_hdf5(Path(path).expanduser())
