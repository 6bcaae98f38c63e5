"""The command line itself: what it lists, and how it ends. What each command does is tested in tests/commands."""

import dataclasses
import re
import subprocess
import sys
import warnings
from typing import get_type_hints

import pytest

import sb3_prefine.cli
from sb3_prefine.cli.main import COMMANDS, main
from sb3_prefine.envs import env_ids


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sb3_prefine", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line in this process: what was printed, and the exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sb3-prefine", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return capsys.readouterr(), stop.value.code

    return call


def test_help_names_every_command_in_a_line():
    result = run("--help")
    assert result.returncode == 0
    assert "usage: sb3-prefine" in result.stdout
    for name in ("demo", "collect", "split", "train", "evaluate", "compare", "info", "envs"):
        assert f"• {name} " in result.stdout
    assert len(result.stdout.splitlines()) < 40


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(call, command):
    printed, code = call(command, "--help")
    assert code == 0
    assert f"usage: sb3-prefine {command}" in printed.out
    words = " ".join(printed.out.replace("│", " ").replace("|", " ").split())
    for name, text in documented(COMMANDS[command]):
        assert text, f"{name} has no help"
        assert text in words, f"the help of {name} is not shown"


def documented(function):
    """Each option's name and the text of its ``:param name:``, those of dataclasses included."""
    texts = dict(re.findall(r":param (\w+): (.*?)(?=\n\s*:param |\Z)", function.__doc__, flags=re.DOTALL))
    for name, kind in get_type_hints(function).items():
        if dataclasses.is_dataclass(kind):
            yield from documented(kind)
        elif name != "return":
            yield name, " ".join(texts.get(name, "").split())


@pytest.mark.parametrize("command", ["collect", "split", "train", "evaluate", "compare", "info"])
def test_help_has_an_example(call, command):
    assert f"\n  sb3-prefine {command} " in call(command, "--help")[0].out


def test_help_imports_no_framework():
    """What takes seconds, a command imports when it runs; the package itself is imported by every run."""
    script = (
        "import sys, types\n"
        "package = types.ModuleType('sb3_prefine'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['sb3_prefine'] = package\n"
        "from sb3_prefine.cli import main\n"
        "for command in ([], *([name] for name in sys.argv[2:])):\n"
        "    sys.argv = ['sb3-prefine', *command, '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "print([name for name in ('torch', 'stable_baselines3', 'gymnasium', 'h5py', 'matplotlib', 'rich') "
        "if name in sys.modules])\n"
    )
    folder = sb3_prefine.cli.__file__.rpartition("/cli/")[0]
    result = subprocess.run(
        [sys.executable, "-c", script, folder, *COMMANDS], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_envs_lists_every_environment_and_where_it_comes_from():
    result = run("envs")
    assert result.returncode == 0
    assert "safety-gymnasium 1.0.0" in result.stdout
    for env_id in env_ids():
        assert env_id in result.stdout


def test_installing_what_is_there_does_nothing(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs", "--install"])
    main()
    out = capfd.readouterr().out  # of pip's process too
    assert "safety-gymnasium 1.0.0" in out
    assert "Successfully installed" not in out


def test_an_error_is_one_line_without_a_traceback(call, tmp_path):
    _, code = call("demo", "--episodes", "0", "--out", str(tmp_path / "out"))
    assert code.startswith("sb3-prefine: error: n_episodes: 0 is not positive")
    assert "\n" not in code


def test_an_error_of_a_process_goes_to_stderr_with_exit_code_1():
    result = run("info", "nowhere.hdf5")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "sb3-prefine: error: nowhere.hdf5: there is no such file.\n"


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], [], ["demo", "--frobnicate"], ["demo", "--steps", "many"], ["evaluate", "only.zip"]]
)
def test_a_wrong_usage_is_2(call, arguments):
    printed, code = call(*arguments)
    assert code == 2
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("error", [ValueError, RuntimeError, FloatingPointError, ImportError, FileNotFoundError])
def test_what_a_user_can_mend_is_one_line_however_long_the_message(call, monkeypatch, error):
    def fail() -> None:
        raise error("first line\n   second line")

    monkeypatch.setitem(COMMANDS, "envs", fail)
    assert call("envs")[1] == "sb3-prefine: error: first line second line"


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise AssertionError("a bug")

    monkeypatch.setitem(COMMANDS, "envs", fail)
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs"])
    with pytest.raises(AssertionError, match="a bug"):
        main()


def test_ctrl_c_is_130_and_one_line(call, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "envs", interrupted)
    printed, code = call("envs")
    assert code == 130
    assert printed.err == "sb3-prefine: interrupted\n"


def test_a_warning_is_one_line_and_warnings_are_as_before_afterwards(monkeypatch, capsys):
    def warn() -> None:
        warnings.warn("look\nhere", stacklevel=1)

    monkeypatch.setitem(COMMANDS, "envs", warn)
    monkeypatch.setattr(sys, "argv", ["sb3-prefine", "envs"])
    before = warnings.showwarning
    main()
    assert warnings.showwarning is before
    assert capsys.readouterr().err == "sb3-prefine: warning: look here\n"
