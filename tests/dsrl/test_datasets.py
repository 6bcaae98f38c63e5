"""Loading datasets of DSRL's tasks, and their scores, against the dsrl package's own code."""

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
from tests.dsrl.test_tasks import of_dsrl

FLOATS = ("observations", "next_observations", "actions", "rewards", "costs")


def of_task(task: Task, lengths: tuple[int, ...] = (5, 3, 4), seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of episodes with a task's sizes; MetaDrive's are some sizes."""
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
    """An empty folder of datasets, and no network."""
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "datasets"


# Where the files are


def test_the_folder_is_dsrls(monkeypatch, tmp_path):
    name = "SafetyBallRun-v0-80-940.hdf5"
    assert dsrl.dataset_path("BallRun") == tmp_path / "datasets" / name
    monkeypatch.setenv("DSRL_DATASET_DIR", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dsrl.dataset_path("SafetyBallRun-v0") == tmp_path / "elsewhere" / name
    for unset in (lambda: monkeypatch.setenv("DSRL_DATASET_DIR", ""), lambda: monkeypatch.delenv("DSRL_DATASET_DIR")):
        unset()
        assert dsrl.dataset_path("OfflineBallRun-v0") == tmp_path / ".dsrl" / "datasets" / name


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_file_of_every_task_is_loaded_from_there(task, folder):
    columns = of_task(task)
    write(folder / task.file_name, columns)
    for name in {task.name, task.env_id, task.dsrl_id} - {None}:
        assert_same(dsrl.load(name), Trajectories(**columns))
    assert_same(dsrl.load(task), Trajectories(**columns))


def test_a_file_elsewhere_is_loaded_by_its_path(tmp_path):
    columns = of_task(TASKS["CarGoal1"])
    path = write(tmp_path / "my own.hdf5", columns)
    assert_same(dsrl.load("CarGoal1", path), Trajectories(**columns))
    assert_same(dsrl.load("CarGoal1", str(path)), Trajectories(**columns))
    with pytest.raises(FileNotFoundError, match=r"other\.hdf5: there is no such file"):
        dsrl.load("CarGoal1", tmp_path / "other.hdf5")


def test_the_paths_of_real_episodes_and_of_dsrl_meet(folder):
    """Recorded in Bullet, written here, read here and by DSRL's own reader from the same place."""

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
    module = of_dsrl("offline_env")
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


def test_what_dsrls_reader_takes_is_taken(folder):
    """(N, 1) columns, float flags and doubles; DSRL leaves timeouts as they are, so those stay flat here."""
    task = TASKS["HopperVelocity"]
    columns = of_task(task)
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


# Bad files


def refused(folder: Path, task: str, message: str) -> None:
    """Loading is refused with this, and the file stays as it is."""
    path = folder / TASKS[task].file_name
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"(?s)^{path}: .*{message}.*\(The file stays where it is; without it, load\(\)"
    ):
        dsrl.load(task)
    assert path.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    # The same from elsewhere, without advice on what would be downloaded.
    copy = folder.parent / "copy.hdf5"
    copy.write_bytes(before)
    with pytest.raises(ValueError, match=rf"(?s)^{copy}: .*{message}") as caught:
        dsrl.load(task, copy)
    assert "load()" not in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_named(folder, part):
    path = write(folder / TASKS["BallRun"].file_name, of_task(TASKS["BallRun"], (100,) * 20))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(folder, "BallRun", "not an HDF5 file" if part == 0 else "cut off or damaged")


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_hdf5_is_named(folder, content):
    folder.mkdir()
    (folder / TASKS["BallRun"].file_name).write_bytes(content)
    refused(folder, "BallRun", "not an HDF5 file")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(folder, name):
    columns = of_task(TASKS["BallRun"])
    columns[f"{name}_"] = columns.pop(name)
    write(folder / TASKS["BallRun"].file_name, columns)
    refused(folder, "BallRun", rf"lacks {name}; at its root are .*{name}_")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_a_row_that_is_not_finite_is_named(folder, name, value):
    columns = of_task(TASKS["BallRun"])
    columns[name][7] = value
    write(folder / TASKS["BallRun"].file_name, columns)
    if name == "costs" and np.isnan(value):
        refused(folder, "BallRun", r"costs: 1 of 3 episodes are NaN in some rows only \(first: episode 1")
    else:
        refused(folder, "BallRun", rf"{name}: 1 of 12 rows are .*infinite.* \(first: row 7")


