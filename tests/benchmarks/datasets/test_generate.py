"""Generated files in DSRL's layout, from agents to bytes."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks import paper, records
from benchmarks.datasets import generate
from benchmarks.datasets.behaviors import Behaviors
from benchmarks.datasets.generate import (
    GRID_SIZE,
    WEIGHTS,
    describe_episodes,
    describe_sets,
    n_dsrl_episodes,
    roll_out,
    rollout,
    thin,
    train,
)
from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.recipes import GOAL_SEEKERS, N_EPISODES, NOISE_FACTORS, RECIPES
from sb3_prefine import PreferenceBuffer, Trajectories, dsrl
from tests.benchmarks import agents

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper
TASK = dsrl.find_task("BallRun")
EPISODES_IN_ALL = 22


def one_step_episodes(returns: np.ndarray, costs: np.ndarray, task: dsrl.Task = TASK) -> Trajectories:
    """Make episodes of one step."""
    n = len(returns)
    observations = np.random.default_rng(0).normal(size=(n, task.observation_size or 0))
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=np.zeros((n, task.action_size or 0), np.float32),
        rewards=np.asarray(returns, np.float32),
        costs=np.asarray(costs, np.float32),
        terminals=np.zeros(n, bool),
        timeouts=np.ones(n, bool),
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return agents.save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights) -> dict[int, Path]:
    """Folders with data/ and results/ that one process and two processes wrote, by number of processes."""
    folders = {workers: tmp_path_factory.mktemp(f"workers{workers}") for workers in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "WEIGHTS", weights)
        patch.setattr(generate, "NOISE_FACTORS", {"BallRun": (1.0,)})
        for workers, folder in folders.items():
            rollout(("BallRun",), folder / "data", folder / "results", EPISODES_IN_ALL, seed=4, workers=workers)
    return folders


def record(folder: Path) -> dict[str, Any]:
    return records.load(folder / "results" / "BallRun.json")


def test_one_and_two_processes_write_equal_bytes(made):
    one, two = (folder / "data" / "BallRun.hdf5" for folder in made.values())
    assert one.read_bytes() == two.read_bytes()
    records_made = [record(folder) for folder in made.values()]
    for r in records_made:
        assert r.pop("cpu_seconds") > 0
    assert records_made[0] == records_made[1]


def test_file_is_a_dataset_of_its_task(made):
    trajectories = dsrl.load("BallRun", made[1] / "data" / "BallRun.hdf5")
    # The agents have 6, 6, 5 and 5 episodes, and those of the last agent exceed DSRL's highest cost.
    assert len(trajectories) == 17
    assert set(trajectories.episode_lengths) == {100}
    assert trajectories.episode_costs.max() <= TASK.max_episode_cost
    pushes = np.array([episode.actions[:, 0].mean() for episode in trajectories])
    np.testing.assert_allclose(pushes, np.repeat(agents.PUSHES[:3], [6, 6, 5]), atol=0.03)
    # Actions are stochastic, and differ between episodes.
    assert 0.03 < trajectories.actions[:, 1].std() < 0.07
    assert len(np.unique(trajectories.episode_returns)) == 17


def test_file_attributes_have_provenance(made, weights):
    path = made[1] / "data" / "BallRun.hdf5"
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    assert "not DSRL's" in attributes["origin"]
    assert attributes["env"] == TASK.env_id
    assert attributes["seed"] == 4
    assert attributes["command"].endswith("rollout BallRun --episodes 22 --seed 4")
    assert attributes["agents"] == len(agents.PUSHES)
    assert attributes["agents_from"] == f"SHA-256 {records.checksum(weights / 'BallRun.npz')}"
    for package in ("python", "mujoco", "numpy", "bullet-safety-gym", "sb3-prefine"):
        assert attributes[package]


def test_record_describes_the_file(made):
    path = made[1] / "data" / "BallRun.hdf5"
    trajectories, found = Trajectories.from_hdf5(path), record(made[1])
    assert (found["sha256"], found["bytes"]) == (records.checksum(path), path.stat().st_size)
    assert (found["rolled_out"], found["episodes"], found["transitions"]) == (22, 17, 1700)
    np.testing.assert_allclose(found["returns"], trajectories.episode_returns, atol=0.006)
    np.testing.assert_array_equal(found["costs"], trajectories.episode_costs)
    assert found["mean_return"] == pytest.approx(np.mean(trajectories.episode_returns), abs=1e-3)
    assert found["std_cost"] == pytest.approx(np.std(trajectories.episode_costs), abs=1e-3)
    # The sets are PREFINE's: the better half of costs below 40, and the costliest.
    assert found["cost_limit"] == 40
    assert set(found["preferred"]) <= set(range(12))
    assert found["dispreferred"] == [12, 13, 14, 15, 16]
    assert found["versions"]["mujoco"]


def test_same_file_keeps_its_record(made, tmp_path):
    path, found = tmp_path / "BallRun.json", record(made[1])
    assert records.save_if_new(path, found)
    before = path.read_bytes()
    assert not records.save_if_new(path, {**found, "cpu_seconds": 1.0, "date": "2000-01-01"})
    assert path.read_bytes() == before
    assert records.save_if_new(path, {**found, "sha256": "another"})
    assert json.loads(path.read_text())["sha256"] == "another"


def test_other_seed_gives_other_episodes(weights, monkeypatch):
    monkeypatch.setattr(generate, "WEIGHTS", weights)
    monkeypatch.setattr(generate, "ProcessPoolExecutor", InThisProcess)
    one, same, other = (roll_out(TASK, 4, seed, 1) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.actions, same.actions)
    assert (one.actions != other.actions).any(axis=1).mean() > 0.9


class InThisProcess:
    """A pool in this process, because starting another process takes longer than the episodes."""

    def __init__(self, workers: int, mp_context: multiprocessing.context.BaseContext):
        assert mp_context.get_start_method() == "spawn"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    map = staticmethod(map)


def test_thinning_keeps_all_of_few_episodes():
    costs = np.array([0.0, 80.0, 81.0, 40.0])
    kept = thin(one_step_episodes(np.arange(4.0), costs), TASK)
    np.testing.assert_array_equal(kept.episode_costs, [0.0, 80.0, 40.0])


@pytest.mark.parametrize("n", [941, 3000])
def test_thinning_fills_plane_up_to_dsrls_number_of_episodes(n):
    rng = np.random.default_rng(0)
    # Half of the episodes are in one corner, the others everywhere, some above the highest cost.
    crowd = rng.random(n) < 0.5
    returns = np.where(crowd, rng.uniform(0, 5, n), rng.uniform(0, 1000, n))
    costs = np.where(crowd, 0.0, rng.integers(0, 91, n))
    everything = one_step_episodes(returns, costs)
    allowed = everything[costs <= 80]
    kept = thin(everything, TASK)
    assert kept.episode_costs.max() <= 80
    assert len(kept) <= n_dsrl_episodes(TASK) == 940
    if len(allowed) <= 940:
        assert len(kept) == len(allowed)
        return

    # By hand: counts per cell, cut at the highest limit that keeps few enough episodes.
    def cell(values: np.ndarray) -> np.ndarray:
        return np.floor((values - values.min()) / (values.max() - values.min()) * GRID_SIZE).astype(int)

    cells = cell(allowed.episode_costs) * 100 + cell(allowed.episode_returns)
    _, counts = np.unique(cells, return_counts=True)
    sizes = [np.minimum(counts, most).sum() for most in range(1, len(allowed))]
    assert len(kept) == max(size for size in sizes if size <= 940) > 700
    assert (kept.episode_costs == 0).mean() < (allowed.episode_costs == 0).mean()


def test_number_of_dsrl_episodes_comes_from_file_names():
    assert {name: n_dsrl_episodes(dsrl.find_task(name)) for name in ("AntVelocity", "CarRun", "PointGoal1")} == {
        "AntVelocity": 2249,
        "CarRun": 651,
        "PointGoal1": 2022,
    }


def test_sets_are_chosen_as_in_the_paper():
    rng = np.random.default_rng(1)
    trajectories = one_step_episodes(rng.uniform(0, 1000, 600), rng.integers(0, 81, 600))
    found = describe_sets(trajectories, TASK, seed=0)
    expected = PreferenceBuffer.from_costs(trajectories, cost_limit=40, n_preferred=100, n_dispreferred=20, seed=0)
    assert found["preferred"] == expected.preferred_ids.tolist()  # type: ignore[union-attr]
    assert found["dispreferred"] == expected.dispreferred_ids.tolist()  # type: ignore[union-attr]
    assert (len(found["preferred"]), len(found["dispreferred"])) == (paper.N_PREFERRED, paper.N_DISPREFERRED)
    assert describe_episodes(trajectories)["episodes"] == 600


def test_car_run_has_both_sets_although_no_episode_is_unsafe():
    """No episode in DSRL's data costs more than 40."""
    task = dsrl.find_task("CarRun")
    rng = np.random.default_rng(1)
    trajectories = one_step_episodes(rng.uniform(200, 570, 600), rng.integers(0, 39, 600), task)
    found = describe_sets(trajectories, task, seed=0)
    assert len(found["dispreferred"]) == 20
    assert trajectories.episode_costs[found["dispreferred"]].min() > 25


