"""The command line, as a process."""

import subprocess
import sys

import pytest

from sb3_prefine.cli import main
from sb3_prefine.envs import env_ids


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sb3_prefine", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_the_commands():
    result = run("--help")
    assert result.returncode == 0
    for word in ("demo", "envs", "usage: sb3-prefine"):
        assert word in result.stdout


@pytest.mark.parametrize("command", ["demo", "envs"])
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert "--" in result.stdout


def test_envs_lists_every_environment_and_where_it_comes_from():
    result = run("envs")
    assert result.returncode == 0
    assert "safety-gymnasium 1.0.0" in result.stdout
    for env_id in env_ids():
        assert env_id in result.stdout


def test_installing_what_is_there_does_nothing():
    result = run("envs", "--install")
    assert result.returncode == 0
    assert "Successfully installed" not in result.stdout


def test_an_error_is_one_line_without_a_traceback(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "demo", "--episodes", "0", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as error:
        main()
    assert str(error.value.code).startswith("sb3-prefine: error: n_episodes: 0 is not positive")
    assert "\n" not in str(error.value.code)


def test_an_unknown_command_is_refused():
    assert run("frobnicate").returncode == 2
