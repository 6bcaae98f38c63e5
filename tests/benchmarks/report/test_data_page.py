"""The page about the generated data, from records."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks import paper, records
from benchmarks.datasets.generate import describe_episodes, describe_sets
from benchmarks.paths import HERE, RESULTS
from benchmarks.report.data_page import PICTURE, Results, main, write
from sb3_prefine import dsrl
from sb3_prefine.evaluation.palette import DISPREFERRED, PREFERRED
from tests.benchmarks.datasets.test_generate import one_step_episodes
from tests.benchmarks.report.by_hand import cells_of

VERSIONS = {"python": "3.11.7", "mujoco": "4.0.0"}
# Distinguishable everywhere, so that a number on the page has one source.
RETURNS = {"BallRun": (100.0, 1300.0), "PointGoal1": (1.0, 29.0)}


def data_record(name: str) -> dict[str, Any]:
    task = dsrl.find_task(name)
    rng = np.random.default_rng(len(name))
    episodes = one_step_episodes(rng.uniform(*RETURNS[name], 700), rng.integers(0, 80, 700), task)
    return {
        "sha256": name[0].lower() * 64,
        "bytes": 12_345_678,
        "agents": 24,
        "agents_from": "SHA-256 abc",
        "seed": 0,
        "rolled_out": 1_111,
        "cpu_seconds": 192.0,
        **describe_episodes(episodes),
        **describe_sets(episodes, task, seed=0),
        "versions": VERSIONS,
        "date": "2026-11-21",
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two tasks with data; the training of one's agents was measured."""
    for name in RETURNS:
        records.save(tmp_path / "results" / "data" / f"{name}.json", data_record(name))
    records.save(tmp_path / "results" / "agents" / "BallRun.json", {"cpu_seconds": 1_500.0})
    return tmp_path


@pytest.fixture
def page(folder) -> str:
    return write(Results.load(folder / "results"))


def test_every_task_has_a_row_in_every_table(page):
    for task in dsrl.PAPER_TASKS:
        assert len(cells_of(page, task)) == 3


def test_all_rows_of_a_table_are_as_long_as_its_head(page):
    for table in re.findall(r"(?:^\|.*\|\n)+", page + "\n", flags=re.MULTILINE):
        lines = table.splitlines()
        assert len({line.count("|") for line in lines}) == 1, lines[0]


def test_sets_stand_beside_the_papers(page, folder):
    sets, ranges, *_ = cells_of(page, "BallRun")
    record = records.load(folder / "results" / "data" / "BallRun.json")
    returns, costs = np.array(record["returns"]), np.array(record["costs"])
    preferred, dispreferred = record["preferred"], record["dispreferred"]
    assert sets == [
        "100 / 20",
        "6.6",
        f"{costs[preferred].mean():.1f}",
        "74.8",
        f"{costs[dispreferred].mean():.1f}",
        "275.8",
        f"{returns[preferred].mean():,.1f}",
        "1,021.72",
        f"{returns[dispreferred].mean():,.1f}",
    ]
    assert ranges[:2] == ["940", "700"]
    assert ranges[2] == "26.3 to 1,327.4"
    assert ranges[5:7] == ["0 to 80", "0 to 79"]


def test_files_have_their_time_and_checksum(page):
    assert cells_of(page, "BallRun")[-1] == ["25.0", "24", "1,111", "3.2", "12.3", f"`{'b' * 64}`"]
    assert cells_of(page, "PointGoal1")[-1] == ["not recorded", "24", "1,111", "3.2", "12.3", f"`{'p' * 64}`"]


def test_unmeasured_training_times_are_not_made_up(folder):
    (folder / "results" / "agents" / "BallRun.json").unlink()
    assert cells_of(write(Results.load(folder / "results")), "BallRun")[-1][0] == "not recorded"


def test_missing_tasks_are_named_and_have_no_numbers(page):
    (line,) = re.findall(r"^\*\*Missing so far\*\*: (.*)\.$", page, flags=re.MULTILINE)
    assert line == ", ".join(name for name in dsrl.PAPER_TASKS if name not in RETURNS)
    sets, ranges, files = cells_of(page, "CarRun")
    assert [cell for cell in (*sets, *ranges[1:], *files) if cell] == ["missing"] * 3


def test_the_differences_to_dsrl_are_computed(page):
    text = " ".join(page.split())
    assert "rolled out with 1, 2 and 4 times its own noise, Ant with 0.5, 1 and 2 times" in text
    assert "MuJoCo 4.0.0; DSRL" in text
    assert "(100 and 20 episodes), with τ = 40. The paper uses 30, 40 and 50" in text
    assert "Seed 0, 2026-11-21; python 3.11.7, mujoco 4.0.0." in text


def test_the_page_is_complete_without_records(tmp_path):
    page = write(Results.load(tmp_path))
    assert page.count("missing") == 3 * 12
    assert "cost of D_p: paper" in page


def test_the_page_and_its_picture_are_written(page, folder):
    main(folder / "results", folder / "data.md")
    assert (folder / "data.md").read_text() == page
    assert f"]({PICTURE.as_posix()})" in page
    pixels = imread(folder / PICTURE)
    assert pixels.shape[0] > 1000
    for style in (PREFERRED, DISPREFERRED):
        assert (np.abs(pixels[..., :3] - to_rgb(style.color)).max(axis=-1) < 0.01).sum() > 100


def test_the_papers_tables_have_the_twelve_tasks():
    assert set(paper.TABLE_1) == set(paper.TABLE_2) | set(paper.TABLE_3) == set(dsrl.PAPER_TASKS)
    # The highest cut in cost is Walker2dVelocity's, the lowest CarCircle's.
    cuts = {name: 1 - row["PREFINE"].cost / row["reference"].cost for name, row in paper.TABLE_1.items()}
    assert max(cuts.values()) == pytest.approx(0.997, abs=5e-4)
    assert min(cuts.values()) == pytest.approx(0.731, abs=5e-4)


def test_the_committed_page_is_what_the_committed_records_give():
    results = Results.load(RESULTS)
    page = HERE / "data.md"
    assert page.exists() == bool(results.data)
    if page.exists():
        assert page.read_text() == write(results)
        assert (HERE / PICTURE).exists()
