"""A whole run of the smoke tier on a small file, with every executor."""

import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import records
from benchmarks.runs import cells, run
from benchmarks.runs.cells import CURVE_SEED, EVALUATION_SEED, Cell, Folders, open_reference
from benchmarks.runs.executors import run_all
from benchmarks.runs.methods import REFERENCE, Budget, Method
from benchmarks.runs.run import main
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import SLOW_METHODS, STUDIES, TIERS
from sb3_prefine import PREFINE, collect, evaluate_policy, load_reference
from sb3_prefine.baselines import BC
from sb3_prefine.baselines.bc import highest_returns

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper
SMOKE = TIERS["smoke"].budget
CHEAP = ("SFT", "PREFINE:beta=0.3", "DPO")
ENV_ID = "SafetyBallRun-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data) -> Path:
    """A folder with the results of the smoke tier."""
    folder = tmp_path_factory.mktemp("benchmark")
    assert main("smoke", data=data, results=folder / "results", cache=folder / "cache") == 0
    return folder


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """Load the records of Table 1 by method."""
    found = [records.load(path) for path in (folder / "results" / "smoke" / "table").glob("*/*.json")]
    return {record["method"]: record for record in found}


def cell(method: str, budget: Budget = SMOKE, seed: int = 0) -> Cell:
    return Cell("BallRun", Method.parse(method), Selection(draw=seed), seed, budget)


def test_every_method_has_a_record(folder):
    found = table(folder)
    assert set(found) == set(STUDIES["table"].methods)
    for method, record in found.items():
        assert len(record["deterministic"]["rewards"]) == SMOKE.episodes
        assert len(record["stochastic"]["costs"]) == SMOKE.stochastic_episodes
        assert record["deterministic"]["lengths"] == [100] * SMOKE.episodes
        assert all(map(math.isfinite, record["deterministic"]["rewards"]))
        assert (record["wall_seconds"] > 0) == (record["cpu_seconds"] > 0) == (method != REFERENCE)
        assert record["steps"] == {REFERENCE: 0, "SafeDICE": 40, "CPQ": 20}.get(method, 100)
        assert record["data_sha256"]
        assert record["versions"]["torch"]
        assert record["date"] == records.today()
    # All methods end at different policies.
    assert len({json.dumps(record["deterministic"]) for record in found.values()}) == len(found)


def test_reference_clones_highest_returns_at_any_cost(folder, data):
    trajectories = cells.dsrl.load("BallRun", data / "BallRun.hdf5")
    best = trajectories[highest_returns(trajectories, cells.REF_QUANTILE)]
    assert best.episode_costs.min() > 80
    clone = BC("GaussianPolicy", trajectories, env=ENV_ID, ref_quantile=cells.REF_QUANTILE, seed=0, device="cpu")
    found = evaluate_policy(clone.learn(SMOKE.ref_steps), ENV_ID, SMOKE.episodes, seed=EVALUATION_SEED)
    assert table(folder)[REFERENCE]["deterministic"]["rewards"] == pytest.approx(
        found.episode_rewards.tolist(), abs=1e-3
    )


def test_cell_equals_training_with_the_library(folder, data):
    """The expected policy is trained by hand."""
    reference = open_reference("BallRun", SMOKE, Folders(data, folder / "cache"))
    preferences = cells.choose_sets(
        cells.dsrl.find_task("BallRun"), cells.dsrl.load("BallRun", data / "BallRun.hdf5"), Selection()
    )
    model = PREFINE(reference, preferences, beta=0.2, sft_coef=1.0, seed=0, device="cpu").learn(SMOKE.steps)
    found = evaluate_policy(model, ENV_ID, SMOKE.episodes, seed=EVALUATION_SEED)
    record = table(folder)["PREFINE"]
    assert record["deterministic"]["rewards"] == pytest.approx(found.episode_rewards.tolist(), abs=1e-3)
    samples = evaluate_policy(model, ENV_ID, SMOKE.stochastic_episodes, deterministic=False, seed=EVALUATION_SEED)
    assert record["stochastic"]["rewards"] == pytest.approx(samples.episode_rewards.tolist(), abs=1e-3)
    assert record["preferred"]["reward"] == pytest.approx(preferences.preferred.episode_returns.mean(), abs=1e-3)


def test_finished_cells_are_skipped(folder, data, monkeypatch, capsys):
    monkeypatch.setattr(run, "run_cells", lambda *_: pytest.fail("computed again"))
    assert main("smoke", data=data, results=folder / "results", cache=folder / "cache") == 0
    n = len(STUDIES["table"].methods)
    assert f"{n} cells, {n} of them done already." in capsys.readouterr().out


def run_in(folder: Path, data: Path, cache: Path, **options: Any) -> dict[str, list[float]]:
    assert main("smoke", methods=CHEAP, data=data, results=folder / "results", cache=cache, **options) == 0
    return {method: record["deterministic"]["rewards"] for method, record in table(folder).items()}


@pytest.fixture(scope="module")
def alone(folder, data, tmp_path_factory) -> dict[str, list[float]]:
    return run_in(tmp_path_factory.mktemp("alone"), data, folder / "cache")


def test_joblib_gives_equal_results(alone, folder, data, tmp_path):
    assert run_in(tmp_path, data, folder / "cache", executor="joblib", jobs=2) == alone


