"""Tables of returns and costs for the terminal."""

import math
import sys
from collections.abc import Iterable, Sequence

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.evaluation.evaluate import Evaluation

# Table width when stdout is not a terminal, in columns. Rich would cut tables at 80.
_PIPE_WIDTH = 200


def results_table(
    policies: Sequence[tuple[str, Evaluation]], cost_limit: float, data: Sequence[tuple[str, Trajectories]] = ()
) -> Table:
    """
    Mean return and cost with their 95% intervals, the share of episodes over the limit, and the mean cost of the worst
    tenth of the episodes.

    :param policies: Name and evaluation of each policy, one row each.
    :param cost_limit: Highest cost of a safe episode.
    :param data: Name and episodes of each dataset, in rows above the policies. They have no intervals, because the
        episodes of a dataset are selected, not drawn.
    :return: The table.
    """
    chosen = [(name, _as_evaluation(episodes), False) for name, episodes in data]
    # One episode tells nothing about the spread.
    measured = [(name, evaluation, len(evaluation) > 1) for name, evaluation in policies]
    return text_table(
        ("", "reward", "[95%]", "cost", "[95%]", f"over {cost_limit:g}", "worst 10%"),
        [
            (
                name,
                _number(evaluation.mean_reward, 0),
                _interval(*evaluation.reward_interval, 0) if with_intervals else "",
                _number(evaluation.mean_cost, 1),
                _interval(*evaluation.cost_interval, 1) if with_intervals else "",
                _share(evaluation.violation_rate(cost_limit)),
                _number(evaluation.cvar_cost(), 1),
            )
            for name, evaluation, with_intervals in chosen + measured
        ],
    )


def data_table(sets: Sequence[tuple[str, Trajectories]], cost_limit: float | None = None) -> Table:
    """
    Number, returns and costs of the episodes of datasets.

    :param sets: Name and episodes of each dataset, one row each.
    :param cost_limit: Highest cost of a safe episode, or None to leave out the share of episodes over it.
    :return: The table.
    """
    limits = [] if cost_limit is None else [cost_limit]
    over = [f"over {limit:g}" for limit in limits]
    return text_table(
        ("", "episodes", "return", "[lowest, highest]", "cost", "[lowest, highest]", *over),
        [
            (
                name,
                f"{len(episodes):,}",
                _number(episodes.episode_returns.mean(), 1),
                _interval(episodes.episode_returns.min(), episodes.episode_returns.max(), 1),
                _number(episodes.episode_costs.mean(), 1),
                _interval(episodes.episode_costs.min(), episodes.episode_costs.max(), 1),
                *(_share(_as_evaluation(episodes).violation_rate(limit)) for limit in limits),
            )
            for name, episodes in sets
        ],
    )


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]], n_texts: int = 1) -> Table:
    """
    A table of plain text. Square brackets in a file name are not read as rich's markup.

    :param headers: Header of each column.
    :param rows: Rows of at most one cell per column.
    :param n_texts: Number of columns, from the left, whose text may wrap. The others hold numbers.
    :return: The table.
    """
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, header in enumerate(headers):
        if index < n_texts:
            table.add_column(Text(header), overflow="fold")
        else:
            table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_table(table: Table) -> None:
    """Print a table at the width of the terminal, or at full width into a pipe or a file."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def _as_evaluation(episodes: Trajectories) -> Evaluation:
    return Evaluation(episodes.episode_returns, episodes.episode_costs, episodes.episode_lengths)


def _number(value: float, decimals: int) -> str:
    return "unknown" if math.isnan(value) else f"{value:,.{decimals}f}"


def _interval(low: float, high: float, decimals: int) -> str:
    return "" if math.isnan(low) else f"{low:,.{decimals}f}, {high:,.{decimals}f}"


def _share(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.0%}"
