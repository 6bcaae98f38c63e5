"""What PREFINE reaches, by hand."""

import numpy as np

from benchmarks.report.verdict import reached, small_failures
from benchmarks.runs.scores import Run
from tests.benchmarks.runs.test_scores import record


def of_three_seeds(method: str, rewards: tuple[float, float], cost: float) -> list[Run]:
    return [Run(record(method, rewards, (cost - 1, cost + 1), seed)) for seed in range(3)]


def line_of(runs: list[Run], task: str) -> list[str]:
    [line] = [line for line in reached(runs).splitlines() if line.startswith(f"| {task} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


REFERENCE = of_three_seeds("reference", (800.0, 900.0), 50.0)
PREFINE = of_three_seeds("PREFINE", (400.0, 410.0), 10.0)


def test_a_safe_one_by_hand():
    _, safe, cut, kept, _, better = line_of([*REFERENCE, *PREFINE], "BallRun")
    # The limit is 20.
    assert safe.startswith("yes: 0.50 [0.4")
    assert cut == "80%"
    assert kept.startswith(f"{405 / 430:.0%} (*")
    assert better == "none"


def test_an_unsafe_one_and_a_reference_that_is_safe():
    runs = [*of_three_seeds("reference", (800.0, 900.0), 15.0), *of_three_seeds("PREFINE", (400.0, 410.0), 21.0)]
    _, safe, cut, *_ = line_of(runs, "BallRun")
    assert safe.startswith("no: 1.05")
    assert cut == "the reference is safe (0.75)"
    assert "PREFINE is safe on 0 of 1 tasks." in reached(runs)


def test_only_safe_rivals_with_more_reward_are_named():
    rivals = [
        *of_three_seeds("SFT", (500.0, 510.0), 10.0),
        *of_three_seeds("DPO", (500.0, 510.0), 30.0),
        *of_three_seeds("BC", (300.0, 310.0), 10.0),
    ]
    more = 100 / (1327.446 - 26.3397)
    [name] = line_of([*REFERENCE, *PREFINE, *rivals], "BallRun")[-1].split(", ")
    assert name.startswith("SFT (+")
    low, high = (float(part) for part in name.removeprefix("SFT (").rstrip(")").split(" to "))
    assert low - 0.005 <= more <= high + 0.005
    assert not np.isclose(low, 0)


def test_tasks_without_runs_say_so():
    assert line_of([*REFERENCE, *PREFINE], "CarRun")[1] == "not run"


def test_the_luck_of_layouts_is_told_with_intervals():
    found = {
        "preferred_cost": 11.5,
        "others_cost": {"mean": 25.1, "low": 20.2, "high": 30.3},
        **{f"of_{who}": {"costs": [cost] * 20} for who, cost in (("agent", 0.0), ("clone", 39.0))},
    }
    page = small_failures({"CarGoal1": found}, {})
    assert "| CarGoal1 | 12 | 25 [20, 30] | 0 [0, 0] | 39 [39, 39] |" in page
    assert "`python -m benchmarks layout-luck`" in page


def test_who_stands_is_told():
    found = {
        name: {"steps": 0.9, "episodes": share} for name, share in (("preferred", 0.0), ("BC", 0.3), ("SFT", 0.25))
    }
    page = small_failures({}, {"PointGoal1": {**found, "seeds": [0]}})
    assert "| episodes that end standing | D_p | BC | SFT |" in page
    assert "| PointGoal1 | 0% | 30% | 25% |" in page
    assert "luck.py" not in page
