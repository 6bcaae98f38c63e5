"""The command line itself: help, errors, warnings and exit codes. The other files here test what the commands do."""

import dataclasses
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from sb3_prefine.cli.main import COMMANDS, main
from sb3_prefine.envs import env_ids

# --help must not wait for these.
HEAVY_MODULES = {"torch", "stable_baselines3", "gymnasium", "numpy", "h5py", "matplotlib", "rich"}


def run(*arguments: str, python_options: tuple[str, ...] = (), **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python_options, "-m", "sb3_prefine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process. Returns the output and the exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sb3-prefine", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return capsys.readouterr(), stop.value.code

    return call


# Help


def test_help_lists_all_commands():
    result = run("--help")
    assert result.returncode == 0
    assert "usage: sb3-prefine" in result.stdout
    for name in ("demo", "collect", "split", "train", "evaluate", "compare", "info", "envs"):
        assert f"• {name} " in result.stdout
    assert len(result.stdout.splitlines()) < 40


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_describes_all_options(call, command):
    printed, code = call(command, "--help")
    assert code == 0
    assert f"usage: sb3-prefine {command}" in printed.out
    shown = " ".join(printed.out.replace("│", " ").replace("|", " ").split())
    for name, text in described_options(COMMANDS[command]):
        assert text, f"{name} has no description"
        assert text in shown, f"the description of {name} is not shown"


def described_options(function):
    """The name and the description of each option, including those in dataclasses."""
    texts = dict(re.findall(r":param (\w+): (.*?)(?=\n\s*:param |\Z)", function.__doc__, flags=re.DOTALL))
    for name, kind in get_type_hints(function, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from described_options(kind)
        elif name != "return":
            from_annotation = [help for value in get_args(kind)[1:] if (help := getattr(value, "help", None))]
            yield name, " ".join((from_annotation or [texts.get(name, "")])[0].split())


@pytest.mark.parametrize("command", ["collect", "split", "train", "evaluate", "compare", "info"])
def test_help_has_an_example(call, command):
    assert f"\n  sb3-prefine {command} " in call(command, "--help")[0].out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_no_heavy_module(command):
    arguments = ["--help"] if command is None else [command, "--help"]
    result = run(*arguments, python_options=("-X", "importtime"))
    assert result.returncode == 0
    imported = set(re.findall(r"^import time: .* \| +(\w+)$", result.stderr, flags=re.MULTILINE))
    assert "tyro" in imported
    assert imported & HEAVY_MODULES == set()


# Commands


def test_envs_lists_all_environments_with_their_packages():
    result = run("envs")
    assert result.returncode == 0
    assert "safety-gymnasium 1.0.0" in result.stdout
    for env_id in env_ids():
        assert env_id in result.stdout


def test_envs_does_not_install_installed_packages(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs", "--install"])
    main()
    out = capfd.readouterr().out  # includes the output of pip's process
    assert "safety-gymnasium 1.0.0" in out
    assert "Successfully installed" not in out


# Errors and warnings


def test_error_is_one_line_without_a_traceback(call, tmp_path):
    _, code = call("demo", "--episodes", "0", "--out", str(tmp_path / "out"))
    assert re.fullmatch(r"sb3-prefine: error: n_episodes: .*0.*", code)


def test_error_goes_to_stderr_with_exit_code_1():
    result = run("info", "nowhere.hdf5")
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"sb3-prefine: error: nowhere\.hdf5: .*\n", result.stderr)


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        ("raise ImportError('libtorch is\\nmissing')", 1, "sb3-prefine: error: libtorch is missing\n"),
        ("raise KeyboardInterrupt", 130, "sb3-prefine: interrupted\n"),
    ],
)
def test_import_that_fails_in_a_command_is_one_line(tmp_path, statement, code, message):
    (tmp_path / "torch.py").write_text(statement)
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    result = run("info", "model.zip", cwd=tmp_path, env={"PYTHONPATH": path})
    assert result.stderr == message
    assert result.returncode == code


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], [], ["demo", "--frobnicate"], ["demo", "--steps", "many"], ["evaluate", "only.zip"]]
)
def test_wrong_usage_exits_with_2(call, arguments):
    printed, code = call(*arguments)
    assert code == 2
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("error", [ValueError, RuntimeError, FloatingPointError, ImportError, FileNotFoundError])
def test_long_error_message_is_one_line(call, monkeypatch, error):
    def fail() -> None:
        raise error("first line\n   second line")

    monkeypatch.setitem(COMMANDS, "envs", fail)
    assert call("envs")[1] == "sb3-prefine: error: first line second line"


def test_bug_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise AssertionError("a bug")

    monkeypatch.setitem(COMMANDS, "envs", fail)
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs"])
    with pytest.raises(AssertionError, match="a bug"):
        main()


def test_ctrl_c_exits_with_130_and_one_line(call, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "envs", interrupt)
    printed, code = call("envs")
    assert code == 130
    assert printed.err == "sb3-prefine: interrupted\n"


def test_warning_is_one_line_and_showwarning_is_restored(monkeypatch, capsys):
    def warn() -> None:
        warnings.warn("look\nhere", stacklevel=1)

    monkeypatch.setitem(COMMANDS, "envs", warn)
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs"])
    before = warnings.showwarning
    main()
    assert warnings.showwarning is before
    assert capsys.readouterr().err == "sb3-prefine: warning: look here\n"