def test_episodes_of_unknown_cost_are_named(folder):
    """``Trajectories`` may hold them; a dataset of DSRL's may not."""
    columns = of_task(TASKS["BallRun"])
    columns["costs"][5:8] = np.nan
    path = write(folder / TASKS["BallRun"].file_name, columns)
    refused(folder, "BallRun", r"'costs' is NaN in 1 of 3 episodes \(first: episode 1\).*Trajectories\.from_hdf5")
    assert np.isnan(Trajectories.from_hdf5(path).episode_costs).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": np.full(12, 0.5)}, "terminals: 12 of 12 rows are neither 0 nor 1"),
        ({"timeouts": np.zeros(12)}, "no row of 'terminals' or 'timeouts' is set"),
        ({"costs": np.full(12, -1.0)}, "costs: 12 of 12 rows are negative"),
        ({"rewards": np.zeros((12, 2))}, r"rewards: the shape is \(12, 2\)"),
        ({"rewards": np.zeros(11)}, "columns have different lengths"),
        ({"actions": np.zeros((12, 2), "S3")}, r"actions: the dtype is \|S3"),
    ],
)
def test_columns_that_make_no_episodes_are_named(folder, change, message):
    write(folder / TASKS["BallRun"].file_name, of_task(TASKS["BallRun"]) | change)
    refused(folder, "BallRun", message)


def test_a_partial_last_episode_is_dropped_with_a_warning(folder):
    columns = of_task(TASKS["BallRun"])
    columns["timeouts"][-1] = False
    path = write(folder / TASKS["BallRun"].file_name, columns)
    with pytest.warns(UserWarning, match=rf"{path}: dropped the last 4 transitions, which belong to an episode"):
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
            r"sizes 27 and 8, those of PointGoal1 have 60 and 2.*\(fitting: AntVelocity\)",
        ),
        (
            "CarButton1",
            "CarGoal1",
            (5,),
            r"sizes 88 and 2, .* 72 and 2.*\(fitting: CarButton1, CarButton2, CarPush1, CarPush2\)",
        ),
        (
            "CarRun",
            "BallRun",
            (3, 101),
            r"episode 1 has 101 steps, those of BallRun end after 100.*\(fitting: CarRun\)",
        ),
        (
            "CarCircle",
            "BallCircle",
            (300,),
            r"episode 0 has 300 steps, .* after 200 at the latest.*\(fitting: CarCircle, SwimmerVelocity\)",
        ),
        ("easysparse", "BallRun", (5,), r"sizes 9 and 2, .*\(fitting: none\)"),
        ("easysparse", "hardmean", (1001,), r"episode 0 has 1001 steps, .* after 1000"),
    ],
)
def test_the_dataset_of_another_task_is_named_by_what_it_fits(folder, of, task, lengths, message):
    write(folder / TASKS[task].file_name, of_task(TASKS[of], lengths))
    refused(folder, task, message)


def test_episodes_as_long_as_the_horizon_are_in_order(folder):
    columns = of_task(TASKS["BallRun"], (100, 99, 100))
    write(folder / TASKS["BallRun"].file_name, columns)
    assert_same(dsrl.load("BallRun"), Trajectories(**columns))


def test_the_dataset_of_another_task_is_known_by_its_name(folder):
    """Where nothing in the file could tell: HalfCheetah and Walker2d have the same sizes and horizon."""
    other = write(folder / TASKS["Walker2dVelocity"].file_name, of_task(TASKS["Walker2dVelocity"]))
    with pytest.raises(ValueError, match="by its name this is the dataset of Walker2dVelocity, not of HalfCheetahVel"):
        dsrl.load("HalfCheetahVelocity", other)


@pytest.mark.parametrize(
    "env", ["SafetyWalker2dVelocity-v1", "SafetyHalfCheetahVelocity-v0", "my.module:SafetyCarRun-v0"]
)
def test_episodes_of_another_environment_are_known_by_what_was_noted(folder, env):
    task = TASKS["HalfCheetahVelocity"]
    Trajectories(**of_task(task)).to_hdf5(folder / task.file_name, {"env": env})
    refused(folder, task.name, rf"recorded in {env.rpartition(':')[2]}, which is not the environment of Half")


