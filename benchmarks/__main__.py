"""The entry point of all benchmark commands: ``python -m benchmarks VERB``."""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import tyro

# Each verb imports its own module only when it is chosen: importing torch, Ray, UMAP and the simulators takes seconds.


def generate() -> ModuleType:
    """Generate data in DSRL's layout: train agents, and roll them out."""
    from benchmarks.datasets import generate

    return generate


def run() -> ModuleType:
    """Train and evaluate methods on a grid of tasks, data and seeds."""
    from benchmarks.runs import run

    return run


def tune() -> ModuleType:
    """Choose β and λ on held-out preferences, with Optuna."""
    from benchmarks.runs import tune

    return tune


def cost_gap() -> ModuleType:
    """Measure the gap between the costs of the policy's own actions and of the data (Fig. 2)."""
    from benchmarks.analyses import cost_gap

    return cost_gap


def overlap() -> ModuleType:
    """Measure how much the states of the preferred and dispreferred episodes overlap (Fig. 13)."""
    from benchmarks.analyses import overlap

    return overlap


def layout_luck() -> ModuleType:
    """Measure how much of a safe episode is luck with the layout, in the Goal tasks."""
    from benchmarks.analyses import layout_luck

    return layout_luck


def standing_still() -> ModuleType:
    """Measure how often robots stand still, in the Goal tasks."""
    from benchmarks.analyses import standing_still

    return standing_still


def data_distance() -> ModuleType:
    """Measure how far the preferred episodes are from the reference policy."""
    from benchmarks.analyses import data_distance

    return data_distance


def report() -> ModuleType:
    """Write README.md, benchmark.md and their figures from the records."""
    from benchmarks.report import tables_page

    return tables_page


def preferences_page() -> ModuleType:
    """Write when_preferences_help.md and its figures from the records."""
    from benchmarks.report import preferences_page

    return preferences_page


def data_page() -> ModuleType:
    """Write data.md and its figure from the records."""
    from benchmarks.report import data_page

    return data_page


def figures() -> ModuleType:
    """Draw one figure of README.md, or list all of them."""
    from benchmarks.report import figures

    return figures


def speed() -> ModuleType:
    """Measure the speed of training and of rollouts."""
    from benchmarks.speed import measure

    return measure


def speed_page() -> ModuleType:
    """Write speed.md and its figure from the records."""
    from benchmarks.speed import page

    return page


_VERBS: dict[str, Callable[[], ModuleType]] = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        generate,
        run,
        tune,
        cost_gap,
        overlap,
        layout_luck,
        standing_still,
        data_distance,
        report,
        preferences_page,
        data_page,
        figures,
        speed,
        speed_page,
    )
}


def main(args: Sequence[str]) -> int:
    """
    Run one verb.

    :param args: The command line: the verb, followed by the verb's own arguments.
    :return: The exit code.
    """
    verb, *others = args or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
        return 0
    if verb not in _VERBS:
        print(f"verb: found {verb!r}. Choose one of {', '.join(_VERBS)}.", file=sys.stderr)
        return 2
    module, prog = _VERBS[verb](), f"python -m benchmarks {verb}"
    if hasattr(module, "COMMANDS"):
        tyro.extras.subcommand_cli_from_dict(module.COMMANDS, prog=prog, description=module.__doc__, args=others)
        return 0
    n_failed = tyro.cli(module.main, prog=prog, description=module.__doc__, args=others)
    return min(1, n_failed or 0)


def usage() -> str:
    """List the verbs, with one sentence about each."""
    width = max(map(len, _VERBS))
    lines = [f"  {name:{width}}  {verb.__doc__}" for name, verb in _VERBS.items()]
    return "\n".join(
        ["usage: python -m benchmarks VERB ...", "", *lines, "", "python -m benchmarks VERB --help lists its options."]
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
