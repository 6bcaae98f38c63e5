"""The page of the benchmark, from records."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import records
from benchmarks.paths import HERE, IMAGES, RESULTS
from benchmarks.report import figures, study_figures, zoo_page
from benchmarks.report.tables_page import Others, best_safe, load_runs, main, tabled, write
from benchmarks.runs import scores
from benchmarks.runs.scores import load
from benchmarks.runs.studies import STUDIES, TIERS, study_cells
from tests.benchmarks.runs.test_scores import normalised, record

LEVELS = {"reference": (800.0, 50.0), "SFT": (450.0, 5.0), "PREFINE": (440.0, 6.0), "DPO": (700.0, 30.0)}


def save(folder: Path, study: str = "table") -> None:
    """Two tasks and three seeds of a whole table, near certain levels, or another study's cells."""
    generator = np.random.default_rng(0)
    for cell in study_cells(STUDIES[study], TIERS["small"], tasks=["BallRun", "Walker2dVelocity"]):
        reward, cost = LEVELS.get(cell.method.name, (430.0, 10.0))
        rewards = generator.normal(reward, 5.0, 20).round(3).tolist()
        costs = generator.poisson(cost, 20).tolist()
        made = record(str(cell.method), rewards, costs, cell.seed, cell.task)
        made["selection"] = {**made["selection"], "n_preferred": cell.selection.n_preferred}
        made["selection"] |= {"n_dispreferred": cell.selection.n_dispreferred, "tau": cell.selection.tau}
        if cell.budget.curve_points:
            made["curve"] = [{"step": step, **made["deterministic"]} for step in (0, 50, 100)]
        records.save(folder / "small" / study / cell.path, made)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for study in dict.fromkeys(figure.study for figure in figures.FIGURES):
        save(folder, study)
    return folder


@pytest.fixture(scope="module")
def page(results) -> str:
    return write(load(results / "small" / "table"), "small", figures.FIGURES, Others({}, {}, {}))


def rows(page: str, task: str) -> list[list[str]]:
    found = re.findall(rf"^\| {task} \|(.*)\|$", page, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in found]


def test_table_1_by_hand(page, results):
    table, *_ = rows(page, "BallRun")
    head = re.search(r"^\| task \| κ \|(.*)\|$", page, flags=re.MULTILINE)
    assert head is not None
    columns = ["κ", *(name.strip() for name in head[1].split("|"))]
    cells = dict(zip(columns, table, strict=True))
    runs = [run for run in load(results / "small" / "table") if run.task.name == "BallRun" and run.method == "SFT"]
    rewards, costs = (np.array([[v.mean() for v in (run.rewards, run.costs)] for run in runs])).T
    ours = f"{rewards.mean():.2f} ± {rewards.std():.2f} / {costs.mean():.2f} ± {costs.std():.2f}"
    assert cells["SFT"] == f"🔵 **{ours}**"
    assert cells["PREFINE"].startswith("**")
    assert cells["PREFINE"].endswith("<br>*0.41 / 0.41*")  # the paper's
    assert not cells["DPO"].startswith("*")
    assert cells["π_ref"].endswith("<br>*0.95 / 3.88*")
    assert cells["D_p"] == f"{normalised(430):.2f} / 0.90"
    assert cells["κ"] == "20"


def test_the_verdict_by_hand(page):
    _, verdict, *_ = rows(page, "BallRun")
    assert verdict[0].startswith("yes: 0.")
    cut = 1 - 6 / 50
    assert abs(int(verdict[1].rstrip("%")) / 100 - cut) < 0.05
    kept, theirs = re.fullmatch(r"(\d+)% \(\*(\d+)%\*\)", verdict[2]).groups()
    assert abs(int(kept) / 100 - 440 / 430) < 0.02
    # Table 1: 0.41, of returns from 26.3398 to 1327.446; Table 3: 275.8
    assert int(theirs) == round(100 * (26.3398 + 0.41 * (1327.446 - 26.3398)) / 275.8)
    assert re.fullmatch(r"SFT \(\+0\.0\d to \+0\.0\d\)", verdict[4])
    assert rows(page, "CarRun")[1][0] == "not run"
    assert "PREFINE is safe on 2 of 2 tasks." in page


def test_by_samples_the_tables_are_of_the_other_episodes(page, results):
    *_, table, verdict = rows(page, "BallRun")
    runs = scores.select(load(results / "small" / "table"), method="SFT", task="BallRun")
    costs = [np.mean(run.record["stochastic"]["costs"]) / 20 for run in runs]
    assert f"/ {np.mean(costs):.2f} ± {np.std(costs):.2f}**" in table[4]
    prefine = scores.select(load(results / "small" / "table"), method="PREFINE", task="BallRun")
    kept = np.mean([np.mean(run.record["stochastic"]["rewards"]) for run in prefine]) / 430
    assert verdict[2].startswith(f"{kept:.0%} (")


