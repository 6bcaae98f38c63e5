"""The page of the benchmark, from records."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from benchmarks import records
from benchmarks.paths import HERE, IMAGES, RESULTS
from benchmarks.report import zoo_page
from benchmarks.report.figures import FIGURES
from benchmarks.report.table_1 import find_best_safe, write_table_1
from benchmarks.report.tables_page import Results, main, write
from benchmarks.runs import scores
from benchmarks.runs.studies import TABLE_METHODS
from tests.benchmarks.report.by_hand import cells_of, make_runs
from tests.benchmarks.runs.test_scores import normalised

LEVELS = {"reference": (800, 50), "SFT": (450, 5), "PREFINE": (440, 6), "DPO": (700, 30)}
NOTHING = Results("small", {}, {}, {}, {}, {}, {}, {})


@pytest.fixture(scope="module")
def results() -> Results:
    """Three seeds of Table 1 on two tasks, and hours of making the data."""
    table = [
        run
        for task in ("BallRun", "Walker2dVelocity")
        for method in TABLE_METHODS
        for run in make_runs(method, *LEVELS.get(method, (430, 10)), task=task)
    ]
    runs = {**dict.fromkeys((figure.study for figure in FIGURES), ()), "rivals": (), "table": table}
    return replace(NOTHING, runs=runs, data={"BallRun": {"cpu_seconds": 5_400.0}}, agents={"BallRun": {}})


@pytest.fixture(scope="module")
def page(results) -> str:
    return write(results)


def test_table_1_by_hand(results):
    table = write_table_1(results.table)
    head, *_ = cells_of(table, "task")
    cells = dict(zip(head, cells_of(table, "BallRun")[0], strict=True))
    assert cells["SFT"] == f"🔵 **{normalised(450):.2f} ± 0.00 / 0.25 ± 0.00**"
    assert cells["PREFINE"] == f"**{normalised(440):.2f} ± 0.00 / 0.30 ± 0.00**<br>*0.41 / 0.41*"  # the paper's
    assert cells["DPO"] == f"{normalised(700):.2f} ± 0.00 / 1.50 ± 0.00"
    assert cells["π_ref"].endswith("<br>*0.95 / 3.88*")
    assert (cells["κ"], cells["D_p"]) == ("20", f"{normalised(430):.2f} / 0.90")


def test_the_best_method_is_the_safe_one_with_the_highest_reward(results):
    found = {
        method: scores.select(results.table, method=method, task="BallRun") for method in ("DPO", "SFT", "PREFINE")
    }
    assert find_best_safe(found) == "SFT"
    assert find_best_safe({"DPO": found["DPO"]}) is None


def test_stochastic_actions_have_tables_of_their_own(page):
    # The hand-made records have twice the return and the cost there.
    *_, stochastic, verdict = (cells for cells in cells_of(page, "BallRun") if len(cells) in (5, 12))
    assert stochastic[9] == f"**{normalised(880):.2f} ± 0.00 / 0.60 ± 0.00**<br>*0.41 / 0.41*"
    assert verdict[0].startswith("yes: 0.60")
    assert "Of 2 references, 0 are within the limit with deterministic actions and 0 of these" in " ".join(page.split())


def test_aggregates_are_those_of_rliable(page, results):
    [cells] = [cells for cells in cells_of(page, "SFT") if "%" in cells[-1]]
    expected = trim_mean([run.rewards.mean() for run in scores.select(results.table, method="SFT")], 0.25)
    assert cells[0].startswith(f"{expected:.2f} [")
    assert cells[2] == "100% [100%, 100%]"


def test_reduced_budgets_are_named(page, results):
    # 20,000 of 1,100,000, and 10,000 of 100,000
    assert "SafeDICE makes 2% and CPQ makes 10% of the steps of its own paper" in " ".join(page.split())
    assert "Do not judge" not in write(replace(results, tier="paper"))


def test_times_by_hand(page):
    # Every run's record says 30 s for 100 steps.
    assert cells_of(page, "PREFINE")[-1] == ["300.0", "100", "30 s", "500,000", "41.7 h", "1.0", "5,000"]
    assert cells_of(page, "SafeDICE")[-1] == ["300.0", "100", "30 s", "1,100,000", "91.7 h", "2.2", "11,000"]


def test_hours_are_those_of_the_records(page):
    text = " ".join(page.split())
    # 60 runs of 30 s, of which 12 of SafeDICE and CPQ
    assert "by study: `table` 0.5 (60 cells). Of the hours of `table`, SafeDICE and CPQ took 0.1." in text
    assert "The data took 1.5 hours of one core, after 0.0 hours for the agents" in text
    assert "Table 1 has 60 cells." in text


def test_incomplete_tiers_are_named(page, results):
    assert "60 of 312 cells have run" in page
    complete = replace(results, runs={**results.runs, "table": results.table * 6})
    assert "cells have run" not in write(complete)


def test_all_rows_of_a_table_are_as_long_as_its_head(page):
    for table in re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_pages_and_pictures_are_written(results, tmp_path, page):
    for number, run in enumerate(results.table):
        records.save(tmp_path / "small" / "table" / run.record["task"] / f"{number:03}.json", run.record)
    main("small", tmp_path, tmp_path / "README.md")
    assert "![Fig. 3: reward and cost of every method](images/scatter.png)" in (tmp_path / "README.md").read_text()
    drawn = {path.stem for path in (tmp_path / "images").iterdir()}
    assert drawn == {figure.name for figure in FIGURES if figure.study == "table"}
    assert (tmp_path / "benchmark.md").read_text().startswith("# Performance of trained agents")
    with pytest.raises(SystemExit, match="found no records"):
        main("paper", tmp_path, tmp_path / "README.md")


def test_the_committed_pages_are_what_the_committed_records_give():
    results = Results.load(RESULTS, "small")
    assert (HERE / "README.md").read_text() == write(results)
    assert (HERE / "benchmark.md").read_text() == zoo_page.write(results.table, "small")
    for figure in FIGURES:
        assert (IMAGES / f"{figure.name}.png").exists() == bool(results.runs[figure.study])
    assert np.isfinite([run.costs.mean() for run in results.table]).all()
