"""Trajectories are written to HDF5 files in DSRL's layout and read back, and wrong files are refused."""

import fcntl
import importlib.util
import stat
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.data.trajectories import Trajectories
from tests.data.episodes import assert_same, changed, columns, random_columns, replaced


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(random_columns)
def test_a_written_file_is_read_back(tmp_path: Path, c: dict) -> None:
    path = tmp_path / "episodes.hdf5"
    Trajectories(**c).to_hdf5(path)
    assert_same(Trajectories.from_hdf5(path), c)


def test_unknown_costs_are_kept_in_files(tmp_path: Path) -> None:
    c = columns([2, 3])
    c["costs"][:2] = np.nan
    Trajectories(**c).to_hdf5(tmp_path / "t.hdf5")
    assert_same(Trajectories.from_hdf5(tmp_path / "t.hdf5"), c)


def test_files_have_the_layout_of_dsrl(tmp_path: Path) -> None:
    c = columns([2, 3])
    path = tmp_path / "new" / "folders" / "t.hdf5"
    Trajectories(**c).to_hdf5(str(path), {"mujoco": "4.0.0", "seed": 7, "threshold": 2.5, "n": np.int64(3)})
    with h5py.File(path) as file:
        assert sorted(file) == sorted(COLUMNS)
        for name in COLUMNS:
            assert isinstance(file[name], h5py.Dataset)
            assert file[name].compression == "gzip"
            assert file[name].dtype == (bool if name in ("terminals", "timeouts") else np.float32)
            assert file[name].shape == c[name].shape
            np.testing.assert_array_equal(file[name][:], c[name])
        assert dict(file.attrs) == {"mujoco": "4.0.0", "seed": 7, "threshold": 2.5, "n": 3}
    assert_same(Trajectories.from_hdf5(path), c)


