"""
A Stable-Baselines3 zip, read as plain values: a stranger's checkpoint runs no code of its own.

SB3 pickles what JSON cannot hold, and writes a readable twin beside every pickle. The twins are enough to rebuild a
policy: its class by name, its keyword arguments, its spaces; the weights load with ``weights_only``. What a twin does
not tell is asked for by name. This also opens the zips of 2021 and 2022, whose pickles need the old gym.
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

# Classes of these packages may be imported because a zip names them; any other module could be anybody's code.


_KNOWN_PACKAGES = (*RL_PACKAGES, "torch.nn.modules.", "torch.optim.", "sb3_prefine.policies")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """
    An SB3 zip in memory.

    :param archive: the zip's bytes
    :param fields: its ``data`` as JSON gives it: pickled fields are dicts with a ``":serialized:"`` entry
    :param name: what to call it in errors
    """

    # Whoever prints a reference does not want a megabyte.
    archive: bytes = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False)
    name: str

    @classmethod
    def read(cls, archive: bytes, name: str) -> "Checkpoint":
        """
        :param archive: the bytes of a zip
        :param name: what to call it in errors
        :raises ValueError: not a zip that SB3 wrote
        """
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as file:
                missing = {"data", "policy.pth"} - set(file.namelist())
                if missing:
                    raise ValueError(f"{name} is a zip without {sorted(missing)}: not one of Stable-Baselines3.")
                fields = json.loads(file.read("data"))
        except (zipfile.BadZipFile, json.JSONDecodeError) as error:
            raise ValueError(
                f"{name} is not a Stable-Baselines3 zip ({error}). It may be cut off, or another format: "
                "give a zip that model.save() wrote."
            ) from error
        return cls(archive, fields, name)

    @classmethod
    def of_model(cls, model: BaseAlgorithm) -> "Checkpoint":
        """The zip that ``model.save`` would write."""
        _complete_text(model.observation_space, model.action_space)
        file = io.BytesIO()
        model.save(file)
        return cls.read(file.getvalue(), type(model).__name__)

    @classmethod
    def of_policy(cls, policy: BasePolicy, recipe: PolicyRecipe) -> "Checkpoint":
        """A zip that holds a policy alone, without an algorithm."""
        _complete_text(recipe.observation_space, recipe.action_space)
        data = {
            "policy_class": recipe.policy_class,
            # The code of a module of somebody's own is not saved: it is asked for again.
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
        """RL Zoo's name of the algorithm that wrote the zip (a zip does not say it, its fields do); None: unknown."""
        module = str(_twin(self.fields.get("policy_class", {})).get("__module__", ""))
        if module == "stable_baselines3.common.policies":
            for sign, algo in (("clip_range", "ppo"), ("cg_max_steps", "trpo"), ("vf_coef", "a2c")):
                if sign in self.fields:
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
        """Whether an algorithm wrote the zip, so that its class can load it; False for a policy alone."""
        return "num_timesteps" in self.fields

    @property
    def saw_normalized_observations(self) -> bool:
        """Whether an on-policy zip was trained behind ``VecNormalize`` (only then it keeps an original observation)."""
        return self.algo in ("ppo", "a2c", "trpo") and self.fields.get("_last_original_obs") is not None

    def recipe(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        trust: bool = False,
    ) -> PolicyRecipe:
        """
        How to build the zip's policy.

        :param observation_space: use this instead of the zip's own
        :param action_space: use this instead of the zip's own
        :param trust: unpickle the zip's fields, which runs whatever code they carry
        :raises ValueError: something cannot be read without unpickling; the message says what to give
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
        # As SB3's load does: the device is the caller's, not the file's.
        kwargs = {key: value for key, value in values["policy_kwargs"].items() if key != "device"}
        # Up to SB3 1.7 the two heads stood in a list of one dict.
        net_arch = kwargs.get("net_arch")
        if isinstance(net_arch, list) and net_arch and isinstance(net_arch[0], dict):
            kwargs["net_arch"] = net_arch[0]
        if self.fields.get("use_sde"):
            kwargs["use_sde"] = True
        return PolicyRecipe(values["policy_class"], observation_space, action_space, kwargs)

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """
        Compare an environment's spaces with the zip's own, where those can be read.

        :raises ValueError: their shapes differ
        """
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            own = read_space(self.fields.get(name))
            if own is not None and own.shape != space.shape:
                raise ValueError(
                    f"env: its {name} has the shape {space.shape}, that of {self.name} has {own.shape}. Give the "
                    "environment that the policy was trained on."
                )

    def load_weights(self, policy: BasePolicy) -> None:
        """
        Put the zip's weights into a policy that its recipe built.

        :raises ValueError: the weights do not fit
        """
        try:
            with zipfile.ZipFile(io.BytesIO(self.archive)) as file:
                state = torch.load(io.BytesIO(file.read("policy.pth")), map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, struct.error, EOFError) as error:
            # Torch's own text advises to unpickle it after all.
            raise ValueError(
                f"{self.name}: its weights (policy.pth) are damaged, or hold more than tensors. Download it again, or "
                "save it again."
            ) from error
        # Up to SB3 1.7 there was one extractor, now the state names it three times (SB3 issue 1233).
        for key in policy.state_dict():
            shared = re.sub(r"^(pi|vf)_features_extractor\.", "features_extractor.", key)
            if key not in state and shared in state:
                state[key] = state[shared]
        try:
            policy.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: its weights do not fit the policy that its fields describe: {error}. "
                "If it was trained with a policy class of your own, load it with trust=True."
            ) from error
        renew_noise(policy)

    def with_policy(
        self, policy: BasePolicy, recipe: PolicyRecipe, config: Mapping[str, Any] | None = None
    ) -> "Checkpoint":
        """
        The same zip with another policy's weights, and everything else as it was.

        Two things are mended, or SB3 2.9 could not load what came from a zip of 2021: spaces of the old gym become
        gymnasium's, and functions pickled by another Python (schedules) become what ``config`` says they were.

        :param config: RL Zoo's hyperparameters of the run, for the schedules
        """
        fields = dict(self.fields)
        for name, space in (("observation_space", recipe.observation_space), ("action_space", recipe.action_space)):
            if _is_of_old_gym(fields[name]):
                fields[name] = json.loads(data_to_json({name: space}))[name]
        for name, value in self.fields.items():
            if (
                _twin(value).get(":type:") == "<class 'function'>"
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
        """Major and minor version of the Python that wrote the zip; empty if it does not say."""
        with zipfile.ZipFile(io.BytesIO(self.archive)) as file:
            info = file.read("system_info.txt").decode() if "system_info.txt" in file.namelist() else ""
        found = re.search(r"Python: (\d+)\.(\d+)", info)
        return found.groups() if found else ()

    def _unpickled(self) -> dict[str, Any]:
        """The policy's class, keyword arguments and spaces as SB3 itself reads them; spaces of the old gym left out."""
        fields = {
            name: self.fields[name]
            for name in ("policy_class", "policy_kwargs", "observation_space", "action_space")
            if name in self.fields and not _is_of_old_gym(self.fields[name])
        }
        values = json_to_data(json.dumps(fields))
        missing = sorted(set(fields) - set(values))
        if missing:
            raise ValueError(f"{self.name}: {missing} cannot be unpickled here: a package it needs may be missing.")
        return {"policy_kwargs": {}, **values}

    def _space(self, name: str) -> spaces.Space:
        space = read_space(self.fields.get(name))
        if space is None:
            found = _twin(self.fields.get(name)).get(":type:", "nothing")
            raise ValueError(
                f"{self.name}: its {name} ({found}) cannot be read without unpickling it. "
                "Pass env=<the environment or its id>, or trust=True if you trust where the file comes from."
            )
        return space


