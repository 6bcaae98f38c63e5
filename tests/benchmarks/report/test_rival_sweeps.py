"""Rivals with other rates and weights, by hand."""

from benchmarks.report.rival_sweeps import rivals
from benchmarks.runs.scores import Run
from tests.benchmarks.runs import test_scores
from tests.benchmarks.runs.test_scores import record

LOWEST, HIGHEST = 0.3831, 881.4633  # returns of DSRL's data for BallCircle
LARGE = "PPL:beta=1.0"


def lines(runs: list[Run]) -> dict[str, list[str]]:
    split = (line.strip("|").split("|") for line in rivals(runs).splitlines() if line.startswith("|"))
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in split}


def normalised(reward: float) -> float:
    return (reward - LOWEST) / (HIGHEST - LOWEST)


def runs_of(levels: dict[str, tuple[float, float]], task: str = "BallCircle") -> list[Run]:
    return [
        Run(record(method, (reward, reward), (cost, cost), seed, task))
        for seed in range(3)
        for method, (reward, cost) in levels.items()
    ]


def test_a_column_a_task_and_a_line_for_each_choice_of_weights():
    found = lines(runs_of({"PREFINE": (400.0, 10.0), "PPL": (100.0, 30.0), LARGE: (500.0, 5.0)}))
    assert found[""] == ["BallCircle"]
    assert found["PREFINE"] == [f"**{normalised(400):.2f} ± 0.00 / 0.50 ± 0.00**"]
    assert found["PPL"] == [f"{normalised(100):.2f} ± 0.00 / 1.50 ± 0.00"]
    assert found["PPL, β = 1"] == [f"**{normalised(500):.2f} ± 0.00 / 0.25 ± 0.00**"]
    assert found["CPL, λ = 1, cloning = 1"] == ["not run"]


def test_who_is_better_is_named_if_safe():
    more = normalised(500) - normalised(400)
    runs = runs_of({"PREFINE": (400.0, 10.0), LARGE: (500.0, 5.0)})
    named = f"BallCircle: PPL, β = 1 (+{more:.2f} to +{more:.2f})."
    assert f"Safe, with significantly more reward than Table 1's PREFINE: {named}" in rivals(runs)
    for levels in ({"PREFINE": (400.0, 10.0), LARGE: (500.0, 50.0)}, {"PREFINE": (400.0, 10.0), LARGE: (399.0, 1.0)}):
        assert "None is safe and earns significantly more than Table 1's PREFINE." in rivals(runs_of(levels))


def test_the_gentle_ppl_of_other_tasks_has_a_table_of_its_own():
    gentle = "PPL:learning_rate=1e-05"
    runs = runs_of({"PREFINE": (400.0, 10.0), gentle: (300.0, 5.0)})
    assert "on the other tasks" not in rivals(runs)
    runs += runs_of({"reference": (900.0, 50.0), "PREFINE": (400.0, 10.0), gentle: (300.0, 5.0)}, "BallRun")
    found = lines(runs)
    assert found["task"] == ["π_ref", "PREFINE", "PPL", "PPL, rate = 1e-05"]
    assert found["BallRun"][2:] == ["not run", f"**{test_scores.normalised(300):.2f} ± 0.00 / 0.25 ± 0.00**"]
    assert f"--study rivals --methods {gentle} --tasks BallRun`" in rivals(runs)


def test_its_seeds_and_dates_are_told():
    assert " Seeds 0, 1, 2; 2026-11-22." in rivals(runs_of({"PREFINE": (400.0, 10.0), LARGE: (500.0, 5.0)}))


def test_what_to_run_is_said():
    assert "Not run yet: `python -m benchmarks run --study rivals`." in rivals([])
