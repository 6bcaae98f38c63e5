"""Install the packages that no resolver puts beside Stable-Baselines3 2.9."""

import importlib
import importlib.metadata
import subprocess
import sys

from sb3_prefine.envs.compat import SIMULATOR_PACKAGES

_VERSIONS = {name: package.version for name, package in SIMULATOR_PACKAGES.items()} | {"dsrl": "0.1.0"}


def install_safety_packages() -> None:
    """
    Install safety-gymnasium, bullet-safety-gym and dsrl with pip, without the old versions that they ask for.

    What they import comes with sb3-prefine's extras ``safety`` and ``bullet``. A package that is there in the right
    version is left alone. pip's output is shown.

    :raises RuntimeError: if pip fails
    """
    installed = installed_packages()
    missing = [f"{name}=={version}" for name, version in _VERSIONS.items() if installed[name] != version]
    if not missing:
        return
    result = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", *missing], check=False)
    if result.returncode != 0:
        packages = " ".join(missing)
        raise RuntimeError(
            f"pip failed with exit code {result.returncode}; what it says is above. Without pip in this environment "
            f"(uv makes such), run: uv pip install --python {sys.executable} --no-deps {packages}"
        )
    importlib.invalidate_caches()


def installed_packages() -> dict[str, str | None]:
    """The version of each of the three packages, None where it is missing. None of them is imported."""
    return {name: _version(name) for name in _VERSIONS}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
