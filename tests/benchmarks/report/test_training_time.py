"""How long training takes, by hand."""

import pytest

from benchmarks.report.training_time import OWN_STEPS, training_times
from benchmarks.runs.scores import Run
from tests.benchmarks.runs.test_scores import record


def run(method: str, cpu_seconds: float, processor: str = "some processor, 2 cores", **others: object) -> Run:
    made = record(method, task="Walker2dVelocity")
    return Run({**made, "cpu_seconds": cpu_seconds, "processor": processor, "steps": 1_000, **others})


def test_seconds_hours_and_milliseconds():
    found = training_times([run("PREFINE", 3.0), run("PREFINE", 5.0), run("CPQ", 70.0)], ("PREFINE", "CPQ", "SafeDICE"))
    assert list(found) == ["PREFINE", "CPQ"]
    assert found["PREFINE"].seconds == 4.0
    assert found["PREFINE"].milliseconds == pytest.approx(4.0)
    assert found["PREFINE"].own_hours == pytest.approx(500_000 * 0.004 / 3600)
    assert found["CPQ"].own_hours == pytest.approx(100_000 * 0.07 / 3600)
    assert OWN_STEPS == {"SafeDICE": 1_100_000, "CPQ": 100_000}


def test_all_are_of_the_processor_with_the_most_methods():
    slow = [run("PREFINE", 9.0, "slow"), run("PREFINE", 9.0, "slow"), run("BC", 9.0, "slow")]
    fast = [run(method, 2.0, "fast") for method in ("PREFINE", "CPQ", "BC")]
    found = training_times([*slow, *fast], ("PREFINE", "CPQ", "BC"))
    assert {(time.processor, time.seconds) for time in found.values()} == {("fast", 2.0)}


def test_other_tasks_and_the_reference_do_not_count():
    other = Run({**record("PREFINE"), "cpu_seconds": 1.0})
    assert training_times([other, run("reference", 0.0, steps=0)], ("PREFINE", "reference")) == {}
