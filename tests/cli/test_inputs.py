import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from stable_baselines3 import PPO

from sb3_prefine import Trajectories
from sb3_prefine.cli.demo import DATA
from sb3_prefine.cli.inputs import open_policy, read_trajectories
from sb3_prefine.cli.options import CheckpointOptions
from sb3_prefine.reference.normalizer import Normalizer


def test_normaliser_may_be_found_given_or_declined(tmp_path):
    reference = DATA / "reference.zip"
    alone = tmp_path / "alone.zip"
    alone.write_bytes(reference.read_bytes())
    assert isinstance(open_policy(str(reference), CheckpointOptions()).normalizer, Normalizer)
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
        open_policy(str(alone), CheckpointOptions())
    given = open_policy(str(alone), CheckpointOptions(normalizer=str(DATA / "reference" / "vecnormalize.pkl")))
    assert isinstance(given.normalizer, Normalizer)
    assert open_policy(str(alone), CheckpointOptions(normalizer="False")).normalizer is None


def test_environment_may_provide_the_spaces(policy):
    with pytest.raises(ValueError, match=r"^env: "):
        open_policy(str(policy), CheckpointOptions(spaces_env="Pendulum-v1"))
    opened = open_policy(str(policy), CheckpointOptions(spaces_env="SafetyBallRun-v0"))
    assert opened.observation_space.shape == (7,)


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("weights", [b"junk", b"", pickle.dumps(Evil(), protocol=2), pickle.dumps({"a": 1}, 2)[:-1]])
def test_unreadable_weights_are_refused_and_run_no_code(policy, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(policy) as good, zipfile.ZipFile("bad.zip", "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, weights if entry == "policy.pth" else good.read(entry))
    with pytest.raises(ValueError, match=r"^bad\.zip: .*policy\.pth"):
        open_policy("bad.zip", CheckpointOptions())
    assert not Path("it_ran").exists()


def test_damaged_zip_is_refused(policy, tmp_path):
    damaged = bytearray(policy.read_bytes())
    with zipfile.ZipFile(policy) as archive:
        start = archive.getinfo("policy.pth").header_offset
    damaged[start + 200] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"bad\.zip: .*policy\.pth"):
        open_policy(str(tmp_path / "bad.zip"), CheckpointOptions())


def test_checkpoint_opens_with_its_own_weights(policy):
    expected = PPO.load(policy, device="cpu").policy.state_dict()
    found = open_policy(str(policy), CheckpointOptions(algo="ppo")).policy.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_files_are_read_in_their_order(two_sets):
    slow, fast = (Trajectories.from_hdf5(path) for path in two_sets)
    both = read_trajectories([two_sets[1], two_sets[0]])
    assert both.episode_returns.tolist() == [*fast.episode_returns, *slow.episode_returns]
