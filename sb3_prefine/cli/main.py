"""Make a policy you already trained safe, from the command line."""

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TextIO, Union

import tyro

from sb3_prefine.cli.collect import collect
from sb3_prefine.cli.compare import compare
from sb3_prefine.cli.demo import demo
from sb3_prefine.cli.envs import envs
from sb3_prefine.cli.evaluate import evaluate
from sb3_prefine.cli.info import info
from sb3_prefine.cli.split import split
from sb3_prefine.cli.train import train

# In the order in which a user needs them.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "collect": collect,
    "split": split,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "info": info,
    "envs": envs,
}

INTERRUPTED = 130  # what a shell reports for Ctrl-C: 128 + SIGINT

# What the package raises for wrong input. _is_user_error adds gymnasium's errors.
_USER_ERRORS = (FloatingPointError, ImportError, OSError, RuntimeError, ValueError)


def main() -> None:
    """
    Run the command line.

    Exit codes: 0; 1 for an error that the user can fix, with one line on stderr; 2 for wrong usage; 130 for Ctrl-C.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            tyro.cli(
                _command_choice(full_descriptions=any(argument in COMMANDS for argument in sys.argv[1:2])),
                prog="sb3-prefine",
                description=f"{__doc__} `sb3-prefine COMMAND --help` shows the options and examples.",
                config=(
                    tyro.conf.DisallowNone,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
        except KeyboardInterrupt:
            print("sb3-prefine: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if not _is_user_error(error):
                raise
            sys.exit(f"sb3-prefine: error: {_one_line(error)}")


def _command_choice(full_descriptions: bool) -> Any:
    """The union of all commands, from which tyro chooses one. The list of commands describes each in one line."""
    return Union[  # noqa: UP007 (its members are computed)
        tuple(
            Annotated[
                Any,
                tyro.conf.subcommand(
                    name, constructor=command, description=None if full_descriptions else _summary(command)
                ),
            ]
            for name, command in COMMANDS.items()
        )
    ]


def _summary(command: Callable[..., None]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _is_user_error(error: Exception) -> bool:
    # Importing gymnasium takes time, and only what has imported it can raise its errors.
    gymnasium = sys.modules.get("gymnasium")
    return isinstance(error, _USER_ERRORS) or (gymnasium is not None and isinstance(error, gymnasium.error.Error))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Without file and line, which are in this package: what the user can fix is in the arguments.
    print(f"sb3-prefine: warning: {_one_line(message)}", file=file or sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