@pytest.fixture
def dsrl_offline_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import DSRL's own reader. The package does not import with a current gymnasium, but this file does."""
    package = importlib.util.find_spec("dsrl")
    assert package is not None, "this test reads a file with DSRL's own reader: pip install --no-deps dsrl==0.1.0"
    assert package.origin is not None
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "dsrl"))
    spec = importlib.util.spec_from_file_location("dsrl_offline_env", Path(package.origin).with_name("offline_env.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dsrl_reads_the_same_episodes_from_our_file(tmp_path: Path, dsrl_offline_env: ModuleType) -> None:
    c = columns([2, 3, 1])
    t = Trajectories(**c)
    t.to_hdf5(tmp_path / "t.hdf5", {"seed": 7})
    env = dsrl_offline_env.OfflineEnv()
    env.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    env.action_space = gym.spaces.Box(-1, 1, (2,))
    read = env.get_dataset(str(tmp_path / "t.hdf5"))
    assert read.keys() == set(COLUMNS)
    for name in COLUMNS:
        np.testing.assert_array_equal(read[name], c[name])
    done = np.flatnonzero((read["terminals"] == 1) | (read["timeouts"] == 1))  # as in its pre_process_data
    np.testing.assert_array_equal(done, t.episode_starts + t.episode_lengths - 1)


def write(path: Path, datasets: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


def test_float_flags_n_by_1_columns_and_extra_datasets_are_read(tmp_path: Path) -> None:
    c = columns([2, 3, 1])
    shaped = {name: c[name][:, None].astype(np.float64) for name in ("rewards", "costs", "terminals", "timeouts")}
    path = write(tmp_path / "t.hdf5", {**c, **shaped, "infos/extra": np.zeros(2), "version": "1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(Trajectories.from_hdf5(path), c)


def test_an_episode_that_does_not_end_is_dropped_with_a_warning(tmp_path: Path) -> None:
    c = columns([2, 3, 4])
    cut = {name: column[:8] for name, column in c.items()}
    path = write(tmp_path / "t.hdf5", cut)
    with pytest.warns(UserWarning, match=r"t\.hdf5: .* 3 transitions") as caught:
        t = Trajectories.from_hdf5(path)
    assert caught[0].filename == __file__
    assert_same(t, {name: column[:5] for name, column in c.items()})


def test_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.hdf5: "):
        Trajectories.from_hdf5(tmp_path / "nowhere.hdf5")
    with pytest.raises(FileNotFoundError):
        Trajectories.from_hdf5(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1"])
def test_a_file_that_is_not_hdf5_is_shown_by_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.hdf5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"page\.hdf5: .*b'" + content[:8].decode()):
        Trajectories.from_hdf5(path)


def test_a_file_truncated_at_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([20] * 5)).to_hdf5(path)
    whole = path.read_bytes()
    for length in [*range(16, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"t\.hdf5: .*(damaged|not an HDF5 file)"):
            Trajectories.from_hdf5(path)


@pytest.mark.parametrize("structure", [b"HEAP", b"SNOD", b"TREE"])
def test_a_damaged_hdf5_index_is_refused(tmp_path: Path, structure: bytes) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([20] * 5)).to_hdf5(path)
    content = path.read_bytes()
    assert structure in content
    path.write_bytes(content.replace(structure, b"XXXX"))
    with pytest.raises(ValueError, match=r"t\.hdf5: .*damaged \(.+\)"):
        Trajectories.from_hdf5(path)


def test_damaged_data_of_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([20] * 5)).to_hdf5(path)
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.hdf5: .*damaged \(.*filter"):
        Trajectories.from_hdf5(path)


def test_a_damaged_dataset_name_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([20] * 5)).to_hdf5(path)
    path.write_bytes(path.read_bytes().replace(b"actions", b"\xffctions"))
    with pytest.raises(ValueError, match=r"t\.hdf5: lacks actions; .*ctions"):
        Trajectories.from_hdf5(path)


def test_a_locked_file_keeps_the_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([2])).to_hdf5(path)
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="unable to lock file"):
            Trajectories.from_hdf5(path)


def test_missing_datasets_are_listed_with_those_found(tmp_path: Path) -> None:
    c = columns([2])
    path = write(
        tmp_path / "d4rl.hdf5",
        {name: c[name] for name in COLUMNS if name not in ("next_observations", "costs")} | {"costs/sum": 1.0},
    )
    with pytest.raises(ValueError, match=r"d4rl\.hdf5: lacks next_observations, costs; .*actions, costs"):
        Trajectories.from_hdf5(path)
    with pytest.raises(ValueError, match=r"empty\.hdf5: lacks observations, .*no datasets"):
        Trajectories.from_hdf5(write(tmp_path / "empty.hdf5", {}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed("rewards", 0, np.nan), "rewards: 1 of 6 rows "),
        (replaced("costs", np.zeros(5)), "columns: .*costs 5"),
        (replaced("actions", np.array([b"left"] * 6)), "actions: .*S4"),
        (replaced("observations", 1.0), "observations: "),
        ({name: column[:2] for name, column in columns([3]).items()}, "'timeouts'"),
        ({name: column[:0] for name, column in columns([3]).items()}, "columns: "),
    ],
)
def test_wrong_columns_of_a_file_are_refused_with_its_path(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"t\.hdf5: .*" + message):
        Trajectories.from_hdf5(write(tmp_path / "t.hdf5", wrong))


def test_the_same_data_give_the_same_bytes_at_another_time(tmp_path: Path) -> None:
    t = Trajectories(**columns([20, 30]))
    t.to_hdf5(tmp_path / "a.hdf5", {"seed": 7, "version": "1"})
    time.sleep(1.1)  # HDF5's clock counts seconds
    t.to_hdf5(tmp_path / "b.hdf5", {"seed": 7, "version": "1"})
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


@pytest.mark.parametrize("step", ["h5py.File.create_dataset", "os.fsync", "os.replace"])
def test_a_failed_write_leaves_only_the_existing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "t.hdf5"
    Trajectories(**columns([2, 3])).to_hdf5(path)
    content = path.read_bytes()

    def full_disk(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        Trajectories(**columns([4], 1)).to_hdf5(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_a_file_sets_the_usual_permissions(tmp_path: Path) -> None:
    path, ordinary = tmp_path / "t.hdf5", tmp_path / "ordinary"
    Trajectories(**columns([2, 3])).to_hdf5(path)
    Trajectories(**columns([4], 1)).to_hdf5(path)
    assert_same(Trajectories.from_hdf5(path), columns([4], 1))
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_wrong_attributes_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^attributes: 'env' .*list"):
        Trajectories(**columns([2])).to_hdf5(tmp_path / "t.hdf5", {"env": [1]})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())
