"""Datasets are loaded and checked, and scores are normalized, as by the dsrl package."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from sb3_prefine import PreferenceBuffer, Trajectories, collect, dsrl
from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.dsrl import TASKS, Task
from tests.dsrl.test_filters import assert_same
from tests.dsrl.test_tasks import dsrl_module

FLOATS = ("observations", "next_observations", "actions", "rewards", "costs")


def columns_of(task: Task, lengths: tuple[int, ...] = (5, 3, 4), seed: int = 0) -> dict[str, np.ndarray]:
    """Make columns of episodes with the sizes of a task; MetaDrive's sizes are arbitrary."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    sizes = (task.observation_size or 9, task.action_size or 2)
    ends = np.isin(np.arange(1, n + 1), np.cumsum(lengths))
    return {
        "observations": rng.normal(size=(n, sizes[0])).astype(np.float32),
        "next_observations": rng.normal(size=(n, sizes[0])).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, sizes[1])).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "costs": rng.integers(0, 2, n).astype(np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": ends,
    }


def write(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, compression="gzip")
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder of datasets, and no network."""
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "datasets"


# Paths


def test_the_folder_is_that_dsrl_module(monkeypatch, tmp_path):
    name = "SafetyBallRun-v0-80-940.hdf5"
    assert dsrl.dataset_path("BallRun") == tmp_path / "datasets" / name
    monkeypatch.setenv("DSRL_DATASET_DIR", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dsrl.dataset_path("SafetyBallRun-v0") == tmp_path / "elsewhere" / name
    for unset in (lambda: monkeypatch.setenv("DSRL_DATASET_DIR", ""), lambda: monkeypatch.delenv("DSRL_DATASET_DIR")):
        unset()
        assert dsrl.dataset_path("OfflineBallRun-v0") == tmp_path / ".dsrl" / "datasets" / name


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_load_reads_the_file_of_each_task_from_the_folder(task, folder):
    columns = columns_of(task)
    write(folder / task.file_name, columns)
    for name in {task.name, task.env_id, task.dsrl_id} - {None}:
        assert_same(dsrl.load(name), Trajectories(**columns))
    assert_same(dsrl.load(task), Trajectories(**columns))


def test_load_reads_another_file_by_its_path(tmp_path):
    columns = columns_of(TASKS["CarGoal1"])
    path = write(tmp_path / "my own.hdf5", columns)
    assert_same(dsrl.load("CarGoal1", path), Trajectories(**columns))
    assert_same(dsrl.load("CarGoal1", str(path)), Trajectories(**columns))
    with pytest.raises(FileNotFoundError, match=r"other\.hdf5: "):
        dsrl.load("CarGoal1", tmp_path / "other.hdf5")


def test_dsrl_finds_and_reads_recorded_episodes(folder):
    """DSRL's own reader finds the file that was written here, and both read the same."""

    class Forward:
        def predict(self, observation: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.full((len(observation), 2), [1.0, 0.2], np.float32), None

    task = TASKS["BallRun"]
    recorded = collect(Forward(), task.env_id, 4, n_envs=2, seed=0, progress_bar=False)
    recorded.to_hdf5(dsrl.dataset_path(task), {"env": task.env_id, "seed": 0})
    loaded = dsrl.load("BallRun")
    assert_same(loaded, recorded)
    assert loaded.episode_costs.max() > 0

    env = dsrl_env(task)
    module = dsrl_module("offline_env")
    module.set_dataset_path(str(folder))
    assert env.dataset_filepath == str(dsrl.dataset_path(task))
    made = gymnasium.make(task.env_id)
    env.observation_space, env.action_space = made.observation_space, made.action_space
    made.close()
    read = env.get_dataset()
    assert read.keys() == set(COLUMNS)
    for name in COLUMNS:
        np.testing.assert_array_equal(read[name], getattr(loaded, name))
        assert read[name].dtype == getattr(loaded, name).dtype


def test_load_accepts_what_dsrls_reader_accepts(folder):
    """(N, 1) columns, float flags and doubles. DSRL does not flatten timeouts, so they are flat here."""
    task = TASKS["HopperVelocity"]
    columns = columns_of(task)
    variant = {name: column.astype(np.float64) for name, column in columns.items()}
    variant |= {name: variant[name][:, None] for name in ("rewards", "costs", "terminals")}
    path = write(folder / task.file_name, variant)
    loaded = dsrl.load(task)
    assert_same(loaded, Trajectories(**columns))
    env = dsrl_env(task)
    env.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (task.observation_size,))
    env.action_space = gymnasium.spaces.Box(-1, 1, (task.action_size,))
    read = env.get_dataset(str(path))
    for name in COLUMNS:
        np.testing.assert_array_equal(read[name], getattr(loaded, name))
    variant["timeouts"] = variant["timeouts"][:, None]
    assert_same(dsrl.load(task, write(folder / "flat.hdf5", variant)), loaded)