def test_every_task_has_recipe_and_number_of_episodes():
    assert set(RECIPES) == set(N_EPISODES) == set(dsrl.PAPER_TASKS)


@pytest.mark.parametrize("task", GOAL_SEEKERS)
def test_scripted_agents_follow_the_trained_ones(task, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "WEIGHTS", tmp_path)
    (tmp_path / f"{task}.npz").write_bytes((weights / "BallRun.npz").read_bytes())
    found = generate.agents_of(dsrl.find_task(task))
    assert len(found) == len(agents.PUSHES) * len(NOISE_FACTORS[task]) + len(GOAL_SEEKERS[task])
    scripted = [agent for agent in found if isinstance(agent, GoalSeeker)]
    assert scripted == GOAL_SEEKERS[task]
    assert all(task.startswith(seeker.robot) for seeker in scripted)


def test_trained_agents_act_with_several_noise_levels(weights, monkeypatch):
    monkeypatch.setattr(generate, "WEIGHTS", weights)
    found = generate.agents_of(TASK)[: len(NOISE_FACTORS[TASK.name])]
    own = Behaviors.load(weights / "BallRun.npz")[0]
    observations = np.zeros((20_000, 7))
    for agent, factor in zip(found, NOISE_FACTORS[TASK.name], strict=True):
        np.testing.assert_array_equal(*(a.predict(observations[:1], deterministic=True)[0] for a in (agent, own)))
        actions, _ = agent.predict(observations)
        np.testing.assert_allclose(actions.std(axis=0), factor * np.exp(own.log_std), rtol=0.03)


