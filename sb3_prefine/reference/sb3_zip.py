"""
Read a Stable-Baselines3 zip as plain values, so that opening it runs none of its code.

SB3 pickles what JSON cannot represent, and writes a readable copy next to every pickle. These copies are enough to
rebuild a policy: they contain the name of its class, its keyword arguments and its spaces. The weights load with
``weights_only``. If a copy is not enough, the error says what to pass instead. Zips of 2021 and 2022, whose pickles
need the old gym, open in the same way.
"""

import ast
import importlib
import io
import json
import pickle
import platform
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import data_to_json, json_to_data, save_to_zip_file
from stable_baselines3.common.utils import LinearSchedule

from sb3_prefine.policies.gsde import renew_noise
from sb3_prefine.policies.recipe import RL_PACKAGES, PolicyRecipe
from sb3_prefine.reference.space_text import read_space

# A zip may name classes of these packages, and they are imported. Any other module could be the code of a stranger.
_KNOWN_PACKAGES = (*RL_PACKAGES, "torch.nn.modules.", "torch.optim.", "sb3_prefine.policies")


@dataclass(frozen=True, eq=False)
class SB3Zip:
    """
    An SB3 zip in memory.

    :param archive: Bytes of the zip.
    :param fields: Its ``data`` as parsed from JSON. Pickled fields are dicts with a ``":serialized:"`` entry.
    :param name: Name of the zip in error messages.
    """

    # Keep the bytes out of repr().
    archive: bytes = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False)
    name: str

    @classmethod
    def read(cls, archive: bytes, name: str) -> "SB3Zip":
        """
        Read a zip from its bytes.

        :param archive: Bytes of the zip.
        :param name: Name of the zip in error messages.
        :raises ValueError: If SB3 did not write the zip.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as file:
                missing = {"data", "policy.pth"} - set(file.namelist())
                if missing:
                    raise ValueError(
                        f"{name} is a zip without {sorted(missing)}, so Stable-Baselines3 did not write it. "
                        "Give a zip that model.save() wrote."
                    )
                fields = json.loads(file.read("data"))
        except (zipfile.BadZipFile, json.JSONDecodeError) as error:
            raise ValueError(
                f"{name} is not a Stable-Baselines3 zip ({error}). It may be truncated or have another format. "
                "Give a zip that model.save() wrote."
            ) from error
        return cls(archive, fields, name)

    @classmethod
    def from_model(cls, model: BaseAlgorithm) -> "SB3Zip":
        """
        Make the zip that ``model.save`` would write.

        :param model: A model of SB3 or sb3-contrib.
        """
        _write_out_bounds(model.observation_space, model.action_space)
        file = io.BytesIO()
        model.save(file)
        return cls.read(file.getvalue(), type(model).__name__)

    @classmethod
    def from_policy(cls, policy: BasePolicy, recipe: PolicyRecipe) -> "SB3Zip":
        """
        Make a zip that contains a policy without an algorithm.

        :param policy: The policy.
        :param recipe: How to build it.
        """
        _write_out_bounds(recipe.observation_space, recipe.action_space)
        data = {
            "policy_class": recipe.policy_class,
            # The user passes the module again on loading, because its code is not saved.
            "policy_kwargs": {
                key: value for key, value in recipe.kwargs.items() if not isinstance(value, torch.nn.Module)
            },
            "observation_space": recipe.observation_space,
            "action_space": recipe.action_space,
        }
        file = io.BytesIO()
        save_to_zip_file(file, data=data, params={"policy": policy.state_dict()})
        return cls.read(file.getvalue(), type(policy).__name__)

    @property
    def algo(self) -> str | None:
        """RL Zoo's name of the algorithm that wrote the zip, derived from its fields; None if unknown."""
        module = str(_readable_copy(self.fields.get("policy_class", {})).get("__module__", ""))
        if module == "stable_baselines3.common.policies":
            for field_name, algo in (("clip_range", "ppo"), ("cg_max_steps", "trpo"), ("vf_coef", "a2c")):
                if field_name in self.fields:
                    return algo
        return {
            "stable_baselines3.sac.policies": "sac",
            "stable_baselines3.td3.policies": "td3",
            "stable_baselines3.dqn.policies": "dqn",
            "sb3_contrib.ars.policies": "ars",
            "sb3_contrib.crossq.policies": "crossq",
            "sb3_contrib.qrdqn.policies": "qrdqn",
            "sb3_contrib.tqc.policies": "tqc",
            "sb3_contrib.common.maskable.policies": "ppo_mask",
            "sb3_contrib.common.recurrent.policies": "ppo_lstm",
        }.get(module)

    @property
    def holds_algorithm(self) -> bool:
        """Whether the zip contains an algorithm, whose class can load it, instead of only a policy."""
        return "num_timesteps" in self.fields

    @property
    def saw_normalized_observations(self) -> bool:
        """
        Whether an on-policy algorithm was trained behind ``VecNormalize``.

        Only then does the zip contain the last observation from before the normalisation.
        """
        return self.algo in ("ppo", "a2c", "trpo") and self.fields.get("_last_original_obs") is not None

    def recipe(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        trust: bool = False,
    ) -> PolicyRecipe:
        """
        Read how to build the zip's policy.

        :param observation_space: Space to use instead of the zip's own.
        :param action_space: Space to use instead of the zip's own.
        :param trust: Unpickle the zip's fields, which runs any code that they contain.
        :raises ValueError: If something cannot be read without unpickling. The message says what to pass.
        """
        if trust:
            values = self._unpickled()
        else:
            values = {
                "policy_class": _read_policy_class(self.fields.get("policy_class"), self.name),
                "policy_kwargs": _read_kwargs(self.fields.get("policy_kwargs"), self.name),
            }
        if observation_space is None:
            observation_space = values.get("observation_space") or self._space("observation_space")
        if action_space is None:
            action_space = values.get("action_space") or self._space("action_space")
        # As in SB3's load, the caller chooses the device, not the file.
        kwargs = {key: value for key, value in values["policy_kwargs"].items() if key != "device"}
        # Up to SB3 1.7, a list contained the dict of the two heads.
        net_arch = kwargs.get("net_arch")
        if isinstance(net_arch, list) and net_arch and isinstance(net_arch[0], dict):
            kwargs["net_arch"] = net_arch[0]
        if self.fields.get("use_sde"):
            kwargs["use_sde"] = True
        return PolicyRecipe(values["policy_class"], observation_space, action_space, kwargs)

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """
        Compare an environment's spaces with the zip's own, if those can be read.

        :param observation_space: Observation space of the environment.
        :param action_space: Action space of the environment.
        :raises ValueError: If the shapes differ.
        """
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            own = read_space(self.fields.get(name))
            if own is not None and own.shape != space.shape:
                raise ValueError(
                    f"env: its {name} has the shape {space.shape}, but that of {self.name} has {own.shape}. Give the "
                    "environment that the policy was trained on."
                )

    def load_weights(self, policy: BasePolicy) -> None:
        """
        Load the zip's weights into a policy.

        :param policy: A policy that the zip's recipe built.
        :raises ValueError: If the weights are damaged, or do not fit the policy.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(self.archive)) as file:
                state = torch.load(io.BytesIO(file.read("policy.pth")), map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, struct.error, EOFError) as error:
            # Torch's own message would advise to unpickle the file.
            raise ValueError(
                f"{self.name}: its weights (policy.pth) are damaged, or hold more than tensors. Download it again, or "
                "save it again."
            ) from error
        # Up to SB3 1.7 the state named the shared extractor once; now it has three names (SB3 issue 1233).
        for key in policy.state_dict():
            shared = re.sub(r"^(pi|vf)_features_extractor\.", "features_extractor.", key)
            if key not in state and shared in state:
                state[key] = state[shared]
        try:
            policy.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: its weights do not fit the policy that its fields describe: {error}. "
                "If you trained it with your own policy class, load it with trust=True."
            ) from error
        renew_noise(policy)

    def with_policy(
        self, policy: BasePolicy, recipe: PolicyRecipe, config: Mapping[str, Any] | None = None
    ) -> "SB3Zip":
        """
        Make the same zip with the weights of another policy.

        Two fields change if necessary, because SB3 2.9 could not load a zip of 2021 otherwise: spaces of the old gym
        become gymnasium's, and functions pickled by another Python version (schedules) are rebuilt from ``config``.

        :param policy: The policy with the new weights.
        :param recipe: How to build it.
        :param config: RL Zoo's hyperparameters of the run, for the schedules.
        """
        fields = dict(self.fields)
        for name, space in (("observation_space", recipe.observation_space), ("action_space", recipe.action_space)):
            if _is_from_old_gym(fields[name]):
                fields[name] = json.loads(data_to_json({name: space}))[name]
        for name, value in self.fields.items():
            if (
                _readable_copy(value).get(":type:") == "<class 'function'>"
                and self._python() != platform.python_version_tuple()[:2]
            ):
                del fields[name]
                if config and name in config:
                    fields[name] = json.loads(data_to_json({name: _schedule(config[name])}))[name]
        weights = io.BytesIO()
        torch.save(policy.state_dict(), weights)
        replaced = {"data": json.dumps(fields, indent=4).encode(), "policy.pth": weights.getvalue()}

        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(self.archive)) as old, zipfile.ZipFile(target, "w") as new:
            for entry in old.infolist():
                new.writestr(entry, replaced.get(entry.filename, old.read(entry)))
        return replace(self, archive=target.getvalue(), fields=fields)

    def _python(self) -> tuple[str, ...]:
        """Major and minor version of the Python that wrote the zip; empty if unknown."""
        with zipfile.ZipFile(io.BytesIO(self.archive)) as file:
            info = file.read("system_info.txt").decode() if "system_info.txt" in file.namelist() else ""
        found = re.search(r"Python: (\d+)\.(\d+)", info)
        return found.groups() if found else ()

    def _unpickled(self) -> dict[str, Any]:
        """Unpickle the policy's class, keyword arguments and spaces, except spaces of the old gym."""
        fields = {
            name: self.fields[name]
            for name in ("policy_class", "policy_kwargs", "observation_space", "action_space")
            if name in self.fields and not _is_from_old_gym(self.fields[name])
        }
        values = json_to_data(json.dumps(fields))
        missing = sorted(set(fields) - set(values))
        if missing:
            raise ValueError(
                f"{self.name}: {missing} cannot be unpickled. Install the packages that the file was saved with."
            )
        return {"policy_kwargs": {}, **values}

    def _space(self, name: str) -> spaces.Space:
        space = read_space(self.fields.get(name))
        if space is None:
            found = _readable_copy(self.fields.get(name)).get(":type:", "nothing")
            raise ValueError(
                f"{self.name}: its {name} ({found}) cannot be read without unpickling it. "
                "Pass env=<the environment or its id>, or trust=True if you trust the source of the file."
            )
        return space


