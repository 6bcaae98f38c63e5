"""The reference inside the zip of ``save``."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.reference.archive import read_reference, saved_algorithm, write_reference
from sb3_prefine.reference.zoo_folder import env_wrapper
from tests.worlds import STATES, RandomEnv, make_model


def test_reference_is_the_same_after_write_and_read(tmp_path):
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    reference = load_reference(make_model(PPO, env, n_steps=16, batch_size=16).learn(16))
    wrapper = env_wrapper("gymnasium.wrappers.TimeAwareObservation", {"normalize_time": True}, "test")
    reference = replace(reference, env_wrappers=(wrapper,), config={"gamma": 0.9})
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        write_reference(reference, archive)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        loaded = read_reference(archive, "model.zip")
    expected = reference.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], expected)
    assert loaded.env_wrappers == (wrapper,)
    assert loaded.config == {"gamma": 0.9}
    assert loaded.algo == "ppo"


@pytest.mark.parametrize("has_name", [True, False])
def test_file_without_an_algorithm_name_is_from_prefine(tmp_path, has_name):
    PREFINE(make_model(PPO), device="cpu").save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name in new.namelist():
            if has_name or name != "reference/writer.txt":
                old.writestr(name, new.read(name))
    assert saved_algorithm(tmp_path / "old.zip") == "PREFINE"


def test_other_files_have_no_algorithm_name(tmp_path):
    make_model(PPO).save(tmp_path / "ppo.zip")
    (tmp_path / "text.zip").write_text("not a zip")
    assert saved_algorithm(tmp_path / "ppo.zip") is None
    assert saved_algorithm(tmp_path / "text.zip") is None
