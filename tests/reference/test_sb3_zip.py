"""SB3 zips, read as plain values: the policies, the hostile zips and the damaged ones."""

import io
import json
import os
import zipfile
from pathlib import Path

import cloudpickle
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.save_util import data_to_json

from sb3_prefine.reference.sb3_zip import SB3Zip
from tests.worlds import RandomEnv, make_model

NAMES = {PPO: "ppo", A2C: "a2c", TRPO: "trpo", SAC: "sac", TQC: "tqc", CrossQ: "crossq", TD3: "td3"}


def with_field(archive: bytes, **changed: object) -> bytes:
    """Replace some fields of a zip's data."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps({**json.loads(content), **changed}) if name == "data" else content)
    return target.getvalue()


@pytest.mark.parametrize("algorithm", NAMES)
def test_algorithm_is_derived_from_the_fields(algorithm):
    assert SB3Zip.from_model(make_model(algorithm)).algo == NAMES[algorithm]


def test_dqn_is_recognised_by_its_policy():
    assert SB3Zip.from_model(DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10)).algo == "dqn"


@pytest.mark.parametrize("algorithm", NAMES)
def test_policy_is_rebuilt_without_unpickling(algorithm, monkeypatch):
    kwargs = {"net_arch": [8, 4], "activation_fn": torch.nn.ELU, "optimizer_kwargs": {"eps": 1e-4}}
    model = make_model(algorithm, policy_kwargs=kwargs)
    checkpoint = SB3Zip.from_model(model)
    monkeypatch.setattr(cloudpickle, "loads", lambda *args: pytest.fail("something was unpickled"))
    recipe = checkpoint.recipe()
    assert recipe.policy_class is type(model.policy)
    assert recipe.observation_space == model.observation_space
    assert recipe.action_space == model.action_space
    policy = recipe.build()
    checkpoint.load_weights(policy)
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, policy.state_dict()[name])
    assert [type(module) for module in policy.modules()] == [type(module) for module in model.policy.modules()]


@pytest.mark.parametrize("algorithm", NAMES)
def test_recipe_is_the_same_with_trust(algorithm):
    checkpoint = SB3Zip.from_model(make_model(algorithm))
    plain, trusted = checkpoint.recipe(), checkpoint.recipe(trust=True)
    assert plain.policy_class is trusted.policy_class
    assert plain.kwargs == trusted.kwargs
    assert plain.observation_space == trusted.observation_space


def test_unreadable_space_is_refused_unless_given():
    field = json.loads(data_to_json({"space": spaces.Tuple([spaces.Discrete(2)])}))["space"]
    archive = with_field(SB3Zip.from_model(make_model(PPO)).archive, observation_space=field)
    checkpoint = SB3Zip.read(archive, "their.zip")
    with pytest.raises(ValueError, match=r"^their\.zip: its observation_space .*Tuple"):
        checkpoint.recipe()
    assert checkpoint.recipe(observation_space=RandomEnv.observation_space).observation_space is not None


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_zip_of_hostile_pickles_runs_no_code(tmp_path):
    checkpoint = SB3Zip.from_model(make_model(SAC))
    [(_, bomb)] = json.loads(data_to_json({"bomb": Hostile(tmp_path / "made")})).items()
    hostile = {
        name: {**field, ":serialized:": bomb[":serialized:"]}
        for name, field in checkpoint.fields.items()
        if isinstance(field, dict) and ":serialized:" in field
    }
    assert {"policy_class", "observation_space", "action_space"} <= set(hostile)
    theirs = SB3Zip.read(with_field(checkpoint.archive, **hostile), "their.zip")
    policy = theirs.recipe().build()
    theirs.load_weights(policy)
    theirs.with_policy(policy, theirs.recipe())
    assert not (tmp_path / "made").exists()
    with pytest.raises((OSError, ValueError)):
        theirs.recipe(trust=True)
    assert (tmp_path / "made").exists()  # the pickles were indeed hostile


@pytest.mark.parametrize(
    ("module", "init", "found"),
    [
        ("their_code.policies", "<function TheirPolicy.__init__ at 0x1>", r"their_code\.policies"),
        ("os", "<function system.__init__ at 0x1>", r"policy class \(module os\)"),
        (
            "stable_baselines3.common.save_util",
            "<function load_from_pkl.__init__ at 0x1>",
            "load_from_pkl, .*not a class",
        ),
        ("stable_baselines3.common.buffers", "<function ReplayBuffer.__init__ at 0x1>", "ReplayBuffer .* not a policy"),
        ("stable_baselines3.common.policies", "<slot wrapper '__init__'>", "policy class .*common.policies"),
    ],
)
def test_policy_class_outside_sb3_is_refused(module, init, found):
    checkpoint = SB3Zip.from_model(make_model(PPO))
    field = {**checkpoint.fields["policy_class"], "__module__": module, "__init__": init}
    with pytest.raises(ValueError, match=rf"^their\.zip.*{found}"):
        SB3Zip.read(with_field(checkpoint.archive, policy_class=field), "their.zip").recipe()


@pytest.mark.parametrize(
    "value",
    [
        "<class 'their_code.Swish'>",
        "<function swish at 0x1>",
        "<class 'os.system'>",
        "<class 'stable_baselines3.common.monitor.ResultsWriter'>",
    ],
)
def test_keyword_argument_that_is_not_plain_is_refused(value):
    checkpoint = SB3Zip.from_model(make_model(PPO))
    field = {":type:": "<class 'dict'>", ":serialized:": "", "activation_fn": value}
    with pytest.raises(ValueError, match=r"^their\.zip: .*activation_fn"):
        SB3Zip.read(with_field(checkpoint.archive, policy_kwargs=field), "their.zip").recipe()


class OwnPolicy(PPO.policy_aliases["MlpPolicy"]):
    """A policy class that the user wrote."""


def test_own_policy_class_needs_trust():
    checkpoint = SB3Zip.from_model(PPO(OwnPolicy, RandomEnv(), device="cpu"))
    with pytest.raises(ValueError, match=r"policy class \(module tests\.reference\.test_sb3_zip\)"):
        checkpoint.recipe()
    assert checkpoint.recipe(trust=True).policy_class is OwnPolicy


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_file_that_is_no_zip_is_refused(content):
    with pytest.raises(ValueError, match=r"^their\.zip is not a Stable-Baselines3 zip"):
        SB3Zip.read(content, "their.zip")


def test_truncated_zip_is_refused():
    archive = SB3Zip.from_model(make_model(PPO)).archive
    with pytest.raises(ValueError, match=r"^their\.zip is not a Stable-Baselines3 zip"):
        SB3Zip.read(archive[: len(archive) // 2], "their.zip")


def test_zip_of_other_files_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"^their\.zip .*\['data', 'policy.pth'\]"):
        SB3Zip.read(file.getvalue(), "their.zip")


def test_weights_of_another_shape_are_refused():
    checkpoint = SB3Zip.from_model(make_model(PPO))
    field = {":type:": "<class 'dict'>", ":serialized:": "", "net_arch": [5]}
    theirs = SB3Zip.read(with_field(checkpoint.archive, policy_kwargs=field), "their.zip")
    with pytest.raises(ValueError, match=r"^their\.zip: its weights do not fit"):
        theirs.load_weights(theirs.recipe().build())


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04" + bytes(50), cloudpickle.dumps(print)])
def test_damaged_weights_are_refused(junk):
    good, target = io.BytesIO(SB3Zip.from_model(make_model(PPO)).archive), io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, junk if name == "policy.pth" else old.read(name))
    checkpoint = SB3Zip.read(target.getvalue(), "their.zip")
    with pytest.raises(ValueError, match=r"^their\.zip: its weights \(policy\.pth\)"):
        checkpoint.load_weights(make_model(PPO).policy)
