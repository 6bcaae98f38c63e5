"""What PREFINE reaches, by hand."""

import numpy as np
import pytest

from benchmarks.report.verdict import results_of, write_layouts, write_shortfalls, write_verdict
from tests.benchmarks.report.by_hand import LIMIT, PREFERRED_RETURN, cells_of, make_runs
from tests.benchmarks.runs.test_scores import normalised

REFERENCE = make_runs("reference", 850, 50)
PREFINE = make_runs("PREFINE", 405, 10)


def test_a_safe_result_by_hand():
    result = results_of([*REFERENCE, *PREFINE])["BallRun"]
    assert (result.cost.mean, result.reference_cost) == (10 / LIMIT, 50 / LIMIT)
    assert result.cut == pytest.approx(1 - 10 / 50)
    assert result.return_ratio == pytest.approx(405 / PREFERRED_RETURN)
    assert (result.better, result.shortfall) == ([], "")
    page = write_verdict([*REFERENCE, *PREFINE])
    assert page.startswith("PREFINE is safe on 1 of 1 tasks.")
    [cells] = cells_of(page, "BallRun")
    assert cells[:2] == ["yes: 0.50 [0.50, 0.50]", "80%"]
    # Table 1 has 0.41, of returns from 26.3398 to 1327.446; Table 3 has 275.8.
    theirs = (26.3398 + 0.41 * (1327.446 - 26.3398)) / 275.8
    assert cells[2] == f"{405 / PREFERRED_RETURN:.0%} (*{theirs:.0%}*)"
    assert cells_of(page, "CarRun") == [["not run", "", "", "", ""]]


def test_a_safe_reference_has_no_cost_to_cut():
    [cells] = cells_of(write_verdict([*make_runs("reference", 850, 15), *PREFINE]), "BallRun")
    assert cells[1] == "the reference is safe (0.75)"


def test_only_safe_rivals_with_more_reward_are_named():
    rivals = [*make_runs("SFT", 505, 10), *make_runs("DPO", 505, 30), *make_runs("BC", 305, 10)]
    [name] = results_of([*REFERENCE, *PREFINE, *rivals])["BallRun"].better
    assert name.startswith("SFT (+")
    low, high = (float(part) for part in name.removeprefix("SFT (").rstrip(")").split(" to "))
    assert low - 0.005 <= normalised(505) - normalised(405) <= high + 0.005
    assert not np.isclose(low, 0)


@pytest.mark.parametrize(
    ("before", "cost", "shortfall"),
    [
        (50, 21, "not safe"),
        (25, 15, "cost cut by 40% only"),
        (15, 14, ""),
        (60, 19.5, "close to the limit"),
        (60, 10, ""),
    ],
)
def test_shortfalls_by_hand(before, cost, shortfall):
    runs = [*make_runs("reference", 850, before), *make_runs("PREFINE", 405, cost), *make_runs("BC", 400, 30)]
    assert results_of(runs)["BallRun"].shortfall == shortfall
    page = write_shortfalls(runs)
    if shortfall:
        [cells] = cells_of(page, "BallRun")
        # The preferred episodes cost 18.
        assert cells == [shortfall, "0.90", f"{before / 20:.2f}", "1.50", "", "", f"{cost / 20:.2f}"]
        assert "less than 60%" in page
    else:
        assert page == "PREFINE reaches its goals on all tasks that it has run on."


def test_luck_with_layouts_by_hand():
    luck = {
        "preferred_cost": 10.0,
        "others_cost": {"mean": 25.1, "low": 20.2, "high": 30.3},
        "options": {"episodes": 100},
        "of_agent": {"costs": [0.0] * 20},
        "of_clone": {"costs": [39.0] * 20},
    }
    page = write_layouts([], {"CarGoal1": luck}, {})
    assert cells_of(page, "CarGoal1") == [["10", "25 [20, 30]", "0 [0, 0]", "39 [39, 39]"]]
    for part in ("is 2.5 in CarGoal1", "costs 0 in CarGoal1", "on 100 of", "costs 39 in CarGoal1"):
        assert part in " ".join(page.split())


def test_standing_robots_by_hand():
    shares = {"preferred": 0.0, "BC": 0.3, "PREFINE": 0.25}
    standing = {name: {"steps": 0.9, "episodes": share} for name, share in shares.items()}
    runs = [*make_runs("BC", 5, 700, task="PointGoal1"), *make_runs("SFT", 5, 900, task="PointGoal1")]
    page = write_layouts(runs, {}, {"PointGoal1": {**standing, "seeds": [0]}})
    assert cells_of(page, "PointGoal1") == [["0%", "30%", "25%"]]
    assert "these methods is 700 in PointGoal1" in " ".join(page.split())
    assert write_layouts(runs, {}, {}) == ""
