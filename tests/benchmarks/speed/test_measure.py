"""The speed commands with a few steps each, and the page from their records."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from benchmarks import records
from benchmarks.paths import HERE
from benchmarks.speed import measure, time_to_safe
from benchmarks.speed import page as speed_page
from benchmarks.speed.time_to_safe import Schedule


@pytest.fixture
def one_thread_again():
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "BATCH_SIZES", (8, 16))
        patch.setattr(measure, "WIDTHS", (8, 16))
        patch.setattr(measure, "EPISODES", ((1, 1), (2, 1)))
        patch.setattr(measure, "RUNS", (1, 2))
        patch.setattr(measure, "ROLLOUTS", (("SafetyBallRun-v0", "PPO"),))
        measure.step(steps=1, rounds=2, with_compile=False, results=results)
        measure.whole(updates=5, results=results)
        measure.population(runs=2, steps=1, rounds=2, results=results)
        measure.growth(steps=1, rounds=2, results=results)
        measure.rollout(rounds=1, results=results)
    return results


def test_records_have_results_versions_and_command(measured):
    names = ("growth", "population", "rollout", "step", "whole")
    assert sorted(path.stem for path in measured.iterdir()) == list(names)
    for name in names:
        record = records.load(measured / f"{name}.json")
        assert record["command"].startswith("python -m benchmarks")
        assert record["versions"]["torch"] == torch.__version__
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["date"])
    step = records.load(measured / "step.json")["families"]["gaussian"]
    for pair, (middle, low, high) in step["ratios"].items():
        name, base = pair.split(" / ")
        assert low <= middle <= high
        assert middle == pytest.approx(step["ms"][name] / step["ms"][base], rel=0.9)
    assert list(records.load(measured / "growth.json")["ms"]["transitions"]) == ["2000", "3000"]


def test_time_to_safe_needs_both_cost_and_return(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_safe, "SCHEDULES", {"ppo": Schedule(1e-3, 3), "a2c": Schedule(1e-3, 2, decays=False)})
    measure.safe(seeds=2, episodes=1, results=tmp_path)
    found = records.load(tmp_path / "safe.json")
    assert (found["ppo"]["steps"], found["a2c"]["falls"], len(found["ppo"]["runs"])) == (3, False, 2)
    for run in (*found["ppo"]["runs"], *found["a2c"]["runs"]):
        assert run["met"] == (run["cost"] <= 25 and run["return"] >= 0.95 * found["ppo"]["preferred_return"])
    assert "| PPO | 3 | 0.001, falling to 0 |" in speed_page.write({"safe": found})


def test_page_has_numbers_and_names_missing_sections(measured, tmp_path):
    speed_page.main(measured, tmp_path / "speed.md")
    page = (tmp_path / "speed.md").read_text()
    step = records.load(measured / "step.json")["families"]["squashed"]
    middle, low, high = step["ratios"]["learn / floor"]
    assert f"| {step['ms']['learn']:.2f} ms |" in page
    assert f"{middle:.2f} ({low:.2f} to {high:.2f})" in page
    assert "## From learn() to a safe policy\n\nNot measured yet." in page
    assert "## Data beyond memory, imports\n\nNot measured yet." in page
    assert "Nothing was measured on a GPU" in page
    assert imread(tmp_path / "images" / "speed.png").ndim == 3


def test_threads_are_compared_on_idle_and_busy_cores(tmp_path, one_thread_again, monkeypatch):
    monkeypatch.setattr(measure, "THREAD_WORKLOADS", {"8 units": measure.Workload(widths=(8, 8), episodes=(1, 1))})
    measure.threads(steps=1, rounds=2, results=tmp_path)
    found = records.load(tmp_path / "threads.json")["workloads"]["8 units"]
    assert set(found) == {"idle", "busy"}
    assert found["busy"]["ms"].keys() == {"floor 1", "floor 2", "learn 1", "learn 2"}
    page = speed_page.write({"threads": records.load(tmp_path / "threads.json")})
    assert f"| {found['idle']['ms']['learn 2']:.2f} ms |" in page


def test_committed_page_matches_committed_records():
    found = {path.stem: records.load(path) for path in measure.RESULTS.glob("*.json")}
    assert (HERE / "speed.md").read_text() == speed_page.write(found)