def _write_out_bounds(*all_spaces: spaces.Space) -> None:
    """Let gymnasium cache the short text of each bound. Otherwise NumPy abbreviates the bounds of an image."""
    for space in all_spaces:
        repr(space)


def _readable_copy(field: Any) -> Mapping[str, Any]:
    """The plain values that SB3 writes next to a pickle; empty for a field that is not pickled."""
    return field if isinstance(field, dict) else {}


def _is_from_old_gym(field: Any) -> bool:
    return str(_readable_copy(field).get(":type:", "")).startswith("<class 'gym.")


def _read_policy_class(field: Any, name: str) -> type[BasePolicy]:
    """Import the policy's class. The readable copy contains its module, and its name in the constructor's repr."""
    copy = _readable_copy(field)
    module = str(copy.get("__module__", ""))
    found = re.match(r"<function (\w+)\.__init__ at ", str(copy.get("__init__", "")))
    if not found or not module.startswith(_KNOWN_PACKAGES):
        raise ValueError(
            f"{name}: its policy class (module {module or 'unknown'}) is not one of Stable-Baselines3 or sb3-contrib. "
            "If it is your own, pass a policy of that class: PREFINE.load(path, policy=…). Or load the file with "
            "trust=True, which runs its code, if you trust its source."
        )
    policy_class = _import_class(f"{module}.{found.group(1)}", name)
    if not issubclass(policy_class, BasePolicy):
        raise ValueError(
            f"{name} names {policy_class.__name__} as its policy class, which is not a policy. Save the model again."
        )
    return policy_class


def _read_kwargs(field: Any, name: str) -> dict[str, Any]:
    return {
        key: _read_value(value, key, name)
        for key, value in _readable_copy(field).items()
        if key not in (":type:", ":serialized:", "device")
    }


def _read_value(value: Any, key: str, name: str) -> Any:
    """Rebuild a keyword argument from its JSON value, or from the text that SB3 writes for other values."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"<class '([\w.]+)'>", value)
    if found and found.group(1).startswith(_KNOWN_PACKAGES):
        kind = _import_class(found.group(1), name)
        if issubclass(kind, torch.nn.Module | torch.optim.Optimizer):
            return kind
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(
            f"{name}: its policy_kwargs contain {key}={value}, which cannot be rebuilt without unpickling it. "
            "Load the file with trust=True if you trust its source."
        ) from None


def _import_class(path: str, name: str) -> type:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(f'{name} needs {error.name}: pip install "sb3-prefine[contrib]".') from error
    if not isinstance(found, type):
        raise ValueError(f"{name} names {path}, which is not a class in the installed version. Install the right one.")
    return found


def _schedule(value: Any) -> Any:
    """Make the schedule of RL Zoo's value: a number, or ``"lin_0.1"`` for a linear decay to 0."""
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return float(value)
