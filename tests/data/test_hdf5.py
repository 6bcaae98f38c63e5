"""Files read into memory and mapped from disk: the same values in every layout."""

import copy
import errno
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_prefine import PreferenceBuffer, Trajectories
from sb3_prefine.data import memory_map
from sb3_prefine.data.columns import COLUMNS, flatten
from sb3_prefine.data.memory_map import mapping_of

DEMO = Path(__file__).parents[2] / "sb3_prefine" / "cli" / "demo_data" / "preferred.hdf5"
OBSERVATIONS: list[Any] = [(np.float32, (3,)), (np.float64, (3,)), (np.uint8, (2, 2, 1)), (">i4", ()), (np.float16, ())]
# Options of h5py for the layout of a dataset.
LAYOUTS: list[dict[str, Any]] = [{}, {"compression": "gzip"}, {"chunks": True}, {"maxshape": True}, {"shuffle": True}]


def columns(lengths: list[int], seed: int = 0, observation: Any = OBSERVATIONS[0]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, (dtype, shape) = sum(lengths), observation
    timeouts = np.zeros(n, bool)
    timeouts[np.cumsum(lengths) - 1] = True
    return {
        "observations": (100 * rng.random((n, *shape))).astype(dtype),
        "next_observations": (100 * rng.random((n, *shape))).astype(dtype),
        "actions": rng.normal(size=(n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "costs": rng.integers(2, size=n).astype(np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": timeouts,
    }


def write(path: Path, datasets: dict[str, np.ndarray], **layout: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            maxshape = {"maxshape": (None, *data.shape[1:])} if layout.pop("maxshape", False) else {}
            file.create_dataset(name, data=data, **layout, **maxshape)
    return path


def arrays(trajectories: Trajectories) -> dict[str, np.ndarray]:
    return flatten({name: getattr(trajectories, name) for name in (*COLUMNS, "action_masks")})


def assert_same(one: Trajectories, other: Trajectories) -> None:
    found, expected = arrays(one), arrays(other)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        assert found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], column)
    for name in ("episode_starts", "episode_lengths", "episode_returns", "episode_costs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    observation=st.sampled_from(OBSERVATIONS),
    with_masks=st.booleans(),
    as_dict=st.booleans(),
    slice_bytes=st.integers(1, 300),
)
def test_a_mapped_file_equals_the_same_file_in_memory(
    tmp_path, data, lengths, observation, with_masks, as_dict, slice_bytes
):
    c = columns(lengths, 0, observation)
    n = len(c["rewards"])
    for name in ("rewards", "costs", "terminals", "timeouts"):
        c[name] = c[name].astype(data.draw(st.sampled_from([c[name].dtype, np.dtype(np.float64)])))
        if data.draw(st.booleans()):
            c[name] = c[name][:, None]
    if with_masks:
        c["action_masks"] = np.arange(3) <= np.arange(n)[:, None] % 3
    if as_dict:
        for name in ("observations", "next_observations"):
            whole = c.pop(name)
            c |= {f"{name}/é.. ": whole, f"{name}/other": np.arange(n)}
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in c.items():
            file.create_dataset(
                name, data=column, **data.draw(st.sampled_from([{}, {"compression": "gzip"}, {"chunks": True}]))
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_map, "SLICE_BYTES", slice_bytes)
        found = Trajectories.from_hdf5(path, mmap=True)
    assert_same(found, Trajectories.from_hdf5(path))
    assert all(mapping_of(column) is not None for column in arrays(found).values())
    assert found.is_mapped
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        found.actions.flags.writeable = True


def test_compressed_files_are_copied_and_contiguous_ones_are_not(tmp_path):
    """The demo data is gzip-compressed, like DSRL's files."""
    shutil.copy(DEMO, tmp_path / "demo.hdf5")
    expected = Trajectories.from_hdf5(DEMO)
    assert not expected.is_mapped
    assert_same(Trajectories.from_hdf5(tmp_path / "demo.hdf5", mmap=True), expected)
    plain = write(tmp_path / "plain.hdf5", arrays(expected))
    assert_same(Trajectories.from_hdf5(plain, mmap=True), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.hdf5", "demo.hdf5.mmap", "plain.hdf5"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_columns_that_cannot_be_mapped_in_place_are_copied(tmp_path, layout):
    c = columns([2, 3, 4])
    path = write(tmp_path / "t.hdf5", c)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        maxshape = {"maxshape": (None,)} if layout.pop("maxshape", False) else {}
        file.create_dataset("rewards", data=c["rewards"].astype(np.float64), **layout, **maxshape)
    assert_same(Trajectories.from_hdf5(path, mmap=True), Trajectories(**c))
    with h5py.File(tmp_path / "t.hdf5.mmap") as file:
        assert list(file) == ["rewards"]
        assert file["rewards"].dtype == np.float32


def test_mapped_episodes_behave_like_episodes_in_memory(tmp_path):
    c = columns([2, 3, 1, 4])
    found, expected = Trajectories.from_hdf5(write(tmp_path / "t.hdf5", c), mmap=True), Trajectories(**c)
    for index in (0, slice(1, 3), [3, 1], [0, 0], [True, False, True, False]):
        assert_same(found[index], expected[index])
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert_same(found + found, expected + expected)
    assert repr(found) == repr(expected)
    assert np.shares_memory(found[1:3].observations, found.observations)
    buffer = PreferenceBuffer.from_costs(found, cost_limit=2, n_preferred=1, n_dispreferred=1)
    again = PreferenceBuffer.from_costs(expected, cost_limit=2, n_preferred=1, n_dispreferred=1)
    assert_same(buffer.preferred, again.preferred)
    found.to_hdf5(tmp_path / "copy.hdf5")
    expected.to_hdf5(tmp_path / "expected.hdf5")
    assert (tmp_path / "copy.hdf5").read_bytes() == (tmp_path / "expected.hdf5").read_bytes()


def test_pickles_of_mapped_episodes_contain_the_values(tmp_path):
    c = columns([2, 3])
    found = Trajectories.from_hdf5(write(tmp_path / "t.hdf5", c), mmap=True)
    for again in (pickle.loads(pickle.dumps(found[1])), copy.deepcopy(found)[1]):
        assert not again.is_mapped
        assert_same(again, Trajectories(**c)[1])


def test_large_copies_of_mapped_episodes_are_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_map, "MAX_COPY_BYTES_IN_MEMORY", 10)
    c = columns([2, 3, 1, 4])
    found, expected = Trajectories.from_hdf5(write(tmp_path / "t.hdf5", c), mmap=True), Trajectories(**c)
    for one, other in ((found[[3, 1]], expected[[3, 1]]), (found + expected, expected + expected)):
        assert_same(one, other)
        assert mapping_of(one.observations) is not None
    assert_same(found[[3, 1]][[1, 0]], expected[[1, 3]])  # a copy of a copy
    assert not expected[[3, 1]].is_mapped


def test_read_only_numpy_memmaps_are_shared(tmp_path):
    c = columns([2, 3])
    np.save(tmp_path / "observations.npy", c["observations"])
    own = np.load(tmp_path / "observations.npy", mmap_mode="r")
    assert np.shares_memory(Trajectories(**{**c, "observations": own}).observations, own)
    writable = np.load(tmp_path / "observations.npy", mmap_mode="r+")
    assert not np.shares_memory(Trajectories(**{**c, "observations": writable}).observations, writable)


def test_an_episode_that_does_not_end_is_dropped_with_a_warning(tmp_path):
    c = columns([2, 3, 4])
    path = write(tmp_path / "t.hdf5", {name: column[:8] for name, column in c.items()}, compression="gzip")
    with pytest.warns(UserWarning, match=r"t\.hdf5: .* 3 transitions") as caught:
        found = Trajectories.from_hdf5(path, mmap=True)
    assert caught[0].filename == __file__
    assert_same(found, Trajectories(**c)[:2])


# Damaged files, and files that change


@pytest.mark.parametrize("layout", [{}, {"compression": "gzip"}])
@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("observations", 700, np.nan, r"observations: 1 of 1000 rows .*row 700"),
        ("actions", 999, 1e39, r"actions: 1 of 1000 rows .*row 999"),
        ("costs", 500, -1, r"costs: 1 of 1000 rows .*row 500, -1\.0\)"),
        ("costs", 500, np.nan, r"costs: 1 of 10 episodes .*episode 5, 1 of its 100 rows\)"),
        ("terminals", 321, 0.5, r"terminals: 1 of 1000 rows .*row 321, 0\.5\)"),
    ],
)
def test_a_wrong_row_in_any_slice_is_named_by_its_index(tmp_path, monkeypatch, layout, name, row, value, message):
    monkeypatch.setattr(memory_map, "SLICE_BYTES", 1000)
    c = columns([100] * 10)
    c[name] = c[name].astype(np.float64)
    c[name][row] = value
    path = write(tmp_path / "t.hdf5", c, **layout)
    for use_mmap in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=r"t\.hdf5: " + message):
                Trajectories.from_hdf5(path, mmap=use_mmap)


