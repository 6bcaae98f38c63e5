"""The page about when preferences help, and the numbers in its text, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report import preferences_facts as facts
from benchmarks.report.preferences_facts import Results
from benchmarks.report.preferences_figures import draw_differences, draw_plane, draw_stopping
from benchmarks.report.preferences_page import PAGE_STUDIES, PICTURE, STOPPING, load_results, main, write
from benchmarks.runs.selection import Selection, describe
from benchmarks.runs.studies import BOUNDED_PREFINE, STUDIES
from tests.benchmarks.report.by_hand import PREFERRED_RETURN, cells_of, make_runs
from tests.benchmarks.report.test_figures import make_curve
from tests.benchmarks.runs.test_scores import normalised

MANY, FEW = STUDIES["within"].selections
# Below the limit of 20 but for the reference and the bounded PREFINE. Half of D_p's return is 215.
LEVELS = {
    "reference": (800, 90),
    "BC": (400, 5),
    "SFT": (450, 6),
    "PREFINE": (460, 8),
    "DPO": (200, 5),
    BOUNDED_PREFINE: (500, 30),
}


def runs_of(study: str, **others: object) -> list:
    """A run per seed of each method and choice of the data of a study, on BallRun."""
    return [
        run
        for method in STUDIES[study].methods
        for selection in STUDIES[study].selections
        for run in make_runs(method, *LEVELS.get(method, (400, 5)), selection=selection, **others)
    ]


@pytest.fixture(scope="module")
def results() -> Results:
    runs = {study: runs_of(study) for study in PAGE_STUDIES}
    runs["stopping"] = runs_of("stopping", curve=make_curve((800, 90), (200, 8), (400, 8)))
    runs["checkpoints"] = [run for name in ("ppo", "sac") for run in runs_of("checkpoints", reference=name)]
    distances = {("BallRun", MANY): (0.5, 1.5), ("BallRun", FEW): (9.0, 11.0)}
    return Results("small", runs, distances)


def section_of(page: str, title: str) -> str:
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_introduction_by_hand():
    found = facts.introduction()
    # The preference term pulls with β / 2, the supervised one with λ.
    assert (found["share"], found["bullet_share"]) == (f"{0.025 / 1.625:.1%}", f"{0.1 / 1.1:.1%}")
    assert (found["beta"], found["coef"], found["bullet_beta"], found["bullet_coef"]) == ("0.05", "1.6", "0.2", "1")
    assert (found["default_beta"], found["default_coef"]) == ("0.05", "1.6")


def test_summary_by_hand(results):
    found = facts.summary(results)
    assert found["within_counts"] == "SFT 2 of 2, PREFINE 2 of 2 and bounded 0 of 2"
    assert found["broken"] == "BallRun"
    assert found["broken_checkpoints"] == "BallRun (PPO) and BallRun (SAC)"
    # With few episodes 10 nats, more than the bound of 5; 500 / 30 lies between 450 / 6 and 800 / 90.
    assert (found["bound"], found["far"], found["between"]) == ("5", "BallRun", "BallRun")
    assert found["many"] == "SFT 450 / 6, PREFINE 460 / 8, bounded 500 / 30 on BallRun"
    assert found["collapsed"] == "BC 0 of 33, SFT 0 of 33, PREFINE 0 of 33, DPO 33 of 33, bounded 0 of 33 on BallRun"
    # More than SFT, but over the limit.
    assert (found["n_few_tasks"], found["n_more"], found["n_less"]) == ("1 task", 0, 0)
    assert (found["few_collapsed"], found["dpo_collapsed"]) == ("no run", "33 of 33")
    assert found["flipped"] == "10%"
    assert found["flipped_costs"] == "BC 0.2, SFT 0.3, PREFINE 0.4, DPO 0.2, bounded 1.5 on BallRun"
    assert found["options"] == "sft_coef=0.3, beta=1.0, log_ratio_bound=5.0"


def test_summary_is_complete_without_other_studies(results):
    found = facts.summary(Results("small", {"preferences": results["preferences"]}, {}))
    assert (found["broken"], found["far"], found["few_collapsed"], found["first_step"]) == (
        "no task",
        "no task",
        "no run",
        "no",
    )


def test_collapsed_runs_earn_less_than_half_of_their_data():
    levels = (PREFERRED_RETURN / 2 - 2, PREFERRED_RETURN / 2 + 2, -50)
    runs = [run for seed, level in enumerate(levels) for run in make_runs("SFT", level, 1, seeds=(seed,))]
    assert [facts.has_collapsed(run) for run in runs] == [True, False, True]
    assert facts.count_collapsed(runs, ("SFT", "BC")) == "SFT 2 of 3, BC 0 of 0"
    # Half of a negative return is more than that return.
    negative = replace(runs[2], record={**runs[2].record, "preferred": {"reward": -30.0, "cost": 1.0}})
    assert not facts.has_collapsed(negative)


def test_losses_in_training_by_hand():
    kept, lost, recovered, late = ((400, 5), (10, 5)), ((10, 5), (10, 5)), ((10, 5), (400, 5)), ((400, 5), (10, 5))
    runs = [
        run
        for seed, points in enumerate((kept[:1] * 2, lost, recovered, late))
        for run in make_runs("SFT", 400, 5, seeds=(seed,), curve=make_curve((800, 90), *points))
    ]
    found = facts.early_losses(runs)
    assert (found["first_step"], found["last_step"]) == ("100", "200")
    assert (found["n_ended"], found["n_first"], found["n_recovered"]) == (2, 1, 1)
    runs[1].record["preferred"] = {"reward": 90.0, "cost": 1.0}
    assert "earn 90 (BallRun, seed 1); 1 of 1 run with them" in str(facts.poorest(runs)["poorest"])


def test_checkpoints_that_no_method_makes_safe_are_named():
    costly = [run for name in ("SFT", "reference") for run in make_runs(name, 900, 50, reference="sac")]
    safe = [*make_runs("PREFINE", 400, 5, reference="ppo"), *make_runs("SFT", 900, 50, reference="ppo")]
    assert facts.unreached([*costly, *safe]) == "BallRun's SAC agent"
    assert facts.unreached(safe) == "no agent"


def test_limits_below_the_threshold_are_named(results):
    found = facts.narrow_limits(results["preferences"])
    assert (found["usual_tau"], found["narrow"]) == ("40", "BallRun (20)")


def test_tables_by_hand(results):
    page = write(results)
    rows = cells_of(section_of(page, "BallRun"), describe(MANY))
    assert rows == [["430 / 18", "**400 / 5**", "**450 / 6**", "**460 / 8**", "**200 / 5**", "500 / 30"]]
    within = cells_of(section_of(page, "More tasks, and labels that are within the limits"), "BallRun")
    outcomes = ["800 / 90", "**450 / 6**", "**460 / 8**", "500 / 30"]
    assert within == [["20", "430 / 18", nats, *outcomes] for nats in ("1.0", "10.0")]
    assert page.count("*bounded* more on BallRun (over the limit); less on none.") == 2
    checkpoints = cells_of(section_of(page, "RL Zoo's checkpoints"), "BallRun")
    assert [row[0] for row in checkpoints] == ["PPO", "PPO", "SAC", "SAC"]
    kinds = section_of(page, "Clearly safe episodes, and other counterfactuals")
    assert cells_of(kinds, "bounded") == [["500 / 30"]]
    assert cells_of(kinds, "PREFINE, n_counterfactuals = 4") == [["**400 / 5**"]]


def test_sections_without_records_say_what_to_run(results):
    page = write(Results("small", {"preferences": results["preferences"][:3]}, {}))
    for study in PAGE_STUDIES[1:]:
        assert f"Not run yet: `python -m benchmarks run --study {study}`." in page


def test_distances_are_read_by_task_and_choice_of_the_data(tmp_path):
    surprises = [{"selection": vars(replace(FEW, tau=20.0, draw=draw)), "nats": 1.0 + draw} for draw in (0, 1)]
    records.save(tmp_path / "small" / "surprise" / "BallRun.json", {"surprises": surprises})
    assert load_results(tmp_path, "small").distances == {("BallRun", FEW): [1.0, 2.0]}


def test_planes_have_return_against_cost(results):
    (axes,) = draw_plane(results["preferences"]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("episode return", "episode cost")
    points = {drawn.get_label(): np.asarray(drawn.get_offsets()) for drawn in axes.collections}
    assert {label: len(at) for label, at in points.items()} == dict.fromkeys(
        ("BC", "SFT", "PREFINE", "DPO", "bounded"), 11
    )
    np.testing.assert_allclose(points["SFT"], [[450, 6]] * 11)


def test_differences_have_the_first_choice_at_the_top(results):
    figure = draw_differences(results["preferences"])
    left, right = figure.axes
    assert left.get_ylim()[0] > left.get_ylim()[1]
    bounded = next(c for c in left.containers if c.get_label() == "bounded")
    np.testing.assert_allclose(
        np.asarray(bounded.lines[0].get_xdata(), float), [normalised(500) - normalised(450)] * 11, rtol=1e-5
    )
    dpo = next(c for c in right.containers if c.get_label() == "DPO")
    np.testing.assert_allclose(np.asarray(dpo.lines[0].get_xdata(), float), [(5 - 6) / 20] * 11)


def test_curves_have_a_line_for_each_run(results):
    axes = draw_stopping(results["stopping"]).axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 3 * len(STUDIES["stopping"].methods)
    np.testing.assert_allclose(lines[0].get_ydata(), [800, 200, 400])


def test_the_page_and_its_pictures_are_written(results, tmp_path):
    for study in PAGE_STUDIES:
        for number, run in enumerate(results[study]):
            records.save(tmp_path / "small" / study / "BallRun" / f"{number}.json", run.record)
    main("small", tmp_path, tmp_path / "page.md")
    assert f"]({PICTURE.as_posix()})" in (tmp_path / "page.md").read_text()
    for picture in (PICTURE, STOPPING):
        assert imread(tmp_path / picture)[..., :3].std() > 0.02
    with pytest.raises(SystemExit, match="found no records"):
        main("paper", tmp_path, tmp_path / "page.md")


def test_choices_of_the_data_have_different_names():
    selections = STUDIES["preferences"].selections
    assert len({describe(selection) for selection in selections}) == len(selections)
    assert describe(Selection(flipped=0.1)) == "100 of the better half of the safe, 10% flipped"


def test_the_committed_page_is_what_the_committed_records_give():
    assert (HERE / "when_preferences_help.md").read_text() == write(load_results(RESULTS, "small"))
