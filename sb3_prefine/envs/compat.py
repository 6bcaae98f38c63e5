"""
Make two packages of 2023 importable with current gymnasium, NumPy and Python.

Safety-Gymnasium 1.0.0 uses NumPy arrays as defaults of dataclass fields, which Python 3.11 refuses, and imports modules
that gymnasium 1.0 removed. While it is imported, an import hook allows the first and provides the second.
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
    A package whose pinned dependencies cannot be installed.

    :param module: Name under which it is imported.
    :param version: Version that the environments here are made for.
    :param simulator: Module of the simulator that it uses.
    :param extra: Extra of sb3-prefine that installs the simulator and its other dependencies.
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
    Import a package, in the version that the environments here are made for.

    :param name: Name of the package, as pip writes it.
    :raises ImportError: If the package or one of its dependencies is missing, or its version differs.
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
    Install the import hook: from now on any code can import both packages, and these ids keep their environments.

    :param env_ids: Ids that keep their current registration when a package registers its own.
    """
    if not any(isinstance(finder, _ImportHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportHook(env_ids))


class _ImportHook(MetaPathFinder):
    def __init__(self, env_ids: Sequence[str]):
        self._env_ids = env_ids

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the packages as usual, and run their ``__init__`` inside the context managers below."""
        if fullname not in {package.module for package in SIMULATOR_PACKAGES.values()}:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            # The loader belongs to this spec only.
            spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                self._execute, spec.loader.exec_module
            )
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        with _keep_registrations(self._env_ids), _provide_removed_modules(), _allow_array_defaults("safety_gymnasium"):
            execute(module)


@contextlib.contextmanager
def _keep_registrations(env_ids: Sequence[str]) -> Iterator[None]:
    registry = gymnasium.registry
    # Removed for the moment, so that gymnasium does not warn about replaced ids.
    kept = {env_id: registry.pop(env_id) for env_id in env_ids if env_id in registry}
    try:
        yield
    finally:
        registry.update(kept)


class _Removed:
    """Placeholder for a class that is imported and never used."""


# Modules that Safety-Gymnasium imports and gymnasium has moved or removed. Its multi-agent environments are not offered
# here, so gymnasium-robotics need not be installed.
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
def _provide_removed_modules() -> Iterator[None]:
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
def _allow_array_defaults(package: str) -> Iterator[None]:
    """Inside this context, ``dataclasses.dataclass`` accepts arrays as defaults in the classes of one package."""
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
