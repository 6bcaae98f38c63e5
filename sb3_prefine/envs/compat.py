"""
What lets two packages of 2023 be imported beside current gymnasium, NumPy and Python.

Safety-Gymnasium 1.0.0 has NumPy arrays as defaults of dataclass fields, which Python 3.11 refuses, and imports modules
that gymnasium 1.0 removed. Both are given to it while it is imported, and taken away after that.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.wrappers.utils import RunningMeanStd


@dataclasses.dataclass(frozen=True)
class SimulatorPackage:
    """
    A package that cannot be installed with the versions it pins.

    :param module: what it is imported as
    :param version: the version that the environments are made for
    :param simulator: the module that simulates for it
    :param extra: the extra of sb3-prefine that brings the simulator and what else it imports
    """

    module: str
    version: str
    simulator: str
    extra: str


SIMULATOR_PACKAGES = {
    "safety-gymnasium": SimulatorPackage("safety_gymnasium", "1.0.0", "mujoco", "safety"),
    "bullet-safety-gym": SimulatorPackage("bullet_safety_gym", "1.4.0", "pybullet", "bullet"),
}


def require(name: str) -> None:
    """
    Make sure that a package is there, in the version the environments are made for, and import it.

    :param name: the package as pip writes it
    :raises ImportError: if it, or something it imports, is missing, or its version is another
    """
    package = SIMULATOR_PACKAGES[name]
    install = f"This environment needs {name} {package.version}. Run: sb3-prefine envs --install"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"{name} is not installed. {install}") from error
    if version != package.version:
        raise ImportError(f"{name} {version} is installed. {install}")
    missing = None
    if importlib.util.find_spec(package.simulator) is None:
        missing = package.simulator
    else:
        try:
            importlib.import_module(package.module)
        except ModuleNotFoundError as error:
            if error.name == package.module:
                raise ImportError(f"{name} cannot be imported. {install}") from error
            missing = error.name
    if missing is not None:
        raise ImportError(f'{name} needs {missing}. Run: pip install "sb3-prefine[{package.extra}]"')


def watch_imports(env_ids: Sequence[str]) -> None:
    """
    From now on, let both packages be imported by anybody, without losing these ids to their own registrations.

    :param env_ids: ids that keep what is registered for them now
    """
    if not any(isinstance(finder, _ImportWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatch(env_ids))


class _ImportWatch(MetaPathFinder):
    def __init__(self, env_ids: Sequence[str]):
        self._env_ids = env_ids

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the packages as usual, and surround the execution of their ``__init__``."""
        if fullname not in {package.module for package in SIMULATOR_PACKAGES.values()}:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            # The loader belongs to this one spec.
            spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                self._execute, spec.loader.exec_module
            )
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        with _registrations_kept(self._env_ids), _what_gymnasium_removed(), _array_defaults_in("safety_gymnasium"):
            execute(module)


@contextlib.contextmanager
def _registrations_kept(env_ids: Sequence[str]) -> Iterator[None]:
    registry = gymnasium.registry
    # Taken out for the time, so that gymnasium has nothing to warn of.
    kept = {env_id: registry.pop(env_id) for env_id in env_ids if env_id in registry}
    try:
        yield
    finally:
        registry.update(kept)


class _Removed:
    """Stands for a class that is imported and never used."""


# Where Safety-Gymnasium looks for what gymnasium has elsewhere now, or nowhere. Its multi-agent environments are not
# offered here, so gymnasium-robotics need not be installed.
_OLD_MODULES: dict[str, dict[str, type]] = {
    "gymnasium.wrappers.autoreset": {"AutoResetWrapper": wrappers.Autoreset},
    "gymnasium.wrappers.compatibility": {"EnvCompatibility": _Removed},
    "gymnasium.wrappers.env_checker": {"PassiveEnvChecker": wrappers.PassiveEnvChecker},
    "gymnasium.wrappers.normalize": {
        "NormalizeObservation": wrappers.NormalizeObservation,
        "NormalizeReward": wrappers.NormalizeReward,
        "RunningMeanStd": RunningMeanStd,
    },
    "gymnasium.wrappers.time_limit": {"TimeLimit": wrappers.TimeLimit},
    "gymnasium_robotics": {},
    "gymnasium_robotics.envs": {},
    "gymnasium_robotics.envs.multiagent_mujoco": {},
    "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi": {"MultiAgentMujocoEnv": _Removed},
}


@contextlib.contextmanager
def _what_gymnasium_removed() -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in _OLD_MODULES}
    for name, classes in _OLD_MODULES.items():
        module = ModuleType(name)
        vars(module).update(classes)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


@contextlib.contextmanager
def _array_defaults_in(package: str) -> Iterator[None]:
    """``dataclasses.dataclass`` takes an array as a default, in the classes of one package and for this time."""
    original: Any = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if cls.__module__.partition(".")[0] == package:
            for name in inspect.get_annotations(cls):
                default = cls.__dict__.get(name)
                if isinstance(default, np.ndarray):
                    setattr(cls, name, dataclasses.field(default_factory=default.copy))
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
