"""The cost gap during training, from a small file of real episodes to a record and a figure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import sb3_prefine.evaluation.cost_gap
from benchmarks import paper, records
from benchmarks.analyses import cost_gap
from benchmarks.analyses.cost_gap import main, run
from benchmarks.analyses.cost_gap_picture import COLORS, draw, phase_means
from benchmarks.datasets.behaviors import Behaviors
from benchmarks.datasets.generate import WEIGHTS
from benchmarks.paths import IMAGES, RESULTS
from benchmarks.runs.cells import Cell, Folders, prepare
from benchmarks.runs.methods import Method
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import TIERS
from sb3_prefine import PREFINE, Trajectories, collect, dsrl
from sb3_prefine.evaluation.one_step_cost import one_step_costs

# The data have fewer episodes than the paper.
pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")
TASK = dsrl.find_task("Walker2dVelocity")
ENV_ID = "SafetyWalker2dVelocity-v1"
TINY = replace(TIERS["smoke"].budget, ref_steps=30, steps=6)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two short episodes each of a running and of a walking agent."""
    folder = tmp_path_factory.mktemp("data")
    runners = Behaviors.load(WEIGHTS / "Walker2dVelocity.npz")

    def short() -> gymnasium.Env:
        return gymnasium.make(ENV_ID, max_episode_steps=200)

    found = [
        collect(runners[i], short, 2, n_envs=2, deterministic=True, seed=i, progress_bar=False)
        for i in (0, len(runners) - 1)
    ]
    Trajectories.concatenate(found).to_hdf5(folder / "Walker2dVelocity.hdf5")
    return folder


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory) -> Folders:
    return Folders(data, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def record(folders) -> dict[str, Any]:
    return run(TASK, folders, TINY, SEEDS, measurements=3)


def test_record_starts_at_reference_and_ends_at_trained_policy(record, folders):
    """The expected policy is trained without a callback."""
    costs = one_step_costs(gymnasium.make(ENV_ID))
    seed = 1
    setting = prepare(Cell(TASK.name, Method.parse("PREFINE"), Selection(draw=seed), seed, TINY), folders)
    sets, reference = setting.preferences, setting.reference
    usual = {name: paper.settings(TASK)[name] for name in ("learning_rate", "batch_size", "beta", "sft_coef")}
    trained = PREFINE(reference, sets, seed=seed, device="cpu", **usual).learn(6)
    assert record["timesteps"] == [0, 2, 4, 6]
    for name in ("preferred", "dispreferred"):
        found, episodes = record["runs"][seed][name], getattr(sets, name)
        assert found["recorded"] == pytest.approx(episodes.episode_costs.mean(), abs=1e-3)
        assert found["episodes"] == len(episodes)
        for position, policy in ((0, reference), (-1, trained)):
            gap = sb3_prefine.evaluation.cost_gap.cost_gap(policy, episodes, costs, seed)
            assert found["gap"][position] == pytest.approx(np.abs(gap.recorded - gap.sampled).mean(), abs=1e-3)
            assert found["sampled"][position] == pytest.approx(gap.sampled.mean(), abs=1e-3)


def test_record_has_simulator_error_and_gap_of_random_actions(record):
    for run_ in record["runs"]:
        for name in ("preferred", "dispreferred"):
            assert run_[name]["repeated"]["same"] > 0.98
            assert run_[name]["repeated"]["gap"] <= (1 - run_[name]["repeated"]["same"]) * 200 + 1e-2
            assert 0 <= run_[name]["uniform"]["sampled"] <= 200
        assert run_["dispreferred"]["uniform"]["gap"] > run_["dispreferred"]["repeated"]["gap"]


def test_record_has_settings_and_versions(record, data):
    assert record["settings"] == paper.settings(TASK)
    assert record["data_sha256"] == records.checksum(data / f"{TASK.name}.hdf5")
    names = ("policy", "ref_quantile", "ref_steps", "steps")
    assert [record[name] for name in names] == ["GaussianPolicy", 0.2, 30, 6]
    assert [run_["seed"] for run_ in record["runs"]] == [0, 1]


def test_existing_record_is_drawn_but_not_measured_again(folders, record, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost_gap, "run", lambda *_: pytest.fail("measured again"))
    records.save(tmp_path / "smoke" / "cost_gap" / f"{TASK.name}.json", record)
    picture = tmp_path / "images" / "cost_gap.png"
    main((TASK.name,), tier="smoke", data=folders.data, results=tmp_path, cache=folders.cache, picture=picture)
    assert picture.read_bytes() == draw({TASK.name: record})
    assert "Walker2dVelocity.json exists already" in capsys.readouterr().out


def test_missing_record_is_measured(folders, record, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cost_gap, "run", lambda *args: asked.append(args) or record)
    where = {"data": folders.data, "results": tmp_path, "cache": folders.cache, "picture": tmp_path / "p.png"}
    main((TASK.name,), tier="small", **where)
    assert asked == [(TASK, folders, TIERS["small"].budget, TIERS["small"].seeds, 10)]
    assert records.load(tmp_path / "small" / "cost_gap" / f"{TASK.name}.json") == record


def test_invalid_measurements_and_missing_data_raise(folders, tmp_path):
    for measurements in (4, 2):
        with pytest.raises(ValueError, match=rf"^measurements: .*\b{measurements}\b"):
            run(TASK, folders, TINY, SEEDS, measurements)
    with pytest.raises(FileNotFoundError, match="HopperVelocity"):
        main(("HopperVelocity",), data=folders.data, results=tmp_path, cache=folders.cache)


# The figure


def made_up(gaps: list[list[float]], steps: int = 6) -> dict[str, Any]:
    def of_set(factor: float) -> list[dict[str, Any]]:
        return [
            {"gap": [factor * gap for gap in each], "sampled": each, "recorded": 1.0, "uniform": {"gap": 0.5}}
            for each in gaps
        ]

    runs = [{"preferred": p, "dispreferred": np_} for p, np_ in zip(of_set(1), of_set(10), strict=True)]
    return {"timesteps": list(range(steps + 1)), "steps": steps, "runs": runs}


def test_phase_means_match_hand_computed_thirds():
    record = made_up([[9, 1, 3, 2, 4, 5, 7], [8, 0, 0, 1, 1, 2, 2]])
    np.testing.assert_allclose(phase_means(record, "preferred"), [[9, 2, 3, 6], [8, 0, 1, 2]])
    np.testing.assert_allclose(phase_means(record, "dispreferred"), [[90, 20, 30, 60], [80, 0, 10, 20]])


def test_higher_gap_has_higher_bar(tmp_path):
    def bar(gap: float, color: str) -> int:
        path = tmp_path / "gap.png"
        path.write_bytes(draw({"Walker2dVelocity": made_up([[8, *[gap] * 3, *[8] * 3]])}))
        pixels = imread(path)[:, :, :3]
        half = pixels[:, : pixels.shape[1] // 2]
        return int((np.abs(half - to_rgb(color)).max(axis=-1) < 0.02).sum())

    assert bar(7, COLORS["preferred"]) > bar(2, COLORS["preferred"]) > 0
    assert bar(7, COLORS["dispreferred"]) > bar(2, COLORS["dispreferred"]) > 0


# The committed records


@pytest.mark.parametrize("name", cost_gap.TASKS)
def test_committed_records_name_the_committed_data(name):
    record = records.load(RESULTS / "small" / "cost_gap" / f"{name}.json")
    assert record["data_sha256"] == records.load(RESULTS / "data" / f"{name}.json")["sha256"]
    assert {len(run_[of]["gap"]) for run_ in record["runs"] for of in COLORS} == {len(record["timesteps"])}
    assert phase_means(record, "preferred").shape == (len(record["runs"]), 4)
    assert (IMAGES / "cost_gap.png").exists()
