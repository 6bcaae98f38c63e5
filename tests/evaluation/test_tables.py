import numpy as np
import pytest
from rich.console import Console

from sb3_prefine import Evaluation, Trajectories
from sb3_prefine.evaluation.tables import data_table, print_table, results_table, text_table
from tests.worlds import trajectories


def lines(table, width=200):
    """The cells of a table, without its frame."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return [line.strip() for line in capture.get().splitlines() if line.strip(" ─")]


def costing(costs):
    """One episode of two steps for each cost; the return is twice the cost."""
    n = 2 * len(costs)
    rows = np.zeros((n, 3), np.float32)
    ends = np.arange(n) % 2 == 1
    column = np.repeat(np.asarray(costs, np.float32) / 2, 2)
    rewards = np.nan_to_num(column) * 2
    return Trajectories(rows, rows, rows, rewards, column, np.zeros(n, bool), ends)


def evaluation(costs, rewards=None):
    costs = np.asarray(costs, dtype=float)
    return Evaluation(costs if rewards is None else np.asarray(rewards, dtype=float), costs, np.ones(len(costs)))


def test_a_row_of_results_matches_a_hand_calculation():
    measured = evaluation([10, 20, 30, 40], [1000, 2000, 3000, 4000])
    header, row = lines(results_table([("mine", measured)], 25))
    assert header.split() == ["reward", "[95%]", "cost", "[95%]", "over", "25", "worst", "10%"]
    low, high = measured.reward_interval
    assert row.startswith(f"mine   2,500  {low:,.0f}, {high:,.0f}")
    assert row.split()[-2:] == ["50%", "40.0"]  # two of four are over 25; one is the worst tenth


def test_an_episode_at_the_limit_is_not_over_it():
    assert lines(results_table([("mine", evaluation([25, 26]))], 25))[1].split()[-2] == "50%"


def test_datasets_come_first_and_have_no_interval():
    _, data, policy = lines(results_table([("policy", evaluation([1, 2]))], 2, [("data", costing([1, 2, 3, 4]))]))
    assert data.split() == ["data", "5", "2.5", "50%", "4.0"]
    assert policy.split()[0] == "policy"


def test_one_episode_has_no_interval():
    assert lines(results_table([("one", evaluation([3]))], 2))[1].split() == ["one", "3", "3.0", "100%", "3.0"]


def test_unknown_costs_are_shown_as_unknown():
    row = lines(results_table([("mine", evaluation([np.nan, np.nan], [1, 1]))], 25))[1]
    assert row.split() == ["mine", "1", "1,", "1", "unknown", "unknown", "unknown"]
    row = lines(data_table([("mine", costing([np.nan, 1]))], 25))[1]
    assert row.split() == ["mine", "2", "1.0", "0.0,", "2.0", "unknown", "unknown"]


def test_a_row_of_data_matches_a_hand_calculation():
    header, row = lines(data_table([("mine", costing([0, 10, 50]))], 10))
    assert "over 10" in header
    assert row.split() == ["mine", "3", "40.0", "0.0,", "100.0", "20.0", "0.0,", "50.0", "33%"]


def test_without_a_limit_there_is_no_share_column():
    assert "over" not in lines(data_table([("mine", trajectories([0.0, 1.0, 0.0]))]))[0]


def test_names_are_plain_text_and_never_cut():
    name = "[bold]" + 30 * "long" + "[/nothing]"
    assert name in lines(text_table(("", "number"), [(name, "1")]))[1]
    narrow = lines(text_table(("", "number"), [(name, "1234567890")]), width=60)
    assert "1234567890" in narrow[1]
    assert "…" not in "".join(narrow)


@pytest.mark.parametrize("width", [81, 150])
def test_a_pipe_receives_the_whole_table(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(text_table(("", "number"), [("name", "9" * width)]))
    assert "9" * width in capsys.readouterr().out