def test_a_file_without_rows_is_refused(tmp_path):
    path = write(tmp_path / "t.hdf5", {name: column[:0] for name, column in columns([1]).items()})
    for use_mmap in (False, True):
        with pytest.raises(ValueError, match=r"t\.hdf5: columns: "):
            Trajectories.from_hdf5(path, mmap=use_mmap)


def test_a_damaged_flag_in_a_file_is_refused(tmp_path):
    c = columns([2, 3])
    path = write(tmp_path / "t.hdf5", c)
    with h5py.File(path) as file:
        offset = file["timeouts"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 1] = 7
    path.write_bytes(content)
    for use_mmap in (False, True):
        with pytest.raises(ValueError, match=r"timeouts: 1 of 5 rows .*row 1"):
            Trajectories.from_hdf5(path, mmap=use_mmap)


@pytest.mark.parametrize("layout", [{}, {"compression": "gzip"}])
def test_a_file_truncated_at_any_length_is_refused(tmp_path, layout):
    path = write(tmp_path / "t.hdf5", columns([20] * 5), **layout)
    whole = path.read_bytes()
    for length in [*range(16, len(whole), 1999), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"t\.hdf5: .*(damaged|not an HDF5 file)"):
            Trajectories.from_hdf5(path, mmap=True)
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_a_damaged_compressed_file_leaves_no_copy(tmp_path):
    path = write(tmp_path / "t.hdf5", columns([20] * 5), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.hdf5: .*damaged"):
        Trajectories.from_hdf5(path, mmap=True)
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_the_copy_is_reused_until_the_file_changes(tmp_path):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    first = Trajectories.from_hdf5(path, mmap=True)
    written = (tmp_path / "t.hdf5.mmap").stat()
    Trajectories.from_hdf5(path, mmap=True)
    assert (tmp_path / "t.hdf5.mmap").stat() == written
    # The same size and number of episodes, but other values and another time.
    write(path, columns([2, 3], seed=1), compression="gzip")
    os.utime(path, ns=(0, 0))
    second = Trajectories.from_hdf5(path, mmap=True)
    assert_same(second, Trajectories(**columns([2, 3], seed=1)))
    # The episodes of the old copy do not change.
    assert_same(first, Trajectories(**columns([2, 3])))


def test_a_deleted_file_is_missing_even_if_its_copy_exists(tmp_path):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    found = Trajectories.from_hdf5(path, mmap=True)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"t\.hdf5: "):
        Trajectories.from_hdf5(path, mmap=True)
    (tmp_path / "t.hdf5.mmap").unlink()
    assert_same(found, Trajectories(**columns([2, 3])))


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: b"\0" * 5000])
def test_a_damaged_copy_is_written_again(tmp_path, damage):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    Trajectories.from_hdf5(path, mmap=True)
    written = tmp_path / "t.hdf5.mmap"
    written.write_bytes(damage(written.read_bytes()))
    assert_same(Trajectories.from_hdf5(path, mmap=True), Trajectories(**columns([2, 3])))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    monkeypatch.setattr("sb3_prefine.data.hdf5.check_flags", lambda name, column: os.utime(path, ns=(0, 0)))
    with pytest.raises(ValueError, match=r"t\.hdf5: .*changed"):
        Trajectories.from_hdf5(path, mmap=True)
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_an_unwritable_folder_is_refused_if_a_copy_is_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(PermissionError, match=r"t\.hdf5: observations, .*t\.hdf5\.mmap"):
        Trajectories.from_hdf5(path, mmap=True)
    # A file that can be mapped in place needs no copy.
    assert_same(Trajectories.from_hdf5(write(path, columns([2])), mmap=True), Trajectories(**columns([2])))