# Wrong files


def refused(folder: Path, task: str, message: str) -> None:
    """Loading raises an error with this message, and the file does not change."""
    path = folder / TASKS[task].file_name
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"(?s)^{path}: .*{message}.*load\(\)"):
        dsrl.load(task)
    assert path.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    # With another path, the message does not mention the download.
    copy = folder.parent / "copy.hdf5"
    copy.write_bytes(before)
    with pytest.raises(ValueError, match=rf"(?s)^{copy}: .*{message}") as caught:
        dsrl.load(task, copy)
    assert "load()" not in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(folder, part):
    path = write(folder / TASKS["BallRun"].file_name, columns_of(TASKS["BallRun"], (100,) * 20))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(folder, "BallRun", "not an HDF5 file" if part == 0 else "damaged")


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_files_that_are_not_hdf5_are_refused(folder, content):
    folder.mkdir()
    (folder / TASKS["BallRun"].file_name).write_bytes(content)
    refused(folder, "BallRun", "not an HDF5 file")


@pytest.mark.parametrize("name", COLUMNS)
def test_files_without_a_column_are_refused(folder, name):
    columns = columns_of(TASKS["BallRun"])
    columns[f"{name}_"] = columns.pop(name)
    write(folder / TASKS["BallRun"].file_name, columns)
    refused(folder, "BallRun", rf"lacks {name}; .*{name}_")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_rows_that_are_not_finite_are_refused(folder, name, value):
    columns = columns_of(TASKS["BallRun"])
    columns[name][7] = value
    write(folder / TASKS["BallRun"].file_name, columns)
    if name == "costs" and np.isnan(value):
        refused(folder, "BallRun", r"costs: 1 of 3 episodes .*episode 1")
    else:
        refused(folder, "BallRun", rf"{name}: 1 of 12 rows .*row 7")


def test_episodes_of_unknown_cost_are_refused(folder):
    """``Trajectories`` may contain them, a dataset of DSRL may not."""
    columns = columns_of(TASKS["BallRun"])
    columns["costs"][5:8] = np.nan
    path = write(folder / TASKS["BallRun"].file_name, columns)
    refused(folder, "BallRun", r"'costs' .*1 of 3 .*episode 1\)")
    assert np.isnan(Trajectories.from_hdf5(path).episode_costs).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": np.full(12, 0.5)}, "terminals: 12 of 12 rows"),
        ({"timeouts": np.zeros(12)}, "'terminals' or 'timeouts'"),
        ({"costs": np.full(12, -1.0)}, "costs: 12 of 12 rows"),
        ({"rewards": np.zeros((12, 2))}, r"rewards: .*\(12, 2\)"),
        ({"rewards": np.zeros(11)}, "columns: .*rewards 11"),
        ({"actions": np.zeros((12, 2), "S3")}, r"actions: .*\|S3"),
    ],
)
def test_wrong_columns_are_refused(folder, change, message):
    write(folder / TASKS["BallRun"].file_name, columns_of(TASKS["BallRun"]) | change)
    refused(folder, "BallRun", message)


