import inspect
import os
import pickle
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from stable_baselines3 import PPO

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.cli.options import Acting, Hyperparameters, Opening, Selection, check_outputs, read_trajectories
from sb3_prefine.data.selection import Unsafe
from sb3_prefine.objective import LossType
from sb3_prefine.prefine import Counterfactuals
from sb3_prefine.reference.normalizer import Normalizer

DEMO = Path(inspect.getfile(PREFINE)).parent / "cli" / "demo_data"


def test_hyperparameters_are_those_of_the_constructor_with_its_defaults():
    """Whoever adds one to PREFINE is told here to add it to the command line."""
    parameters = dict(inspect.signature(PREFINE).parameters)
    for name in ("policy", "preferences", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"):
        del parameters[name]
    del parameters["stats_window_size"]  # unused, says the constructor
    del parameters["optimizer_kwargs"]  # a dict
    assert asdict(Hyperparameters()) == {name: parameter.default for name, parameter in parameters.items()}


def test_choices_are_those_of_the_package():
    hints = get_type_hints(Hyperparameters)
    assert set(get_args(hints["loss_type"])) == set(get_args(LossType))
    assert set(get_args(hints["counterfactuals"])) == set(get_args(Counterfactuals))
    assert set(get_args(get_type_hints(Selection)["unsafe"])) == set(get_args(Unsafe))


def test_selection_has_the_defaults_of_from_costs():
    parameters = inspect.signature(PreferenceBuffer.from_costs).parameters
    assert {field.name: field.default for field in fields(Selection)} == {
        name: parameters[name].default for name in parameters if name not in ("trajectories", "cost_limit", "seed")
    }


@pytest.mark.parametrize(
    ("acting", "by_default_deterministic", "by_default_stochastic"),
    [
        (Acting(), True, False),
        (Acting(deterministic=True), True, True),
        (Acting(stochastic=True), False, False),
    ],
)
def test_how_a_policy_acts(acting, by_default_deterministic, by_default_stochastic):
    assert acting.by_mode(default=True) is by_default_deterministic
    assert acting.by_mode(default=False) is by_default_stochastic


def test_the_normaliser_may_be_found_given_or_declined(tmp_path):
    reference = DEMO / "reference.zip"
    alone = tmp_path / "alone.zip"
    alone.write_bytes(reference.read_bytes())
    assert isinstance(Opening().open(str(reference)).normalizer, Normalizer)
    with pytest.raises(ValueError, match=r"there is no vecnormalize\.pkl beside it"):
        Opening().open(str(alone))
    given = Opening(normalizer=str(DEMO / "reference" / "vecnormalize.pkl")).open(str(alone))
    assert isinstance(given.normalizer, Normalizer)
    assert Opening(normalizer="False").open(str(alone)).normalizer is None


def test_an_environment_may_give_the_spaces(policy):
    with pytest.raises(ValueError, match="env: its observation_space has the shape"):
        Opening(spaces_env="Pendulum-v1").open(str(policy))
    assert Opening(spaces_env="SafetyBallRun-v0").open(str(policy)).observation_space.shape == (7,)


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("weights", [b"junk", b"", pickle.dumps(Evil(), protocol=2), pickle.dumps({"a": 1}, 2)[:-1]])
def test_weights_that_cannot_be_read_are_an_error_in_words(policy, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(policy) as good, zipfile.ZipFile("bad.zip", "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, weights if entry == "policy.pth" else good.read(entry))
    with pytest.raises(
        ValueError, match=r"^bad\.zip: its weights \(policy\.pth\) are damaged, or hold more than tensors"
    ):
        Opening().open("bad.zip")
    assert not Path("it_ran").exists()


def test_a_damaged_zip_is_an_error_in_words(policy, tmp_path):
    damaged = bytearray(policy.read_bytes())
    with zipfile.ZipFile(policy) as archive:
        start = archive.getinfo("policy.pth").header_offset
    damaged[start + 200] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"bad\.zip: its weights \(policy\.pth\) are damaged"):
        Opening().open(str(tmp_path / "bad.zip"))


def test_a_good_zip_opens_to_its_own_weights(policy):
    expected = PPO.load(policy, device="cpu").policy.state_dict()
    found = Opening(algo="ppo").open(str(policy)).policy.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_files_are_read_in_their_order(two_sets):
    slow, fast = (Trajectories.from_hdf5(path) for path in two_sets)
    both = read_trajectories([two_sets[1], two_sets[0]])
    assert both.episode_returns.tolist() == [*fast.episode_returns, *slow.episode_returns]


def test_an_output_is_refused_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        check_outputs(None, tmp_path / "new", tmp_path / "file", overwrite=False)
    check_outputs(None, tmp_path / "new" / "er", tmp_path / "file", overwrite=True)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_outputs(tmp_path, overwrite=True)
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        check_outputs(tmp_path / "file" / "new" / "er", overwrite=True)
    with pytest.raises(ValueError, match="the path of two outputs"):
        check_outputs(tmp_path / "new", None, tmp_path / "." / "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_that_may_not_be_written_to_is_found_before_the_work(tmp_path, monkeypatch):
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match="may not be written to"):
        check_outputs(tmp_path / "new" / "er", overwrite=False)