def test_the_copy_of_a_link_is_next_to_the_link(tmp_path):
    (tmp_path / "theirs").mkdir()
    path = write(tmp_path / "theirs" / "t.hdf5", columns([2, 3]), compression="gzip")
    (tmp_path / "own.hdf5").symlink_to(path)
    assert_same(Trajectories.from_hdf5(tmp_path / "own.hdf5", mmap=True), Trajectories(**columns([2, 3])))
    assert (tmp_path / "own.hdf5.mmap").is_file()
    assert list((tmp_path / "theirs").iterdir()) == [path]


def test_a_full_disk_is_reported_before_writing(tmp_path, monkeypatch):
    path = write(tmp_path / "t.hdf5", columns([2, 3]), compression="gzip")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=r"mmap=True .*t\.hdf5") as caught:
        Trajectories.from_hdf5(path, mmap=True)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["t.hdf5"]


def test_mmap_does_not_follow_links_to_other_files(tmp_path):
    path = write(tmp_path / "t.hdf5", columns([2, 3]))
    with h5py.File(path, "a") as file:
        del file["costs"]
        file["costs"] = h5py.ExternalLink(str(write(tmp_path / "costs.hdf5", columns([2, 3]))), "costs")
    assert_same(Trajectories.from_hdf5(path), Trajectories(**columns([2, 3])))
    with pytest.raises(ValueError, match=r"t\.hdf5: costs .*mmap=True"):
        Trajectories.from_hdf5(path, mmap=True)


