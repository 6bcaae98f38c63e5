"""The figures of the page, and the numbers in their texts, by hand."""

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import records
from benchmarks.report import figure_facts, figures, study_figures, table_figures
from benchmarks.report.figures import FIGURES, write_figure
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import STUDIES
from tests.benchmarks.report.by_hand import cells_of, make_runs


def make_curve(*points: tuple[float, float]) -> list[dict]:
    """Points of (return, cost), a hundred steps apart, of two episodes each."""
    return [
        {"step": 100 * number, "rewards": [reward - 1, reward + 1], "costs": [cost, cost], "lengths": [9, 9]}
        for number, (reward, cost) in enumerate(points)
    ]


def of_study(name: str) -> list:
    """Runs of a study on two tasks, with curves."""
    curve = make_curve((800, 50), (400, 10))
    return [
        run
        for task in ("BallRun", "Walker2dVelocity")
        for number, method in enumerate(STUDIES[name].methods)
        for selection in STUDIES[name].selections
        for run in make_runs(method, 400 + 50 * number, 10, task=task, curve=curve, selection=selection)
    ]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_is_drawn_and_has_a_section(figure, tmp_path):
    runs = {figure.study: of_study(figure.study)}
    path = write_figure(figure, runs[figure.study], tmp_path)
    assert imread(path)[..., :3].std() > 0.02, "empty"
    section = figure.section(runs)
    assert section.startswith(f"## {figure.title}\n")
    assert f"](images/{figure.name}.png)" in section
    assert section.endswith(f"`python -m benchmarks figures {figure.name}`")


def test_one_command_draws_a_figure_or_lists_all(tmp_path, capsys):
    for number, run in enumerate(of_study("table")):
        records.save(tmp_path / "small" / "table" / run.record["task"] / f"{number}.json", run.record)
    figures.main("safe", "small", tmp_path, tmp_path)
    assert (tmp_path / "safe.png").exists()
    figures.main(None, "small", tmp_path, tmp_path)
    assert "scatter    Fig. 3" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^figure: taus"):
        figures.main("taus", "paper", tmp_path, tmp_path)


def test_return_is_on_the_x_axis_and_cost_on_the_y_axis():
    figure = table_figures.draw_scatter(of_study("table"))
    [point] = [np.asarray(drawn.get_offsets())[0] for drawn in figure.axes[0].collections if drawn.get_offsets().size][
        :1
    ]
    [run] = make_runs("reference", 400, 10, task="Walker2dVelocity", seeds=(0,))
    np.testing.assert_allclose(point, [run.rewards.mean(), run.costs.mean()])
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("normalised reward", "normalised cost")


def test_every_dashed_line_is_in_the_legend():
    runs = of_study("curves")
    for figure in (study_figures.draw_curves(runs), study_figures.draw_weights(of_study("weights"))):
        [legend] = figure.legends
        explained = {text.get_text() for text in legend.get_texts()}
        lines = {line.get_label() for axes in figure.axes for line in axes.lines}
        assert lines <= explained
        assert "limit κ" in lines


def test_weights_have_three_rows_per_task_and_a_line_per_lambda():
    runs = [
        run
        for task in ("BallRun", "CarRun")
        for number, method in enumerate(STUDIES["weights"].methods)
        for run in make_runs(method, 0, 0, task=task, curve=make_curve((800, 50), (100 + number, 10)))
    ]
    grid = study_figures.draw_weights(runs).axes
    assert len(grid) == 3 * 2 * 4
    curves = [[line for line in axes.lines if str(line.get_label()).startswith("λ")] for axes in grid]
    assert all(len(lines) == 4 for lines in curves)
    assert grid[-4].get_ylabel() == "CarRun\nreturn"
    np.testing.assert_allclose(curves[-4][0].get_ydata(), [800, 100])


def test_equal_points_are_shifted_apart():
    runs = [
        run
        for task in ("BallRun", "CarRun")
        for tau in (30.0, 50.0)
        for run in make_runs("PREFINE", 400, 10, task=task, selection=Selection(tau=tau))
    ]
    costs = study_figures.draw_taus(runs).axes[1]
    first, second = (np.asarray(container.lines[0].get_xdata(), float) for container in costs.containers)
    assert (first < second).all()
    np.testing.assert_allclose((first + second) / 2, [30, 50])


def test_facts_of_the_weights():
    corners = {"PREFINE:sft_coef=0.1,beta=0.95": (700, 40), "PREFINE:sft_coef=2.0,beta=0.05": (600, 9)}
    runs = [run for method, end in corners.items() for run in make_runs(method, 0, 0, curve=make_curve((800, 50), end))]
    table = figure_facts.of_weights({"weights": runs})["table"]
    assert cells_of(table, "return / cost") == [["κ", "reference", "λ = 0.1, β = 0.95", "λ = 2, β = 0.05"]]
    assert cells_of(table, "BallRun") == [["20", "800 / 50", "700 / 40", "600 / 9"]]


def test_facts_of_the_sizes():
    runs = {"sizes": [*make_runs("PREFINE", 1, 1), *make_runs("PREFINE", 1, 1, task="CarRun")]}
    runs["table"] = make_runs("reference", 800, 50)
    assert figure_facts.of_sizes(runs)["references"] == "2.50 on BallRun and unknown on CarRun"


def test_facts_of_longer_training():
    longer = [
        *make_runs("PREFINE", 400, 10, seeds=(0,), steps=1_000),
        *make_runs("BC", 500, 10, seeds=(0,), steps=1_000),
        *make_runs("CPQ", 100, 90, seeds=(0,), steps=50_000),
    ]
    usual = [*make_runs("PREFINE", 400, 10), *make_runs("BC", 400, 30)]
    facts = figure_facts.of_longer({"longer": longer, "table": usual})
    assert facts["seeds"] == "0"
    assert facts["different"] == "reward and cost of BC on BallRun"
    assert facts["own_steps"] == "CPQ makes 50%"
    [prefine, bc, cpq] = cells_of(facts["table"], "BallRun")
    assert (prefine[0], prefine[1], prefine[3]) == ("PREFINE", "100", "1,000")
    assert bc[2].endswith("/ 1.50")
    assert bc[4].endswith("/ 0.50**")
    assert cpq[1:4] == ["", "not run", "50,000"]


def test_facts_of_the_cost_gap():
    gaps = {"preferred": [4.0, 1.0, 1.0, 5.0], "dispreferred": [8.0, 1.0, 1.0, 11.0]}
    record = {"timesteps": [0, 2, 4, 6], "steps": 6, "runs": [{of: {"gap": gap} for of, gap in gaps.items()}]}
    text = " ".join(figure_facts.write_cost_gap({"CarRun": record}).split())
    assert "from 4.0 to 5.0 on D_p of CarRun and from 8.0 to 11.0 on D_np of CarRun" in text
