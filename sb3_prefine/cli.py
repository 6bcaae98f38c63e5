"""The command line: ``sb3-prefine demo | envs``."""

import sys
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import tyro
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Run the command line. An error that its user can mend is one line on stderr and exit code 1."""
    try:
        tyro.extras.subcommand_cli_from_dict({"demo": demo, "envs": envs}, prog="sb3-prefine", description=__doc__)
    except (ImportError, OSError, RuntimeError, ValueError, gym.error.Error) as error:
        sys.exit(f"sb3-prefine: error: {error}")


def demo(
    out: Path = Path("runs/demo"),
    steps: Annotated[int, tyro.conf.arg(help="gradient steps")] = 3_000,
    episodes: Annotated[int, tyro.conf.arg(help="evaluation episodes, before and after")] = 20,
    seed: int = 0,
) -> None:
    """
    See a policy that runs too fast become safe, in a minute.

    A HalfCheetah that PPO trained earns its reward and breaks a speed limit. Five of its own episodes are called bad,
    and a few episodes of slower gaits good: PREFINE learns from them, without touching the environment. Everything
    that is needed came with the package.

    :param out: the folder for the fine-tuned zip and the picture
    """
    from sb3_prefine.demo import run_demo

    run_demo(out, steps, episodes, seed)


def envs(install: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> None:
    """
    List the Safety* environments, or install the packages they come from.

    safety-gymnasium, bullet-safety-gym and dsrl pin versions that cannot be installed beside Stable-Baselines3 2.9.
    Here they are installed without their pins, and made to work.

    :param install: install the packages first
    """
    from sb3_prefine.envs import CATALOGUE
    from sb3_prefine.envs.install import install_safety_packages, installed_packages

    if install:
        install_safety_packages()
    console = Console()
    for package, version in installed_packages().items():
        console.print(f"{package} {version or 'not installed: sb3-prefine envs --install'}", highlight=False)
    table = Table("environment", "package", "obs.", "act.", "horizon")
    table.columns[0].no_wrap = True
    for env in CATALOGUE:
        sizes = (env.observation_size, env.action_size, env.max_episode_steps)
        table.add_row(env.id, env.package, *(str(size) for size in sizes))
    console.print(table)
