"""SB3's zips, read as plain values: every readable one opens without and with unpickling to the same policy."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cloudpickle
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.save_util import data_to_json

import sb3_prefine
from sb3_prefine.reference.sb3_zip import Checkpoint
from tests.worlds import Anything, model_of

NAMES = {PPO: "ppo", A2C: "a2c", TRPO: "trpo", SAC: "sac", TQC: "tqc", CrossQ: "crossq", TD3: "td3"}


def with_field(archive: bytes, **changed: object) -> bytes:
    """The zip with some fields of its data replaced."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps({**json.loads(content), **changed}) if name == "data" else content)
    return target.getvalue()


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_algorithm_is_told_by_the_fields(algorithm):
    assert Checkpoint.of_model(model_of(algorithm)).algo == NAMES[algorithm]


def test_dqn_is_told_by_its_policy():
    assert Checkpoint.of_model(DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10)).algo == "dqn"


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_policy_is_rebuilt_without_unpickling(algorithm, monkeypatch):
    kwargs = {"net_arch": [8, 4], "activation_fn": torch.nn.ELU, "optimizer_kwargs": {"eps": 1e-4}}
    model = model_of(algorithm, policy_kwargs=kwargs)
    checkpoint = Checkpoint.of_model(model)
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
def test_a_rebuilt_policy_knows_the_optimizer_that_it_does_not_have(algorithm):
    """So that a policy built from it, or saved from it, has the optimizer of the original."""
    model = model_of(algorithm)
    policy = Checkpoint.of_model(model).recipe().build()
    own = model.policy
    again = type(policy)(**policy._get_constructor_parameters())
    assert policy.optimizer_class is own.optimizer_class
    assert (again.optimizer_class, again.optimizer_kwargs) == (own.optimizer_class, own.optimizer_kwargs)
    given = model_of(
        algorithm, policy_kwargs={"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-4}}
    )
    rebuilt = Checkpoint.of_model(given).recipe().build()
    assert (rebuilt.optimizer_class, rebuilt.optimizer_kwargs) == (torch.optim.RMSprop, {"eps": 1e-4})


def test_opening_a_checkpoint_does_not_import_torch_s_compiler():
    """The import takes more than a second, in a process that may never train."""
    program = "import sys, sb3_prefine as s; s.load_reference(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    path = Path(sb3_prefine.__file__).parent / "cli" / "demo_data" / "reference.zip"
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("algorithm", NAMES)
def test_trusted_it_is_the_same_recipe(algorithm):
    checkpoint = Checkpoint.of_model(model_of(algorithm))
    plain, trusted = checkpoint.recipe(), checkpoint.recipe(trust=True)
    assert plain.policy_class is trusted.policy_class
    assert plain.kwargs == trusted.kwargs
    assert plain.observation_space == trusted.observation_space


def test_a_space_that_cannot_be_read_is_asked_for():
    field = json.loads(data_to_json({"space": spaces.Tuple([spaces.Discrete(2)])}))["space"]
    archive = with_field(Checkpoint.of_model(model_of(PPO)).archive, observation_space=field)
    checkpoint = Checkpoint.read(archive, "their.zip")
    with pytest.raises(ValueError, match=r"their\.zip: its observation_space .*Tuple.* Pass env="):
        checkpoint.recipe()
    assert checkpoint.recipe(observation_space=Anything.observation_space).observation_space is not None


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_zip_whose_every_pickle_is_hostile_runs_nothing(tmp_path):
    checkpoint = Checkpoint.of_model(model_of(SAC))
    [(_, bomb)] = json.loads(data_to_json({"bomb": Hostile(tmp_path / "made")})).items()
    hostile = {
        name: {**field, ":serialized:": bomb[":serialized:"]}
        for name, field in checkpoint.fields.items()
        if isinstance(field, dict) and ":serialized:" in field
    }
    assert {"policy_class", "observation_space", "action_space"} <= set(hostile)
    theirs = Checkpoint.read(with_field(checkpoint.archive, **hostile), "their.zip")
    policy = theirs.recipe().build()
    theirs.load_weights(policy)
    theirs.with_policy(policy, theirs.recipe())
    assert not (tmp_path / "made").exists()
    with pytest.raises((OSError, ValueError)):
        theirs.recipe(trust=True)
    assert (tmp_path / "made").exists()  # the pickles were hostile indeed


@pytest.mark.parametrize(
    ("module", "init", "message"),
    [
        ("their_code.policies", "<function TheirPolicy.__init__ at 0x1>", "is not one of Stable-Baselines3"),
        ("os", "<function system.__init__ at 0x1>", "is not one of Stable-Baselines3"),
        ("stable_baselines3.common.save_util", "<function load_from_pkl.__init__ at 0x1>", "not a class"),
        ("stable_baselines3.common.buffers", "<function ReplayBuffer.__init__ at 0x1>", "which is no policy"),
        ("stable_baselines3.common.policies", "<slot wrapper '__init__'>", "is not one of Stable-Baselines3"),
    ],
)
def test_a_policy_class_that_is_not_sb3_s_is_refused(module, init, message):
    checkpoint = Checkpoint.of_model(model_of(PPO))
    field = {**checkpoint.fields["policy_class"], "__module__": module, "__init__": init}
    with pytest.raises(ValueError, match=message):
        Checkpoint.read(with_field(checkpoint.archive, policy_class=field), "their.zip").recipe()


@pytest.mark.parametrize(
    "value",
    [
        "<class 'their_code.Swish'>",
        "<function swish at 0x1>",
        "<class 'os.system'>",
        "<class 'stable_baselines3.common.monitor.ResultsWriter'>",
    ],
)
def test_a_keyword_argument_that_is_not_plain_is_refused(value):
    checkpoint = Checkpoint.of_model(model_of(PPO))
    field = {":type:": "<class 'dict'>", ":serialized:": "", "activation_fn": value}
    with pytest.raises(ValueError, match="activation_fn"):
        Checkpoint.read(with_field(checkpoint.archive, policy_kwargs=field), "their.zip").recipe()


class OwnPolicy(PPO.policy_aliases["MlpPolicy"]):
    """A policy class of the user's own."""


def test_a_policy_class_of_one_s_own_needs_trust():
    checkpoint = Checkpoint.of_model(PPO(OwnPolicy, Anything(), device="cpu"))
    with pytest.raises(ValueError, match=r"policy class \(module tests.reference.test_sb3_zip\).*trust=True"):
        checkpoint.recipe()
    assert checkpoint.recipe(trust=True).policy_class is OwnPolicy


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_another_file_is_refused(content):
    with pytest.raises(ValueError, match=r"their\.zip is not a Stable-Baselines3 zip"):
        Checkpoint.read(content, "their.zip")


def test_a_cut_zip_is_refused():
    archive = Checkpoint.of_model(model_of(PPO)).archive
    with pytest.raises(ValueError, match="is not a Stable-Baselines3 zip"):
        Checkpoint.read(archive[: len(archive) // 2], "their.zip")


def test_a_zip_of_something_else_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"zip without \['data', 'policy.pth'\]"):
        Checkpoint.read(file.getvalue(), "their.zip")


def test_weights_that_do_not_fit_are_refused():
    checkpoint = Checkpoint.of_model(model_of(PPO))
    field = {":type:": "<class 'dict'>", ":serialized:": "", "net_arch": [5]}
    theirs = Checkpoint.read(with_field(checkpoint.archive, policy_kwargs=field), "their.zip")
    with pytest.raises(ValueError, match="its weights do not fit"):
        theirs.load_weights(theirs.recipe().build())


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04" + bytes(50), cloudpickle.dumps(print)])
def test_weights_that_are_none_are_refused(junk):
    good, target = io.BytesIO(Checkpoint.of_model(model_of(PPO)).archive), io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, junk if name == "policy.pth" else old.read(name))
    checkpoint = Checkpoint.read(target.getvalue(), "their.zip")
    with pytest.raises(ValueError, match=r"their\.zip: its weights \(policy\.pth\) are damaged"):
        checkpoint.load_weights(model_of(PPO).policy)
