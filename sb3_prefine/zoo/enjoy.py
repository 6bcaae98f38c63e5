"""
``python -m sb3_prefine.zoo.enjoy --algo prefine --env ID -f logs``: RL Zoo's ``enjoy`` with PREFINE.

All options are RL Zoo's: ``--load-best`` shows the best safe model, and ``--no-render`` only prints the returns.
"""

from rl_zoo3.enjoy import enjoy


def main() -> None:
    """Run RL Zoo's ``enjoy`` on the arguments of the command line."""
    enjoy()


if __name__ == "__main__":
    main()
