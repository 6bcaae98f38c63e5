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

# In the order in which somebody needs them.
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


def main() -> None:
    """
    Run the command line.

    Exit codes: 0; 1 for an error that its user can mend, one line on stderr; 2 for a wrong usage; 130 for Ctrl-C.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            tyro.cli(
                _choice(in_full=any(argument in COMMANDS for argument in sys.argv[1:2])),
                prog="sb3-prefine",
                description=f"{__doc__} `sb3-prefine COMMAND --help` has the options and examples.",
                config=(
                    tyro.conf.DisallowNone,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
        except SystemExit:
            raise  # tyro's, after --help or a wrong usage: not to be held against the errors below, which takes time
        except KeyboardInterrupt:
            print("sb3-prefine: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except _mendable() as error:
            sys.exit(f"sb3-prefine: error: {_one_line(error)}")


def _choice(in_full: bool) -> Any:
    """The commands as the union that tyro chooses from; in a list of them each is described in one line."""
    return Union[  # noqa: UP007 (it is computed)
        tuple(
            Annotated[
                Any,
                tyro.conf.subcommand(name, constructor=command, description=None if in_full else _summary(command)),
            ]
            for name, command in COMMANDS.items()
        )
    ]


def _summary(command: Callable[..., None]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _mendable() -> tuple[type[Exception], ...]:
    """What the package raises for a wrong input. Looked up when there was an error: importing gymnasium takes time."""
    from gymnasium.error import Error

    return (FloatingPointError, ImportError, OSError, RuntimeError, ValueError, Error)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Not the file and the line: they are of the package, and what can be mended is in the arguments.
    print(f"sb3-prefine: warning: {_one_line(message)}", file=file or sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
