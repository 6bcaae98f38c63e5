"""The paper's references and PREFINE, from a small file of data to a record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records
import references
import yaml
from references import EVALUATION_SEED, REF_QUANTILE, Options, main, run

import sb3_prefine.zoo
from sb3_prefine import Trajectories, collect, dsrl, evaluate_policy
from sb3_prefine.baselines import BC
from sb3_prefine.baselines.bc import highest_returns
from tests.benchmarks import agents

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # there are fewer episodes than the paper's
TASK = dsrl.find_task("BallRun")
TINY = Options(ref_steps=30, steps=20, episodes=2, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    episodes = [
        collect(agents.pushing(push), "SafetyBallRun-v0", 3, n_envs=3, seed=i, progress_bar=False)
        for i, push in enumerate(agents.PUSHES)
    ]
    Trajectories.concatenate(episodes).to_hdf5(folder / "BallRun.hdf5")
    return folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    main(("BallRun",), options=TINY, data=data, results=folder)
    return folder


@pytest.fixture(scope="module")
def record(results) -> dict[str, Any]:
    return records.load(results / "BallRun.json")


def test_the_record_has_the_episodes_of_everybody(record, data):
    trajectories = dsrl.load("BallRun", data / "BallRun.hdf5")
    for policy in ("reference", "prefine"):
        assert set(record[policy]) == {"rewards", "costs", "lengths"}
        assert [len(values) for values in record[policy].values()] == [2, 2, 2]
        assert record[policy]["lengths"] == [100, 100]
    # Below the limit, the better half by return (of 6 episodes, 3 of each push); at the limit or above, all.
    better = np.sort(trajectories.episode_returns[:6])[3:]
    assert sorted(record["preferred"]["rewards"]) == pytest.approx(better.tolist(), abs=1e-3)
    assert max(record["preferred"]["costs"]) < 40 <= min(record["dispreferred"]["costs"])
    assert len(record["dispreferred"]["rewards"]) == 6


def test_the_record_says_how_it_was_made(record, data):
    with open(Path(sb3_prefine.zoo.__file__).parent / "hyperparams" / "prefine.yml") as file:
        assert record["settings"] == yaml.safe_load(file)["SafetyBallRun-v0"]
    assert record["data"] == {"episodes": 12, "sha256": records.checksum(data / "BallRun.hdf5")}
    names = ("policy", "ref_quantile", "ref_steps", "steps", "seed")
    assert [record[name] for name in names] == ["GaussianPolicy", REF_QUANTILE, 30, 20, 5]
    assert set(record["cpu_seconds"]) == {"reference", "prefine", "evaluation"}
    assert min(record["cpu_seconds"].values()) > 0
    assert {"python", "torch", "mujoco", "pybullet", "bullet-safety-gym"} <= set(record["versions"])
    assert record["date"] == records.today()


def test_the_reference_is_cloned_from_the_highest_returns_whatever_they_cost(record, data):
    """Cloned once more by hand, it gets the same episodes."""
    trajectories = dsrl.load("BallRun", data / "BallRun.hdf5")
    best = trajectories[highest_returns(trajectories, REF_QUANTILE)]
    assert best.episode_costs.min() > 80  # three of twelve: the agent that pushes hardest
    clone = BC("GaussianPolicy", trajectories, env=TASK.env_id, ref_quantile=REF_QUANTILE, seed=5, device="cpu")
    evaluation = evaluate_policy(clone.learn(30), TASK.env_id or "", 2, seed=EVALUATION_SEED + 5)
    assert record["reference"]["rewards"] == pytest.approx(evaluation.episode_rewards.tolist(), abs=1e-3)
    assert record["prefine"]["rewards"] != record["reference"]["rewards"]


def test_a_result_that_is_there_is_not_done_again(results, data, capsys, monkeypatch):
    path = results / "BallRun.json"
    before = path.read_bytes()
    monkeypatch.setattr(references, "run", lambda *_: pytest.fail("done again"))
    main(("BallRun",), options=TINY, data=data, results=results)
    assert path.read_bytes() == before
    assert "BallRun.json is there already; remove it" in capsys.readouterr().out


def test_a_record_has_a_line_for_each_entry(results):
    lines = (results / "BallRun.json").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("{", "}")
    entries = [json.loads(f"{{{line.rstrip(',')}}}") for line in lines[1:-1]]
    assert all(len(entry) == 1 for entry in entries)


def test_what_is_missing_or_wrong_is_said(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CarRun.hdf5: there is no such file"):
        main(("CarRun",), options=TINY, data=data, results=tmp_path)
    with pytest.raises(ValueError, match="AntCircle is not one of the paper's twelve"):
        main(("AntCircle",), options=TINY, data=data, results=tmp_path)
    with pytest.raises(ValueError, match="These are episodes of another task"):
        run(dsrl.find_task("DroneRun"), data / "BallRun.hdf5", TINY)
    assert list(tmp_path.iterdir()) == []
