"""``python -m benchmarks VERB``: one way into everything that this folder does."""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import tyro

# Each verb imports its module itself: what one needs (torch, Ray, UMAP, simulators) takes the others seconds.


def generate() -> ModuleType:
    """Make the generated data: train its agents, and roll them out."""
    from benchmarks.datasets import generate

    return generate


def run() -> ModuleType:
    """Train and evaluate a grid of tasks, methods, choices of data and seeds."""
    from benchmarks.runs import run

    return run


def tune() -> ModuleType:
    """Choose β and λ on held-out preferences, with Optuna."""
    from benchmarks.runs import tune

    return tune


def cost_gap() -> ModuleType:
    """Measure how the cost of the policy's own actions departs from the data's (Fig. 2)."""
    from benchmarks.analyses import cost_gap

    return cost_gap


def overlap() -> ModuleType:
    """Measure how much the states of both sets overlap (Fig. 13)."""
    from benchmarks.analyses import overlap

    return overlap


def layout_luck() -> ModuleType:
    """Measure how much of a safe episode is luck with its layout, in the Goal tasks."""
    from benchmarks.analyses import layout_luck

    return layout_luck


def standing_still() -> ModuleType:
    """Measure how often clones come to a halt, in the Goal tasks."""
    from benchmarks.analyses import standing_still

    return standing_still


def data_distance() -> ModuleType:
    """Measure how far the preferred episodes are from the reference."""
    from benchmarks.analyses import data_distance

    return data_distance


def report() -> ModuleType:
    """Write README.md and benchmark.md, with their figures, from the records."""
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
    """Draw a single figure of README.md, or list them."""
    from benchmarks.report import figures

    return figures


def speed() -> ModuleType:
    """Measure how fast PREFINE is."""
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

    :param args: Arguments of the command line: the verb, then its own.
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
    """The verbs, with a sentence each."""
    width = max(map(len, _VERBS))
    lines = [f"  {name:{width}}  {verb.__doc__}" for name, verb in _VERBS.items()]
    return "\n".join(
        ["usage: python -m benchmarks VERB ...", "", *lines, "", "python -m benchmarks VERB --help lists its options."]
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