def test_committed_agents_fit_their_tasks_and_are_small():
    paths = sorted(WEIGHTS.glob("*"))
    assert {path.stem for path in paths} == set(RECIPES)
    for path in paths:
        task = dsrl.find_task(path.stem)
        behaviors = Behaviors.load(path)
        actions, _ = behaviors[-1].predict(np.zeros((3, task.observation_size or 0)))
        assert actions.shape == (3, task.action_size)
        assert np.isfinite(actions).all()
        assert len(behaviors) >= 5 * len(RECIPES[path.stem].timesteps)
    assert sum(path.stat().st_size for path in paths) < 5e6


def test_invalid_tasks_and_numbers_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="BallRum"):
        rollout(("BallRum",), tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"^tasks: .*AntCircle"):
        train(("AntCircle",))
    with pytest.raises(ValueError, match=r"^tasks: .*AntVelocity"):
        rollout((), tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"BallRun\.npz: .*generate train BallRun"):
        rollout(("BallRun",), tmp_path, tmp_path)
    for episodes, workers in ((0, 2), (10, 0)):
        with pytest.raises(ValueError, match=rf"^episodes, workers: .*\b{episodes}\b.*\b{workers}\b"):
            rollout(("BallRun",), tmp_path, tmp_path, episodes=episodes, workers=workers)
    with pytest.raises(ValueError, match=r"^BallRun: .*3 episodes.*80"):
        thin(one_step_episodes(np.zeros(3), np.full(3, 90.0)), TASK)
    assert list(tmp_path.iterdir()) == []


def test_training_writes_weights_and_record(tmp_path, monkeypatch):
    """The training itself is tested in test_lagrangian.py."""
    behaviors = Behaviors.load(agents.save(tmp_path / "made") / "BallRun.npz")
    asked: list[Any] = []

    def trained(env_id: str, recipe: Any, folder: Path, seed: int) -> Behaviors:
        folder.mkdir(parents=True)
        (folder / "state.json").write_text('{"num_timesteps": 1, "multiplier": 0.0, "cpu_seconds": 12.5}')
        asked.append((env_id, recipe, seed))
        return behaviors

    monkeypatch.setattr(generate, "train_behaviors", trained)
    monkeypatch.setattr(generate, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(generate, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(generate, "RESULTS", tmp_path / "results")
    train(("SafetyBallRun-v0",), seed=3)
    assert asked == [(TASK.env_id, RECIPES["BallRun"], 3)]
    assert (tmp_path / "cache" / "BallRun-3").is_dir()
    assert len(generate.agents_of(TASK)) == len(agents.PUSHES) * len(NOISE_FACTORS[TASK.name])
    found = records.load(tmp_path / "results" / "agents" / "BallRun.json")
    assert found["sha256"] == records.checksum(tmp_path / "weights" / "BallRun.npz")
    assert (found["agents"], found["cpu_seconds"], found["seed"]) == (4, 12.5, 3)
    assert found["timesteps"] == sum(RECIPES["BallRun"].timesteps)
