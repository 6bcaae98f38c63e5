"""The interface of every SB3 algorithm: parameters, devices, constructor, learning-rate schedules."""

import inspect

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import get_device

from sb3_prefine import PREFINE
from tests.sb3_contract.models import DEVICES, prefine_of
from tests.worlds import STATES, RecordingLogger, assert_same_weights, make_model, preferences, weights

# Parameters


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_parameters_can_be_set_on_another_model(algorithm):
    model, other = prefine_of(algorithm).learn(3), prefine_of(algorithm)
    other.set_parameters(model.get_parameters(), device="cpu")
    np.testing.assert_array_equal(
        other.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )
    assert {int(state["step"]) for state in other.optimizer.state_dict()["state"].values()} == {3}
    other.learn(1)
    assert not np.array_equal(
        other.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )


def test_parameters_can_be_set_from_a_file(tmp_path):
    model, other = prefine_of().learn(3), prefine_of()
    model.save(tmp_path / "model")
    before = weights(other.reference.policy)
    other.set_parameters(tmp_path / "model", device="cpu")
    assert_same_weights(weights(other.policy), weights(model.policy))
    assert_same_weights(weights(other.reference.policy), before)


def test_exact_match_needs_all_parameters():
    model = prefine_of()
    parameters = model.get_parameters()
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": parameters["policy"]})
    missing = {name: tensor for name, tensor in parameters["policy"].items() if name != "log_std"}
    with pytest.raises(RuntimeError, match="log_std"):
        model.set_parameters({**parameters, "policy": missing})
    with pytest.raises(ValueError, match="Key nothing is an invalid object name"):
        model.set_parameters({**parameters, "nothing": {}})


def test_inexact_match_accepts_some_parameters():
    model, before = prefine_of(), weights(prefine_of().policy)
    model.set_parameters({"policy": {"log_std": torch.full((3,), -0.5)}}, exact_match=False)
    assert torch.equal(model.policy.log_std, torch.full((3,), -0.5))
    after = weights(model.policy)
    assert_same_weights({**after, "log_std": before["log_std"]}, before)


def test_model_and_reference_share_no_parameters():
    model = prefine_of()
    shared = {p.data_ptr() for p in model.policy.parameters()} & {
        p.data_ptr() for p in model.reference.policy.parameters()
    }
    assert not shared
    assert not any("reference" in name for name in model.get_parameters()["policy"])


# Devices


@pytest.mark.parametrize("device", [*DEVICES, "auto"])
def test_model_is_on_the_given_device(device):
    model = prefine_of(device=device).learn(2)
    expected = get_device(device).type
    assert model.device.type == expected
    assert {parameter.device.type for parameter in model.policy.parameters()} == {expected}
    state = model.optimizer.state_dict()["state"].values()
    assert {moment.device.type for moments in state for moment in (moments["exp_avg"],)} == {expected}
    assert isinstance(model.predict(STATES)[0], np.ndarray)


@pytest.mark.parametrize("there", [*DEVICES, "auto"])
@pytest.mark.parametrize("here", DEVICES)
def test_model_can_be_loaded_on_another_device(here, there, tmp_path):
    model = prefine_of(device=here).learn(2)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device=there, preferences=preferences())
    assert loaded.device == get_device(there)
    assert loaded.policy.device.type == get_device(there).type
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_allclose(loaded.predict(STATES, deterministic=True)[0], expected, atol=1e-5)
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 4


@pytest.mark.parametrize("device", DEVICES)
def test_model_and_source_may_be_on_different_devices(device):
    source = PPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, device=device)
    model = PREFINE(source, device="cpu")
    assert model.policy.device.type == "cpu"
    assert source.policy.device.type == device


# Constructor and methods


def test_prefine_has_the_interface_of_an_sb3_algorithm():
    assert issubclass(PREFINE, BaseAlgorithm)
    for name in ("learn", "predict", "save", "load", "set_env", "set_parameters"):
        theirs = inspect.signature(getattr(BaseAlgorithm, name)).parameters
        ours = inspect.signature(getattr(PREFINE, name)).parameters
        assert list(ours)[: len(theirs) - ("kwargs" in theirs)] == [key for key in theirs if key != "kwargs"], name


def test_all_arguments_but_policy_have_defaults():
    """SB3's load calls the constructor with the policy, the environment and the device only."""
    parameters = inspect.signature(PREFINE).parameters
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    assert required == ["policy"]
    assert {"env", "device", "_init_setup_model"} <= set(parameters)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_policy_has_the_class_of_the_source(algorithm):
    source = make_model(algorithm)
    model = PREFINE(source, device="cpu")
    assert model.policy_class is type(model.policy) is type(source.policy)


@pytest.mark.parametrize("alias", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_name_of_a_policy_class_is_refused(alias, tmp_path, monkeypatch):
    """A policy class has no weights to fine-tune."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"^policy: .*{alias}"):
        PREFINE(alias, preferences())
    with pytest.raises(TypeError, match=r"^policy: "):
        PREFINE(ActorCriticPolicy, preferences())


# The learning rate


def test_schedule_is_called_with_the_remaining_progress():
    asked = []

    def schedule(progress: float) -> float:
        asked.append(progress)
        return 1e-3 * progress

    recorder = RecordingLogger()
    model = prefine_of(learning_rate=schedule)
    model.set_logger(recorder)
    asked.clear()
    model.learn(4, log_interval=1)
    assert asked == [1.0, 0.75, 0.5, 0.25]
    assert [row["train/learning_rate"] for row in recorder.rows] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_schedule_of_continued_training_is_that_of_sb3():
    recorder = RecordingLogger()
    model = prefine_of(learning_rate=lambda progress: progress).learn(2)
    model.set_logger(recorder)
    model.learn(2, log_interval=1, reset_num_timesteps=False)
    assert [row["train/learning_rate"] for row in recorder.rows] == [0.5, 0.25]


def test_constant_learning_rate_stays_constant():
    model = prefine_of(learning_rate=1e-3).learn(3)
    assert model.learning_rate == model.lr_schedule(0.3) == model.optimizer.param_groups[0]["lr"] == 1e-3