def test_ray_gives_equal_results(alone, folder, data, tmp_path):
    ray = pytest.importorskip("ray")
    try:
        assert run_in(tmp_path, data, folder / "cache", executor="ray") == alone
    finally:
        ray.shutdown()


def test_population_gives_close_results(alone, folder, data, tmp_path):
    found = run_in(tmp_path, data, folder / "cache", population=True)
    assert set(found) == set(alone)
    for method, rewards in found.items():
        assert rewards == pytest.approx(alone[method], abs=0.5), method
    assert {record["trained_together"] for record in table(tmp_path).values()} == {3}


def test_crashed_cell_is_recorded_and_tried_again(folder, data, tmp_path, capsys):
    where = {"data": data, "results": tmp_path / "results", "cache": folder / "cache"}
    wrong = "PREFINE:beta=-1"
    assert main("smoke", methods=("SFT", wrong), **where) == 1
    results = tmp_path / "results" / "smoke" / "table" / "BallRun"
    assert sorted(path.suffix for path in results.iterdir()) == [".failed", ".json"]
    [failed] = results.glob("*.failed")
    record = records.load(failed)
    assert "beta" in record["error"]
    assert "ValueError" in record["error"]
    assert any("prefine.py" in line for line in record["traceback"])
    assert "1 cells crashed" in capsys.readouterr().out
    assert main("smoke", methods=(wrong,), **where) == 1
    # The record of the failure is removed after a success.
    again = failed.with_name(failed.name.replace("beta=-1", "beta=0.1"))
    failed.rename(again)
    assert main("smoke", methods=("PREFINE:beta=0.1",), **where) == 0
    assert not again.exists()


def test_curve_starts_at_reference_and_ends_at_last_step(folder, data):
    budget = TIERS["smoke"].curves
    folders = Folders(data, folder / "cache")
    [record] = cells.run_cells([cell("PREFINE", budget, seed=3)], folders)
    assert [point["step"] for point in record["curve"]] == [0, 50, 100]
    before = evaluate_policy(open_reference("BallRun", budget, folders), ENV_ID, 2, seed=CURVE_SEED + 3)
    assert record["curve"][0]["rewards"] == pytest.approx(before.episode_rewards.tolist(), abs=1e-3)
    assert record["stochastic"] is not None
    [whole] = cells.run_cells([cell("PREFINE", SMOKE, seed=3)], folders)
    assert np.mean(record["deterministic"]["rewards"]) == pytest.approx(
        np.mean(whole["deterministic"]["rewards"]), rel=0.1
    )


@pytest.mark.parametrize("method", SLOW_METHODS)
def test_curve_of_slow_method_starts_before_first_step(method, folder, data):
    [record] = cells.run_cells([cell(method, TIERS["smoke"].longer)], Folders(data, folder / "cache"))
    assert record["steps"] == record["curve"][-1]["step"] == {"SafeDICE": 80, "CPQ": 40}[method]
    start, halfway, end = (point["rewards"] for point in record["curve"])
    # In the first half of its steps, SafeDICE trains only its discriminator.
    assert (halfway == start) == (method == "SafeDICE")
    assert end != halfway


def test_rl_zoo_checkpoint_is_fine_tuned_on_data_of_a_task(zoo, tmp_path):
    agent, env_id = load_reference("ppo/HalfCheetah-v3"), "SafetyHalfCheetahVelocity-v1"
    slow = collect(agent, env_id, 2, n_envs=2, seed=0, action_transform=partial(np.multiply, 0.4), progress_bar=False)
    fast = collect(agent, env_id, 2, n_envs=2, seed=1, progress_bar=False)
    (slow + fast).to_hdf5(tmp_path / "HalfCheetahVelocity.hdf5")
    budget = replace(SMOKE, steps=20, episodes=2, stochastic_episodes=0)
    for name, method in (("ppo", "PREFINE"), ("sac", "PREFINE"), ("ppo", REFERENCE)):
        tuned = Cell("HalfCheetahVelocity", Method.parse(method), Selection(), 0, budget, name)
        assert tuned.path.name == f"{method}-{name}-tau40-draw0-seed0.json"
        [record] = cells.run_cells([tuned], Folders(tmp_path, tmp_path))
        assert (record["reference"], record["method"]) == (name, method)
        reference = load_reference(f"{name}/HalfCheetah-v3")
        before = evaluate_policy(reference, env_id, 2, seed=EVALUATION_SEED).episode_rewards
        same = record["deterministic"]["rewards"] == pytest.approx(before.tolist(), abs=1e-3)
        assert same == (method == REFERENCE)


def test_missing_data_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"BallRun\.hdf5"):
        main("smoke", data=tmp_path, results=tmp_path / "results", cache=tmp_path / "cache")


def test_cells_of_different_references_are_trained_separately():
    checkpoints = [replace(cell("PREFINE"), reference=name, seed=seed) for seed in (0, 1) for name in ("ppo", "sac")]
    groups = run._groups(checkpoints)
    assert [{of.reference for of in group} for group in groups] == [{"ppo"}, {"sac"}]
    assert sum(map(len, groups)) == 4


def _process(number: int) -> tuple[int, int]:
    return number, os.getpid()


def test_joblib_uses_other_processes():
    found = list(run_all(_process, [(1,), (2,)], "joblib", 2))
    assert sorted(number for number, _ in found) == [1, 2]
    assert os.getpid() not in {process for _, process in found}
    assert list(run_all(_process, [(1,)], "in-process", 1)) == [(1, os.getpid())]
