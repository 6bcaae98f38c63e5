"""The page about when preferences help, from records."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report.preferences_figures import conditions, draw, draw_plane, draw_stopping
from benchmarks.report.preferences_page import OTHERS, PICTURE, STOPPING, load_surprises, main, write
from benchmarks.runs.scores import Run, load
from benchmarks.runs.selection import Selection, describe
from benchmarks.runs.studies import STUDIES, TIERS, study_cells
from tests.benchmarks.runs.test_scores import record

LEVELS = {
    "reference": (800.0, 90.0),
    "BC": (400.0, 5.0),
    "SFT": (450.0, 5.0),
    "PREFINE": (450.0, 6.0),
    "DPO": (705.0, 30.0),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    generator = np.random.default_rng(0)
    wanted = [
        (study, cell)
        for study in ("preferences", *OTHERS)
        for cell in study_cells(STUDIES[study], TIERS["small"], tasks=["BallRun"])
    ]
    for study, cell in wanted:
        if cell.selection.flipped == 0.4 and cell.method.name == "DPO":
            continue
        reward, cost = LEVELS[cell.method.name] if "beta=1.0" not in str(cell.method) else (500.0, 8.0)
        if study == "counterfactuals":
            reward += 100 * len(cell.method.options)
        if study == "checkpoints":
            reward += {"ppo": 1000, "sac": 2000, "a2c": 3000}[cell.reference]
        rewards, costs = generator.normal(reward, 5.0, 20).tolist(), generator.poisson(cost, 20).tolist()
        made = record(str(cell.method), rewards, costs, cell.seed)
        if study == "stopping":
            made["curve"] = [{**made["deterministic"], "step": step} for step in (0, 500, 1000)]
        made |= {"selection": vars(cell.selection), "reference": cell.reference}
        records.save(folder / "small" / study / cell.path, made)
    surprises = [
        {"selection": vars(replace(selection, tau=20.0, draw=draw)), "nats": nats + draw}
        for selection, nats in zip(STUDIES["within"].selections, (1.0, 3.5), strict=True)
        for draw in (0, 1)
    ]
    records.save(folder / "small" / "surprise" / "BallRun.json", {"surprises": surprises})
    return folder


def page_of(results: Path) -> str:
    runs, *others = (load(results / "small" / study) for study in ("preferences", *OTHERS))
    surprises = load_surprises(results / "small" / "surprise")
    return write(runs, dict(zip(OTHERS, others, strict=True)), surprises)


def test_there_is_a_row_for_each_condition_and_a_column_for_each_method(results):
    runs = load(results / "small" / "preferences")
    page = write(runs, {study: [] for study in OTHERS}, {})
    lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if line.startswith("| ")}
    assert conditions(runs) == list(STUDIES["preferences"].selections)
    for selection in STUDIES["preferences"].selections:
        cells = [cell.strip() for cell in lines[describe(selection)]]
        assert len(cells) == 1 + len(STUDIES["preferences"].methods)
        assert cells[0] == "430 / 18"
        found = [run for run in runs if run.method == "SFT" and describe(run.selection) == describe(selection)]
        reward = np.mean([np.mean(run.record["deterministic"]["rewards"]) for run in found])
        assert cells[2].startswith(f"**{reward:,.0f} / ")
        assert cells[4] == "not run" if selection.flipped == 0.4 else cells[4].startswith("70")
        assert "**" not in cells[4]  # not safe
    assert "`PREFINE:sft_coef=0.3,beta=1.0,log_ratio_bound=5.0`" in page


def test_runs_that_lost_their_return_are_counted(tmp_path):
    for seed, reward in enumerate((214.0, 216.0, -50.0)):
        made = {**record("SFT", (reward, reward), (1.0, 1.0), seed), "selection": vars(Selection(draw=seed))}
        records.save(tmp_path / "BallRun" / f"{seed}.json", made)
    page = write(load(tmp_path), {study: [] for study in OTHERS}, {})
    # Their preferred episodes earn 430.
    assert "less than half of what their preferred episodes do: BC 0 of 0, SFT 2 of 3, PREFINE 0 of 0" in page


def test_more_that_is_over_the_limit_is_said_to_be(results):
    runs = [run for run in load(results / "small" / "within") if run.method in ("SFT", "reference")]
    above = [Run({**run.record, "method": "PREFINE"}) for run in runs if run.method == "reference"]
    page = write(load(results / "small" / "preferences"), {**dict.fromkeys(OTHERS, ()), "within": [*runs, *above]}, {})
    assert page.count("*PREFINE* more on BallRun (over the limit); less on none") == 2


def test_each_kind_of_counterfactual_has_a_row(results):
    page = page_of(results)
    section = page.split("other counterfactuals\n")[1].split("## Make it again")[0]
    found = {line.split("|")[1].strip(): line.split("|")[2].strip("* ") for line in section.splitlines() if "|" in line}
    rewards = {row: float(value.split("/")[0]) for row, value in found.items() if "/" in value}
    expected = {"D_p": 430, "BC": 400, "SFT": 450, "DPO": 705, "PREFINE": 450, "bounded": 800}
    expected |= {"PREFINE:n_counterfactuals=4": 550, "PREFINE:counterfactuals=reference": 550}
    expected |= {"bounded,n_counterfactuals=4": 900, "bounded,counterfactuals=reference": 900}
    assert rewards == pytest.approx(expected, abs=5)
    assert "τ = 10." in section


def test_labels_within_the_limits_have_a_table_for_each_choice_of_the_data(results):
    section = page_of(results).split("within the limits\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| BallRun |")]
    rows = [[cell.strip("* ") for cell in line.split("|")[1:-1]] for line in lines]
    assert len(rows) == len(STUDIES["within"].selections)
    for (task, kappa, data, nats, *methods), far in zip(rows, ("1.5", "4.0"), strict=True):
        assert (task, kappa, data, nats) == ("BallRun", "20", "430 / 18", far)
        returns = [float(cell.split("/")[0].replace(",", "")) for cell in methods]
        np.testing.assert_allclose(returns, [800, 450, 450, 500], atol=5)
    assert "τ = 20." in section
    assert "10 of all safe:" in section
    # By 50 of 1,301, with a standard deviation of 5 an episode.
    assert section.count("*bounded* more on BallRun; less on none.") == 2
    assert "Within the limit: π_ref 0 of 2, SFT 2 of 2, PREFINE 2 of 2, bounded 2 of 2." in section


def test_each_checkpoint_has_a_row_for_each_choice_of_the_data(results):
    page = page_of(results)
    section = page.split("## RL Zoo's checkpoints\n")[1].split("## Clearly safe")[0]
    rows = [[cell.strip("* ") for cell in line.split("|")[1:-1]] for line in section.splitlines() if "BallRun" in line]
    assert [row[:3] for row in rows] == [
        ["BallRun", algo, describe(selection)]
        for algo in ("PPO", "SAC", "A2C")
        for selection in STUDIES["checkpoints"].selections
    ]
    found = {row[1]: [float(cell.split("/")[0].replace(",", "")) for cell in row[4:]] for row in rows}
    levels = np.array([800, 450, 450, 705, 500])
    for algo, more in (("PPO", 1000), ("SAC", 2000), ("A2C", 3000)):
        np.testing.assert_allclose(found[algo], levels + more, atol=5)


def test_a_policy_is_where_its_cost_and_return_are(results):
    (axes,) = draw_plane(load(results / "small" / "preferences")).axes
    points = {drawn.get_label(): np.asarray(drawn.get_offsets()) for drawn in axes.collections}
    assert {label: len(at) for label, at in points.items()} == {
        "BC": 11,
        "SFT": 11,
        "PREFINE": 11,
        "DPO": 10,
        "bounded": 11,
    }
    np.testing.assert_allclose(points["SFT"].mean(axis=0), [5, 450], atol=2)


def test_each_section_says_which_seeds_it_has(results):
    runs = load(results / "small" / "preferences")
    others = {study: load(results / "small" / study) for study in OTHERS}
    others["checkpoints"] = [run for run in others["checkpoints"] if run.seed == 1]
    page = write(runs, others, {})
    sections = {section.split("\n")[0]: section for section in page.split("\n## ")}
    assert "means over the seeds (0, 1, 2)" in sections["BallRun"]
    assert "means over the seeds (1)" in sections["RL Zoo's checkpoints"]
    assert "Seeds: 0, 1, 2." in sections["Is it only that training stops in time?"]


def test_the_curves_in_training_are_drawn(results):
    figure = draw_stopping(load(results / "small" / "stopping"))
    selections = STUDIES["stopping"].selections
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"BallRun, {describe(s)}: {what}" for s in selections for what in ("return", "cost")]
    for axes, level in zip(figure.axes[:2], (500, 8), strict=True):
        [line] = [drawn for drawn in axes.lines if drawn.get_label() == "bounded"]
        np.testing.assert_array_equal(line.get_xdata(), [0, 500, 1000])
        np.testing.assert_allclose(line.get_ydata(), level, atol=3)
        assert len({drawn.get_color() for drawn in axes.lines if drawn.get_label()[0] != "_"}) == 4


def test_conditions_have_names_that_differ():
    selections = STUDIES["preferences"].selections
    assert len({describe(selection) for selection in selections}) == len(selections)
    assert describe(Selection(n_preferred=5, pool="all_safe", dispreferred="reference")) == (
        "5 of all safe, D_np of the reference's own"
    )
    assert describe(Selection(flipped=0.1)) == "100 of the better half of the safe, 10% flipped"


def test_the_first_choice_is_at_the_top_for_any_number_of_tasks(results):
    runs = load(results / "small" / "preferences")
    others = [replace(run, record={**run.record, "task": "BallCircle"}) for run in runs]
    for figure in (draw(runs), draw([*runs, *others])):
        low, high = figure.axes[0].get_ylim()
        assert low > high


def test_the_picture_shows_the_differences(results):
    figure = draw(load(results / "small" / "preferences"))
    left, right = figure.axes
    assert "reward, minus that of SFT" in left.get_title()
    bounded = next(c for c in left.containers if c.get_label() == "bounded")
    middles = np.asarray(bounded.lines[0].get_xdata(), float)
    assert len(middles) == len(STUDIES["preferences"].selections)
    np.testing.assert_allclose(middles, 50 / (1327.446 - 26.3397), atol=0.01)
    dpo = next(c for c in right.containers if c.get_label() == "DPO")
    np.testing.assert_allclose(np.asarray(dpo.lines[0].get_xdata(), float), 25 / 20, atol=0.15)


def test_the_page_and_its_picture_are_written(results, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "preferences-page"]
    subprocess.run([*command, "--results", results, "--page", tmp_path / "page.md"], check=True)
    assert f"]({PICTURE.as_posix()})" in (tmp_path / "page.md").read_text()
    for picture in (PICTURE, STOPPING):
        assert imread(tmp_path / picture)[..., :3].std() > 0.02
    with pytest.raises(SystemExit, match="No records yet"):
        main("paper", results, tmp_path / "page.md")


def test_the_committed_page_is_what_the_committed_records_give():
    runs = load(RESULTS / "small" / "preferences")
    page = HERE / "when_preferences_help.md"
    assert page.exists() == bool(runs)
    if runs:
        assert page.read_text() == page_of(RESULTS)
