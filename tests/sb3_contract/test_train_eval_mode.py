"""Dropout and batch normalisation: in evaluation mode from the first step to the last prediction."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_prefine import PREFINE
from tests.worlds import STATES, assert_same_weights, make_model, preferences, weights


class DropoutAndBatchNorm(BaseFeaturesExtractor):
    """Has both kinds of layers that differ between the modes."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=8)
        self.layers = nn.Sequential(
            nn.Linear(observation_space.shape[0], 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


def source_of(algorithm: type[BaseAlgorithm], share: bool = True) -> BaseAlgorithm:
    kwargs = {"net_arch": [8], "features_extractor_class": DropoutAndBatchNorm}
    if not share or algorithm is SAC:
        kwargs["share_features_extractor"] = False
    model = make_model(algorithm, policy_kwargs=kwargs)
    # Change the statistics from their initial values, as training does.
    model.policy.set_training_mode(True)
    with torch.no_grad():
        for module in model.policy.modules():
            if isinstance(module, DropoutAndBatchNorm):
                module(torch.as_tensor(STATES))
    model.policy.set_training_mode(False)
    return model


def buffers(policy: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in policy.named_buffers()}


ALL = pytest.mark.parametrize(("algorithm", "share"), [(PPO, True), (PPO, False), (A2C, True), (SAC, False)])


@ALL
def test_predict_is_deterministic_and_equals_the_source(algorithm, share):
    source = source_of(algorithm, share)
    model = PREFINE(source, device="cpu")
    assert not model.policy.training
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], expected)
    np.testing.assert_array_equal(source.predict(STATES, deterministic=True)[0], expected)
    one_by_one = np.stack([model.predict(state, deterministic=True)[0] for state in STATES])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


@ALL
def test_training_does_not_change_batch_statistics(algorithm, share):
    model = PREFINE(source_of(algorithm, share), preferences(), learning_rate=1e-2, batch_size=8, seed=0, device="cpu")
    before, reference = buffers(model.policy), weights(model.reference.policy)
    assert any("running_mean" in name for name in before)
    actions = model.predict(STATES, deterministic=True)[0]
    model.learn(5)
    assert_same_weights(buffers(model.policy), before)
    assert_same_weights(weights(model.reference.policy), reference)
    assert not np.allclose(model.predict(STATES, deterministic=True)[0], actions)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_predict_does_not_change_the_mode_during_training(algorithm):
    modes = []

    def predict(locals_: dict, _globals: dict) -> bool:
        model = locals_["self"]
        before = [module.training for module in model.policy.modules()]
        model.predict(STATES)
        model.predict(STATES, deterministic=True)
        modes.append((before, [module.training for module in model.policy.modules()]))
        return True

    model = PREFINE(source_of(algorithm), preferences(), batch_size=8, device="cpu").learn(3, callback=predict)
    assert len(modes) == 3
    assert not any(any(before) or any(after) for before, after in modes)
    assert not any(module.training for module in model.policy.modules())
    assert not any(module.training for module in model.reference.policy.modules())


def test_model_in_training_mode_is_opened_in_evaluation_mode():
    source = source_of(PPO)
    expected = source.predict(STATES, deterministic=True)[0]
    source.policy.set_training_mode(True)
    model = PREFINE(source, preferences(), batch_size=8, learning_rate=0.0, device="cpu")
    np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], expected)
    model.policy.set_training_mode(True)
    model.learn(1)
    assert not model.policy.training
    assert source.policy.training


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_batch_statistics_are_saved_and_exported(algorithm, tmp_path):
    model = PREFINE(source_of(algorithm), preferences(), batch_size=8, device="cpu").learn(2)
    expected = model.predict(STATES, deterministic=True)[0]
    model.save(tmp_path / "model")
    # The extractor's class is in this file, which loading must not import without trust.
    with pytest.raises(ValueError, match=r"features_extractor_class"):
        PREFINE.load(tmp_path / "model", device="cpu")
    exported = algorithm.load(model.export(tmp_path / "plain"), device="cpu")
    for loaded in (PREFINE.load(tmp_path / "model", device="cpu", trust=True), exported):
        assert_same_weights(buffers(loaded.policy), buffers(model.policy))
        np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], expected)
