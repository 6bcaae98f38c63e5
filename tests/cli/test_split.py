import re

import h5py
import numpy as np
import pytest

from sb3_prefine import PreferenceBuffer, Trajectories


def written_sets(folder):
    return [Trajectories.from_hdf5(folder / f"{name}.hdf5") for name in ("preferred", "dispreferred")]


def test_all_options_reach_from_costs(call, data, tmp_path):
    outcome = call(
        *("split", data, "--cost-limit", 30, "--out", tmp_path, "--seed", 5, "--n-preferred", 2),
        *("--n-dispreferred", 4, "--n-strata", 1, "--dispreferred-pool", 9, "--unsafe", "top_cost"),
    )
    assert outcome.code == 0, outcome
    expected = PreferenceBuffer.from_costs(
        Trajectories.from_hdf5(data), 30, 2, 4, seed=5, n_strata=1, dispreferred_pool=9, unsafe="top_cost"
    )
    preferred, dispreferred = written_sets(tmp_path)
    assert np.array_equal(preferred.observations, expected.preferred.observations)
    assert np.array_equal(dispreferred.observations, expected.dispreferred.observations)
    with h5py.File(tmp_path / "preferred.hdf5") as file:
        assert file.attrs["episodes"] == " ".join(map(str, expected.preferred_ids))


def test_several_files_are_one_dataset(call, two_sets, tmp_path):
    slow, fast = two_sets
    assert re.match(r"cost_limit\b.*\b90\b", call("split", slow, "--cost-limit", 90, "--out", tmp_path).error)
    arguments = ("split", slow, fast, "--cost-limit", 60, "--n-preferred", 3, "--n-dispreferred", 6)
    assert call(*arguments, "--out", tmp_path).code == 0
    preferred, dispreferred = written_sets(tmp_path)
    assert len(preferred) == 3
    assert sorted(dispreferred.episode_costs) == sorted(Trajectories.from_hdf5(fast).episode_costs)


def test_table_shows_the_selected_episodes(call, data, tmp_path):
    out = call("split", data, "--cost-limit", 30, "--n-preferred", 2, "--n-dispreferred", 4, "--out", tmp_path).out
    for name, part in zip(("preferred", "dispreferred"), written_sets(tmp_path), strict=True):
        [row] = [line for line in out.splitlines() if line.strip().startswith(f"{name} ")]
        assert row.split()[1] == str(len(part))
        assert f"{part.episode_returns.min():,.1f}, {part.episode_returns.max():,.1f}" in row
        assert f"{part.episode_costs.min():,.1f}, {part.episode_costs.max():,.1f}" in row


def test_too_few_episodes_give_a_warning_in_one_line(call, data, tmp_path):
    outcome = call("split", data, "--cost-limit", 30, "--n-dispreferred", 4, "--out", tmp_path)
    assert outcome.code == 0
    [line] = outcome.err.splitlines()
    assert re.match(r"sb3-prefine: warning: n_preferred\b.*100", line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cost-limit", "-1"], r"cost_limit\b.*-1"),
        (["--cost-limit", "0"], r"cost_limit\b.*\b0\b"),
        (["--cost-limit", "30", "--n-preferred", "0"], r"n_preferred\b.*0"),
    ],
)
def test_wrong_options_are_refused(call, data, tmp_path, options, message):
    assert re.match(message, call("split", data, "--out", tmp_path / "new", *options).error)
    assert not (tmp_path / "new").exists()


def test_missing_limit_or_unknown_choice_is_a_usage_error(call, data, tmp_path):
    assert call("split", data, "--out", tmp_path).code == 2
    assert call("split", data, "--out", tmp_path, "--cost-limit", 30, "--unsafe", "worst").code == 2


@pytest.mark.parametrize("content", [None, b"", b"not HDF5"])
def test_unreadable_file_is_named(call, tmp_path, content):
    path = tmp_path / "data.hdf5"
    if content is not None:
        path.write_bytes(content)
    assert call("split", path, "--cost-limit", 30, "--out", tmp_path).error.startswith(f"{path}: ")


def test_missing_files_are_an_error(call, tmp_path):
    outcome = call("split", "--cost-limit", 30, "--out", tmp_path)
    assert outcome.error.startswith("data: ")


@pytest.mark.parametrize("name", ["preferred", "dispreferred"])
def test_existing_files_are_replaced_only_with_overwrite(call, data, tmp_path, name):
    (tmp_path / f"{name}.hdf5").write_text("mine")
    arguments = ("split", data, "--cost-limit", 30, "--n-preferred", 2, "--n-dispreferred", 4, "--out", tmp_path)
    assert re.match(rf".*{name}\.hdf5: .*--overwrite", call(*arguments).error)
    assert len(list(tmp_path.iterdir())) == 1
    assert call(*arguments, "--overwrite").code == 0
    assert len(written_sets(tmp_path)[0]) == 2
