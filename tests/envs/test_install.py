import importlib.metadata
import subprocess
import sys

import pytest

from sb3_prefine.envs import install

VERSIONS = {"safety-gymnasium": "1.0.0", "bullet-safety-gym": "1.4.0", "dsrl": "0.1.0"}


@pytest.fixture
def commands(monkeypatch):
    """The commands that would run, instead of running them; they end with the code that the test sets."""

    class Commands(list):
        exit_code = 0

        def run(self, command, **options):
            self.append(command)
            return subprocess.CompletedProcess(command, self.exit_code)

    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands.run)
    return commands


def have(monkeypatch, versions):
    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_versions_that_are_installed():
    """The test environment has all three."""
    assert install.installed_packages() == VERSIONS


def test_nothing_is_installed_if_all_packages_are_installed(commands):
    install.install_safety_packages()
    assert commands == []


def test_missing_packages_are_installed_without_dependencies(commands, monkeypatch):
    have(monkeypatch, {"safety-gymnasium": "0.4.0", "dsrl": "0.1.0"})
    assert install.installed_packages() == {"safety-gymnasium": "0.4.0", "bullet-safety-gym": None, "dsrl": "0.1.0"}
    install.install_safety_packages()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps"]
    assert commands == [[*pip, "safety-gymnasium==1.0.0", "bullet-safety-gym==1.4.0"]]


def test_a_failing_pip_is_an_error_with_advice(commands, monkeypatch):
    have(monkeypatch, {})
    commands.exit_code = 3
    with pytest.raises(RuntimeError, match=r"exit code 3.*uv pip install .* --no-deps safety-gymnasium==1\.0\.0"):
        install.install_safety_packages()
