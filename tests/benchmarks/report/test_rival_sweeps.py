"""Rivals with other rates and weights, by hand."""

from functools import partial

import pytest

from benchmarks.report.rival_sweeps import write_rivals
from tests.benchmarks.report import by_hand
from tests.benchmarks.report.by_hand import cells_of

LARGE, SLOW = "PPL:beta=1.0", "PPL:learning_rate=1e-05"
TASK = "BallCircle"
LOWEST, HIGHEST = 0.3831, 881.4633  # returns of DSRL's data for this task
make_runs = partial(by_hand.make_runs, task=TASK)
PREFINE = make_runs("PREFINE", 400, 10)


def normalised(reward: float) -> float:
    return (reward - LOWEST) / (HIGHEST - LOWEST)


def outcome(reward: float, cost: float) -> str:
    text = f"{normalised(reward):.2f} ± 0.00 / {cost / 20:.2f} ± 0.00"
    return f"**{text}**" if cost <= 20 else text


def test_outcomes_and_counts_by_hand():
    runs = [*PREFINE, *make_runs("PPL", 100, 30), *make_runs(LARGE, 300, 5), *make_runs("BC", 300, 5)]
    page = write_rivals(runs)
    assert cells_of(page, "PREFINE") == [[outcome(400, 10)]]
    assert cells_of(page, "PPL") == [[outcome(100, 30)]]
    # Safe, safe with Table 1's weights, more / less than with these, than PREFINE, than BC; then the outcome.
    assert cells_of(page, "PPL, β = 1") == [["1 of 1", "0", "1 / 0", "0 / 1", "0 / 0"], [outcome(300, 5)]]
    assert cells_of(page, "CPL, λ = 1, cloning = 1") == [["not run"]]
    assert "Seeds 0, 1, 2; 2026-11-22." in page


@pytest.mark.parametrize(("level", "is_named"), [((500, 5), True), ((500, 50), False), ((399, 1), False)])
def test_only_safe_sweeps_with_more_reward_are_named(level, is_named):
    page = write_rivals([*PREFINE, *make_runs(LARGE, *level)])
    assert (f"{TASK}: PPL, β = 1 (+" in page) == is_named
    assert ("PREFINE: none." in page) == (not is_named)


def test_tasks_beyond_the_study_have_a_table_of_their_own():
    swept = [*PREFINE, *make_runs(SLOW, 300, 5)]
    assert "on the other tasks" not in write_rivals(swept)
    page = write_rivals(
        [*swept, *make_runs("reference", 900, 50, task="CarRun"), *make_runs(SLOW, 300, 5, task="CarRun")]
    )
    assert cells_of(page, "task") == [["π_ref", "PREFINE", "PPL", "PPL, rate = 1e-05"]]
    [[reference, prefine, ppl, slow]] = cells_of(page, "CarRun")
    assert reference.endswith("/ 2.50 ± 0.00")
    assert (prefine, ppl) == ("not run", "not run")
    assert slow.endswith("/ 0.25 ± 0.00**")
    assert f"--study rivals --methods {SLOW} --tasks CarRun`" in page


def test_missing_runs_are_named():
    assert "`python -m benchmarks run --study rivals`" in write_rivals(PREFINE)