def _complete_text(*of: spaces.Space) -> None:
    """Let gymnasium note the short text of bounds, without which those of an image are not all there to be read."""
    for space in of:
        repr(space)


def _twin(field: Any) -> Mapping[str, Any]:
    return field if isinstance(field, dict) else {}


def _is_of_old_gym(field: Any) -> bool:
    return str(_twin(field).get(":type:", "")).startswith("<class 'gym.")


def _read_policy_class(field: Any, name: str) -> type[BasePolicy]:
    """The policy's class by its name: the module is in the twin, the name in its constructor's text."""
    twin = _twin(field)
    module = str(twin.get("__module__", ""))
    found = re.match(r"<function (\w+)\.__init__ at ", str(twin.get("__init__", "")))
    if not found or not module.startswith(_KNOWN_PACKAGES):
        raise ValueError(
            f"{name}: its policy class (module {module or 'unknown'}) is not one of Stable-Baselines3 or sb3-contrib. "
            "If it is your own, pass a policy of that class: PREFINE.load(path, policy=…). Or load the file with "
            "trust=True if you trust where it comes from: that runs its code."
        )
    policy_class = _import_class(f"{module}.{found.group(1)}", name)
    if not issubclass(policy_class, BasePolicy):
        raise ValueError(f"{name} names {policy_class.__name__} as its policy class, which is no policy.")
    return policy_class


def _read_kwargs(field: Any, name: str) -> dict[str, Any]:
    return {
        key: _read_value(value, key, name)
        for key, value in _twin(field).items()
        if key not in (":type:", ":serialized:", "device")
    }


def _read_value(value: Any, key: str, name: str) -> Any:
    """A keyword argument from its JSON value, or from the text that stands for what JSON cannot hold."""
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
            f"{name}: its policy_kwargs hold {key}={value}, which cannot be rebuilt without unpickling it. "
            "Load it with trust=True if you trust where the file comes from."
        ) from None


def _import_class(path: str, name: str) -> type:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(f'{name} needs {error.name}: pip install "sb3-prefine[contrib]".') from error
    if not isinstance(found, type):
        raise ValueError(f"{name} names {path}, which is not a class of the installed version.")
    return found


def _schedule(value: Any) -> Any:
    """RL Zoo writes a number, or "lin_0.1" for a linear decay to zero."""
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return float(value)