def test_a_partial_last_episode_is_dropped_with_a_warning(folder):
    columns = columns_of(TASKS["BallRun"])
    columns["timeouts"][-1] = False
    path = write(folder / TASKS["BallRun"].file_name, columns)
    with pytest.warns(UserWarning, match=rf"{path}: .* 4 transitions"):
        loaded = dsrl.load("BallRun")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(loaded, Trajectories.from_hdf5(path))
    assert loaded.episode_lengths.tolist() == [5, 3]


# Datasets of another task


@pytest.mark.parametrize(
    ("of", "task", "lengths", "message"),
    [
        (
            "AntVelocity",
            "PointGoal1",
            (5,),
            r"27 and 8.*PointGoal1 .*60 and 2.*: AntVelocity\)",
        ),
        (
            "CarButton1",
            "CarGoal1",
            (5,),
            r"88 and 2.*72 and 2.*: CarButton1, CarButton2, CarPush1, CarPush2\)",
        ),
        (
            "CarRun",
            "BallRun",
            (3, 101),
            r"episode 1 has 101 steps.*BallRun .*100.*: CarRun\)",
        ),
        (
            "CarCircle",
            "BallCircle",
            (300,),
            r"episode 0 has 300 steps.*200.*: CarCircle, SwimmerVelocity\)",
        ),
        ("easysparse", "BallRun", (5,), r"9 and 2, .*: none\)"),
        ("easysparse", "hardmean", (1001,), r"episode 0 has 1001 steps, .*1000"),
    ],
)
def test_datasets_of_other_tasks_are_refused_by_their_sizes(folder, of, task, lengths, message):
    write(folder / TASKS[task].file_name, columns_of(TASKS[of], lengths))
    refused(folder, task, message)


def test_episodes_as_long_as_the_time_limit_are_loaded(folder):
    columns = columns_of(TASKS["BallRun"], (100, 99, 100))
    write(folder / TASKS["BallRun"].file_name, columns)
    assert_same(dsrl.load("BallRun"), Trajectories(**columns))


def test_datasets_of_other_tasks_are_refused_by_their_name(folder):
    """HalfCheetah and Walker2d have the same sizes and time limit, so only the name differs."""
    other = write(folder / TASKS["Walker2dVelocity"].file_name, columns_of(TASKS["Walker2dVelocity"]))
    with pytest.raises(ValueError, match=rf"^{other}: .*Walker2dVelocity.*HalfCheetahVelocity"):
        dsrl.load("HalfCheetahVelocity", other)


@pytest.mark.parametrize(
    "env", ["SafetyWalker2dVelocity-v1", "SafetyHalfCheetahVelocity-v0", "my.module:SafetyCarRun-v0"]
)
def test_datasets_recorded_in_another_environment_are_refused(folder, env):
    task = TASKS["HalfCheetahVelocity"]
    Trajectories(**columns_of(task)).to_hdf5(folder / task.file_name, {"env": env})
    refused(folder, task.name, rf"recorded in {env.rpartition(':')[2]}\..*HalfCheetahVelocity")


@pytest.mark.parametrize("env", ["SafetyHalfCheetahVelocity-v1", "MyHalfCheetah-v0", 3])
def test_other_notes_about_the_environment_are_accepted(folder, env):
    task = TASKS["HalfCheetahVelocity"]
    Trajectories(**columns_of(task)).to_hdf5(folder / task.file_name, {"env": env})
    assert_same(dsrl.load(task), Trajectories(**columns_of(task)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observations": {"a": np.zeros((12, 7))}, "next_observations": {"a": np.zeros((12, 7))}},
            "of a dict and 2",
        ),
        ({"actions": np.zeros(12)}, r"7 and \(\), .*BallRun .*7 and 2"),
        ({"actions": np.zeros((12, 1, 2))}, r"7 and \(1, 2\)"),
    ],
)
def test_observations_and_actions_must_be_vectors(folder, change, message):
    path = folder / TASKS["BallRun"].file_name
    Trajectories(**(columns_of(TASKS["BallRun"]) | change)).to_hdf5(path)
    refused(folder, "BallRun", message)


