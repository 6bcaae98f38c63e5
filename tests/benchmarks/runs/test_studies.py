"""The cells of a run."""

from dataclasses import replace

import pytest

from benchmarks.runs.methods import CONSTRUCTORS, REFERENCE, Budget, Method
from benchmarks.runs.studies import FAST_METHODS, SLOW_METHODS, STUDIES, TIERS, study_cells
from sb3_prefine import dsrl

SMALL = TIERS["small"]


def test_small_table_has_slow_methods_on_some_tasks_only():
    found = study_cells(STUDIES["table"], SMALL)
    everywhere = {(c.task, c.method.name, c.seed) for c in found if c.method.name not in SLOW_METHODS}
    assert len(everywhere) == 12 * (1 + len(FAST_METHODS)) * 3
    for method in SLOW_METHODS:
        assert {c.task for c in found if c.method.name == method} == set(SMALL.slow_method_tasks)
    assert len(found) == len(everywhere) + len(SLOW_METHODS) * 4 * 3
    assert {"BallRun", "BallCircle", "HalfCheetahVelocity", "Walker2dVelocity"} <= set(SMALL.slow_method_tasks)


def test_small_studies_leave_out_tasks_with_long_episodes():
    without = set(SMALL.tasks) - {"PointGoal1", "CarGoal1"}
    for study in ("curves", "taus"):
        assert {c.task for c in study_cells(STUDIES[study], SMALL)} == without
        assert {c.task for c in study_cells(STUDIES[study], TIERS["paper"])} == set(dsrl.PAPER_TASKS)
    assert {c.task for c in study_cells(STUDIES["taus"], SMALL, ["CarGoal1"])} == {"CarGoal1"}


def test_each_seed_has_its_own_draw_unless_draws_are_named():
    found = study_cells(STUDIES["table"], SMALL, ["BallRun"], ["SFT"], seeds=[3, 4])
    assert [(c.seed, c.selection.draw) for c in found] == [(3, 3), (4, 4)]
    found = study_cells(STUDIES["table"], SMALL, ["BallRun"], ["SFT"], seeds=[3, 4], draws=[0, 1], taus=[30, 50])
    assert [(c.selection.draw, c.seed, c.selection.tau) for c in found] == [
        (draw, seed, tau) for draw in (0, 1) for seed in (3, 4) for tau in (30, 50)
    ]


def test_grid_of_the_paper_has_its_size():
    found = [c for c in study_cells(STUDIES["table"], TIERS["paper"], methods=["PREFINE"]) if c.task == "BallRun"]
    assert len(found) == 3 * 5 * 5
    assert {c.budget.steps for c in found} == {500_000}
    assert {c.budget.episodes for c in found} == {100}


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("tier", TIERS)
def test_cells_of_a_study_have_distinct_files(study, tier):
    found = study_cells(STUDIES[study], TIERS[tier])
    assert len({cell.path for cell in found}) == len(found) > 0


def test_weights_study_has_the_papers_sixteen_pairs():
    methods = {str(c.method) for c in study_cells(STUDIES["weights"], SMALL)}
    assert len(methods) == 16
    assert "PREFINE:sft_coef=1.6,beta=0.05" in methods


def test_slow_methods_run_on_named_tasks():
    assert len(study_cells(STUDIES["table"], SMALL, ["CarRun"], ["CPQ"], seeds=[0])) == 1


def test_longer_study_has_ten_times_the_steps():
    found = study_cells(STUDIES["longer"], SMALL, seeds=[0])
    defaults = {c.method: c.method.steps(c.budget) for c in study_cells(STUDIES["table"], SMALL, seeds=[0])}
    assert {c.task for c in found} == {"BallCircle", "PointGoal1", "CarGoal1"}
    assert {c.task for c in found if c.method.name in SLOW_METHODS} == {"BallCircle"}
    for cell in found:
        assert cell.method.steps(cell.budget) == 10 * defaults[cell.method]
        assert cell.budget.curve_points == 10


def test_references_with_other_observations_are_left_out():
    found = {(c.task, c.reference) for c in study_cells(STUDIES["checkpoints"], SMALL)}
    all_references = {
        (task, algo) for task in ("HalfCheetahVelocity", "Walker2dVelocity") for algo in ("ppo", "sac", "a2c")
    }
    assert found == all_references - {("Walker2dVelocity", "ppo")}


def test_methods_are_parsed_with_their_options():
    method = Method.parse("PREFINE:beta=0.2,loss_type=ipo,log_ratio_bound=null")
    assert method == Method("PREFINE", (("beta", 0.2), ("loss_type", "ipo"), ("log_ratio_bound", None)))
    for text in ("CPL", "PPL:learning_rate=1e-05,beta=1.0"):
        assert str(Method.parse(text)) == text
    assert Method.parse("PPL:learning_rate=1e-5").options == (("learning_rate", 0.00001),)
    assert [Method.parse(name).in_populations for name in ("SFT", "DPO", "BC")] == [True, True, False]
    for name in (REFERENCE, *CONSTRUCTORS):
        assert str(Method.parse(name)) == name


@pytest.mark.parametrize("text", ["PREFINE:beta", "reference:beta=1"])
def test_invalid_options_raise(text):
    with pytest.raises(ValueError, match=rf"^methods: .*'{text}'"):
        Method.parse(text)


def test_unknown_methods_and_tasks_raise():
    with pytest.raises(ValueError, match=r"^methods: .*'prefine'"):
        study_cells(STUDIES["table"], SMALL, methods=["prefine"])
    with pytest.raises(ValueError, match=r"^tasks: .*AntCircle"):
        study_cells(STUDIES["table"], SMALL, tasks=["AntCircle"])


def test_steps_depend_on_the_method():
    budget = Budget(1, 2, (30, 400), 5, episodes=1, stochastic_episodes=1)
    assert [Method(name).steps(budget) for name in ("PREFINE", "BC", "SafeDICE", "CPQ")] == [2, 2, 430, 5]
    assert replace(budget, steps=9).steps == 9
    assert set(dsrl.PAPER_TASKS) == set(SMALL.tasks)