# Memory and time

_OPEN = """
import sys
from sb3_prefine import PreferenceBuffer, Trajectories
from sb3_prefine.data import memory_map

memory_map.MAX_COPY_BYTES_IN_MEMORY = 2**22

def resident(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(kind))

before = resident("RssAnon"), resident("RssFile")
t = Trajectories.from_hdf5(sys.argv[1], mmap=True)
half = len(t) // 2
buffer = PreferenceBuffer(t[:half], t[half:])
shuffled = t[list(range(0, len(t), 2))]
repr(t), repr(buffer)
print(resident("RssAnon") - before[0], resident("RssFile") - before[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("layout", [{}, {"compression": "gzip", "compression_opts": 1}])
def test_opening_and_choosing_mapped_episodes_uses_little_memory(tmp_path, layout):
    """The file has 120 MB."""
    n = 300_000
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        wide = np.ones((n, 48), np.float32)
        for name in ("observations", "next_observations"):
            file.create_dataset(name, data=wide, **layout)
        file.create_dataset("actions", data=wide[:, :2], **layout)
        for name in ("rewards", "costs"):
            file.create_dataset(name, data=wide[:, 0], **layout)
        file.create_dataset("terminals", data=np.zeros(n, bool), **layout)
        file.create_dataset("timeouts", data=np.arange(1, n + 1) % 100 == 0, **layout)
    command = [sys.executable, "-c", _OPEN, str(tmp_path / "t.hdf5")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    anonymous, file_backed = map(float, found.stdout.split())
    assert anonymous < 40
    assert file_backed < 40
