"""The choice of β and λ on held-out preferences."""

from pathlib import Path

import optuna
import pytest

from benchmarks import paper, records
from benchmarks.runs import tune
from benchmarks.runs.cells import Folders, open_reference, train_reference
from benchmarks.runs.methods import Method
from benchmarks.runs.studies import TIERS
from benchmarks.runs.tune import HELD_OUT, Options, main
from sb3_prefine import PREFINE, dsrl

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper
TINY = Options(trials=3, steps=20)
TASK = dsrl.find_task("BallRun")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    main(("BallRun",), options=TINY, tier="smoke", data=data, results=folder / "results", cache=folder / "cache")
    return folder


def test_best_trial_is_chosen_and_paper_weights_are_tried(folder):
    record = records.load(folder / "results" / "BallRun.json")
    assert len(record["trials"]) == 3
    best = min(record["trials"], key=lambda trial: trial["held_out_loss"])
    chosen = dict(Method.parse(record["method"]).options)
    assert chosen == {name: pytest.approx(best[name], rel=5e-3) for name in ("beta", "sft_coef")}
    assert record["held_out_loss"] == best["held_out_loss"]
    assert {name: record["trials"][0][name] for name in ("beta", "sft_coef")} == record["paper"]
    assert record["paper"] == {"beta": 0.2, "sft_coef": 1.0}


def test_trial_matches_training_by_hand(folder, data):
    """Trials train on the rest with their own weights, and are compared with the paper's weights."""
    trial = records.load(folder / "results" / "BallRun.json")["trials"][1]
    reference = open_reference("BallRun", TIERS["smoke"].budget, Folders(data, folder / "cache"))
    preferences = paper.choose_sets(TASK, dsrl.load(TASK, data / "BallRun.hdf5"), TINY.seed)
    train, held_out = preferences.split(HELD_OUT, TINY.seed)
    model = PREFINE(reference, train, beta=trial["beta"], sft_coef=trial["sft_coef"], seed=TINY.seed, device="cpu")
    model.learn(TINY.steps)
    yardstick = PREFINE(reference, beta=0.2, sft_coef=1.0, device="cpu")
    yardstick.policy.load_state_dict(model.policy.state_dict())
    assert trial["held_out_loss"] == pytest.approx(yardstick.score(held_out)["train/loss"], rel=1e-5)


def test_stopped_study_continues(folder, data, monkeypatch):
    where = {"tier": "smoke", "data": data, "results": folder / "results", "cache": folder / "cache"}
    before = records.load(folder / "results" / "BallRun.json")["trials"]
    main(("BallRun",), options=Options(trials=4, steps=20), **where)
    after = records.load(folder / "results" / "BallRun.json")["trials"]
    assert after[:3] == before
    assert len(after) == 4
    monkeypatch.setattr(tune, "PREFINE", lambda *_, **__: pytest.fail("trained again"))
    main(("BallRun",), options=Options(trials=4, steps=20), **where)


def test_no_environment_is_stepped(folder, data, monkeypatch):
    monkeypatch.setattr("gymnasium.Env.step", lambda *_: pytest.fail("stepped"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folders = Folders(data, folder / "cache")
    train_reference("BallRun", TIERS["smoke"].budget, folders)
    reference = open_reference("BallRun", TIERS["smoke"].budget, folders)
    preferences = paper.choose_sets(TASK, dsrl.load(TASK, data / "BallRun.hdf5"), 0)
    study = tune.tune(TASK, reference, preferences, Options(trials=1, steps=5))
    assert len(study.trials) == 1