def test_the_best_is_the_safe_one_of_the_highest_reward(results):
    runs = load(results / "small" / "table")
    found = {m: [r for r in runs if r.method == m and r.task.name == "BallRun"] for m in ("DPO", "SFT", "PREFINE")}
    assert best_safe(["DPO", "SFT", "PREFINE"], found) == "SFT"
    assert best_safe(["DPO"], found) is None


def test_the_aggregates_are_rliable_s(page, results):
    from scipy.stats import trim_mean

    line, _ = re.findall(r"^\| SFT \|(.*)\|$", page, flags=re.MULTILINE)
    runs = [run for run in load(results / "small" / "table") if run.method == "SFT"]
    expected = trim_mean([run.rewards.mean() for run in runs], 0.25)
    assert line.split("|")[0].strip().startswith(f"{expected:.2f} [")
    assert line.split("|")[2].strip() == "100% [100%, 100%]"


def test_whose_budget_is_not_his_own_is_said(page, results):
    # 20,000 of 1,100,000, and 10,000 of 100,000
    assert "SafeDICE and CPQ make 2% and 10% of the steps of their own papers here" in page
    of_paper = write(load(results / "small" / "table"), "paper", [], Others({}, {}, {}))
    assert "of the steps of their own papers" not in of_paper


def test_the_times_by_hand(page):
    line = {cells[0]: cells[1:] for cells in ([method, *rows(page, method)[-1]] for method in ("PREFINE", "SafeDICE"))}
    # Every run's record says 30 s for 100 steps.
    assert line["PREFINE"] == ["300.0", "100", "30 s", "500,000", "41.7 h", "1.0", "5,000"]
    assert line["SafeDICE"] == ["300.0", "100", "30 s", "1,100,000", "91.7 h", "2.2", "11,000"]


def test_all_rows_of_a_table_are_as_long_as_its_head(page):
    tables = re.findall(r"(?:^\|.*\|\n)+", page + "\n", flags=re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_page_and_all_its_pictures_are_written(results, tmp_path, page):
    main("small", results, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    for figure in figures.FIGURES:
        assert f"](images/{figure.name}.png)" in text
        assert f"`python -m benchmarks figures {figure.name}`" in text
        pixels = imread(tmp_path / "images" / f"{figure.name}.png")
        assert pixels[..., :3].std() > 0.02, f"{figure.name} is empty"
    assert text == page
    assert (tmp_path / "benchmark.md").read_text().startswith("# Performance of trained agents")


def test_the_weights_have_three_rows_a_task_and_a_line_for_each_lambda(results):
    runs = load(results / "small" / "weights")
    places = study_figures.weights(runs).axes
    assert len(places) == 3 * 2 * 4
    curves = [[line for line in axes.lines if line.get_label().startswith("λ")] for axes in places]
    assert all(len(of_lambdas) == 4 for of_lambdas in curves)
    # The last row is the return on the second task.
    [task] = {run.task.name for run in runs} - {places[0].get_ylabel().split("\n")[0]}
    first = [run for run in runs if run.task.name == task and run.method == "PREFINE:sft_coef=0.1,beta=0.05"]
    expected = np.mean([run.mean_return for run in first])
    assert places[-4].get_ylabel() == f"{task}\nreturn"
    np.testing.assert_allclose(curves[-4][0].get_ydata(), expected)


def test_no_two_methods_of_a_place_have_the_same_color(results):
    for study in ("curves", "longer"):
        for axes in study_figures.curves(load(results / "small" / study)).axes:
            lines = [line for line in axes.lines if not line.get_label().startswith("_")]
            assert len({line.get_color() for line in lines}) == len(lines) > 1


def test_one_command_a_figure(results, tmp_path, capsys):
    figures.main("safe", "small", results, tmp_path)
    assert (tmp_path / "safe.png").exists()
    figures.main(None, "small", results, tmp_path)
    assert "Fig. 3: reward and cost" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"No records yet. Run: python -m benchmarks run --tier paper --study taus"):
        figures.main("taus", "paper", results, tmp_path)


def test_without_records_it_says_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match=r"there are no records. Run: python -m benchmarks run --tier small"):
        main("small", tmp_path, tmp_path / "README.md")


def test_the_committed_page_is_what_the_committed_records_give():
    runs = load_runs(RESULTS, "small")
    page = HERE / "README.md"
    assert page.exists() == bool(runs)
    if runs:
        drawn = [figure for figure in figures.FIGURES if load(RESULTS / "small" / figure.study)]
        assert page.read_text() == write(runs, "small", drawn, Others.load(RESULTS))
        assert (HERE / "benchmark.md").read_text() == zoo_page.write(tabled(runs), "small")
        for figure in drawn:
            assert (IMAGES / f"{figure.name}.png").exists()