def test_unknown_tasks_are_refused_before_a_download(folder):
    with pytest.raises(ValueError, match=r"^task: '?.*BalRun.*BallRun"):
        dsrl.load("BalRun")
    assert not folder.exists()


# Scores


def dsrl_env(task: Task) -> Any:
    """Make dsrl's environment from its tables, without the simulator."""
    infos = dsrl_module("infos")
    return dsrl_module("offline_env").OfflineEnv(
        max_episode_reward=infos.MAX_EPISODE_REWARD[task.name],
        min_episode_reward=infos.MIN_EPISODE_REWARD[task.name],
        max_episode_cost=infos.MAX_EPISODE_COST[task.name],
        min_episode_cost=infos.MIN_EPISODE_COST[task.name],
        dataset_url=infos.DATASET_URLS[task.name],
    )


scores = arrays.arrays(np.float64, arrays.array_shapes(max_dims=2, min_side=0), elements=st.floats(-1e6, 1e6))


@given(st.sampled_from(list(TASKS.values())), scores, st.sampled_from([0, 0.5, 10, 20.0, 40, 80]))
def test_normalized_scores_equal_those_dsrl_module(task, values, kappa):
    env = dsrl_env(task)
    env.set_target_cost(kappa)
    expected_reward, expected_cost = env.get_normalized_score(values, values)
    np.testing.assert_array_equal(dsrl.normalized_reward(task, values), expected_reward)
    np.testing.assert_array_equal(dsrl.normalized_cost(values, kappa), expected_cost)
    assert dsrl.normalized_reward(task.name, values).shape == values.shape


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_range_of_the_dataset_is_normalized_to_0_and_1(task):
    assert dsrl.normalized_reward(task, [task.min_episode_reward, task.max_episode_reward]).tolist() == [0, 1]
    for kappa in task.target_costs:
        assert dsrl.normalized_cost([0, kappa, 2 * kappa], kappa).tolist() == [0, 1, 2]


def test_normalized_scores_by_hand():
    # (1000 - 5.7509765625) / (2806.93310546875 - 5.7509765625)
    assert float(dsrl.normalized_reward("HalfCheetahVelocity", 1000.0)) == pytest.approx(0.3549390856, abs=1e-9)
    assert float(dsrl.normalized_cost(30, 40)) == 0.75
    assert dsrl.normalized_cost([0, 3], 0).tolist() == [1, 4]
    assert np.isnan(dsrl.normalized_cost([np.nan, 1.0], 20)).tolist() == [True, False]


@pytest.mark.parametrize("kappa", [-1, np.nan, np.inf])
def test_normalized_cost_refuses_kappa_out_of_range(kappa):
    with pytest.raises(ValueError, match=rf"^kappa: .*{kappa}"):
        dsrl.normalized_cost([1.0], kappa)


def test_tau_chooses_data_and_kappa_judges():
    """A set that was chosen with one τ is judged with all κ of the task."""
    task = TASKS["BallRun"]
    columns = columns_of(task, (100,) * 40)
    columns["costs"][:2000] = 0
    t = Trajectories(**columns)
    buffer = PreferenceBuffer.from_costs(t, cost_limit=30, n_preferred=5, n_dispreferred=5)
    judged = [dsrl.normalized_cost(buffer.dispreferred.episode_costs, kappa).min() for kappa in task.target_costs]
    assert judged == [buffer.dispreferred.episode_costs.min() / kappa for kappa in (10, 20, 40)]


def test_importing_dsrl_does_not_import_torch_simulators_or_hub():
    code = (
        "import sys, sb3_prefine; before = set(sys.modules); import sb3_prefine.dsrl; "
        "print(*(set(sys.modules) - before), sep='\\n')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in shown.split()}
    assert "sb3_prefine" in loaded
    assert not loaded & {
        "torch",
        "dsrl",
        "huggingface_hub",
        "safety_gymnasium",
        "bullet_safety_gym",
        "pybullet",
        "mujoco",
    }