@pytest.mark.parametrize("env", ["SafetyHalfCheetahVelocity-v1", "MyHalfCheetah-v0", 3])
def test_what_was_noted_otherwise_is_no_reason_to_refuse(folder, env):
    task = TASKS["HalfCheetahVelocity"]
    Trajectories(**of_task(task)).to_hdf5(folder / task.file_name, {"env": env})
    assert_same(dsrl.load(task), Trajectories(**of_task(task)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observations": {"a": np.zeros((12, 7))}, "next_observations": {"a": np.zeros((12, 7))}},
            "sizes of a dict and 2",
        ),
        ({"actions": np.zeros(12)}, r"sizes 7 and \(\), those of BallRun have 7 and 2"),
        ({"actions": np.zeros((12, 1, 2))}, r"sizes 7 and \(1, 2\)"),
    ],
)
def test_observations_and_actions_that_are_no_vectors_are_of_another_task(folder, change, message):
    path = folder / TASKS["BallRun"].file_name
    Trajectories(**(of_task(TASKS["BallRun"]) | change)).to_hdf5(path)
    refused(folder, "BallRun", message)


def test_an_unknown_task_is_refused_before_anything_is_fetched(folder):
    with pytest.raises(ValueError, match="Did you mean BallRun"):
        dsrl.load("BalRun")
    assert not folder.exists()


# Scores


def dsrl_env(task: Task) -> Any:
    """The environment that dsrl makes of its tables, without the simulator."""
    infos = of_dsrl("infos")
    return of_dsrl("offline_env").OfflineEnv(
        max_episode_reward=infos.MAX_EPISODE_REWARD[task.name],
        min_episode_reward=infos.MIN_EPISODE_REWARD[task.name],
        max_episode_cost=infos.MAX_EPISODE_COST[task.name],
        min_episode_cost=infos.MIN_EPISODE_COST[task.name],
        dataset_url=infos.DATASET_URLS[task.name],
    )


scores = arrays.arrays(np.float64, arrays.array_shapes(max_dims=2, min_side=0), elements=st.floats(-1e6, 1e6))


@given(st.sampled_from(list(TASKS.values())), scores, st.sampled_from([0, 0.5, 10, 20.0, 40, 80]))
def test_normalised_scores_are_exactly_dsrls(task, values, kappa):
    env = dsrl_env(task)
    env.set_target_cost(kappa)
    expected_reward, expected_cost = env.get_normalized_score(values, values)
    np.testing.assert_array_equal(dsrl.normalized_reward(task, values), expected_reward)
    np.testing.assert_array_equal(dsrl.normalized_cost(values, kappa), expected_cost)
    assert dsrl.normalized_reward(task.name, values).shape == values.shape


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_range_of_the_dataset_is_normalised_to_0_and_1(task):
    assert dsrl.normalized_reward(task, [task.min_episode_reward, task.max_episode_reward]).tolist() == [0, 1]
    for kappa in task.target_costs:
        assert dsrl.normalized_cost([0, kappa, 2 * kappa], kappa).tolist() == [0, 1, 2]


def test_scores_by_hand():
    # (1000 - 5.7509765625) / (2806.93310546875 - 5.7509765625)
    assert float(dsrl.normalized_reward("HalfCheetahVelocity", 1000.0)) == pytest.approx(0.3549390856, abs=1e-9)
    assert float(dsrl.normalized_cost(30, 40)) == 0.75
    assert dsrl.normalized_cost([0, 3], 0).tolist() == [1, 4]
    assert np.isnan(dsrl.normalized_cost([np.nan, 1.0], 20)).tolist() == [True, False]


@pytest.mark.parametrize("kappa", [-1, np.nan, np.inf])
def test_a_limit_that_is_none_is_refused(kappa):
    with pytest.raises(ValueError, match=r"kappa=.*: give a limit on the cost of an episode, 0 or more"):
        dsrl.normalized_cost([1.0], kappa)


def test_tau_chooses_data_and_kappa_judges():
    """A set chosen with one τ is judged with all κ of the task."""
    task = TASKS["BallRun"]
    columns = of_task(task, (100,) * 40)
    columns["costs"][:2000] = 0
    t = Trajectories(**columns)
    buffer = PreferenceBuffer.from_costs(t, cost_limit=30, n_preferred=5, n_dispreferred=5)
    judged = [dsrl.normalized_cost(buffer.dispreferred.episode_costs, kappa).min() for kappa in task.target_costs]
    assert judged == [buffer.dispreferred.episode_costs.min() / kappa for kappa in (10, 20, 40)]


def test_the_module_imports_neither_dsrl_nor_the_simulators_nor_the_hub():
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
