"""Install the packages that no resolver can install beside Stable-Baselines3 2.9."""

import importlib
import importlib.metadata
import subprocess
import sys

from sb3_prefine.envs.compat import SIMULATOR_PACKAGES

_VERSIONS = {name: package.version for name, package in SIMULATOR_PACKAGES.items()} | {"dsrl": "0.1.0"}


def install_safety_packages() -> None:
    """
    Install safety-gymnasium, bullet-safety-gym and dsrl with pip, without their pinned dependencies.

    The extras ``safety`` and ``bullet`` of sb3-prefine install what they import. A package that is already installed
    in the right version is not changed. pip's output is shown.

    :raises RuntimeError: If pip fails.
    """
    installed = installed_packages()
    missing = [f"{name}=={version}" for name, version in _VERSIONS.items() if installed[name] != version]
    if not missing:
        return
    result = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", *missing], check=False)
    if result.returncode != 0:
        packages = " ".join(missing)
        raise RuntimeError(
            f"pip failed with exit code {result.returncode}; its output is above. If this environment has no pip (uv "
            f"creates such environments), run: uv pip install --python {sys.executable} --no-deps {packages}"
        )
    importlib.invalidate_caches()


def installed_packages() -> dict[str, str | None]:
    """The installed version of each of the three packages, or None. Imports none of them."""
    return {name: _version(name) for name in _VERSIONS}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
