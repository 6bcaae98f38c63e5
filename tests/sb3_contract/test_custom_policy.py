"""Networks and optimizers that are not the defaults."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_prefine import PREFINE
from tests.sb3_contract.models import prefine_of
from tests.worlds import STATES, assert_same_weights, make_model, preferences, weights

ARCHITECTURES: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "no hidden layer": (PPO, {"net_arch": []}),
    "one": (A2C, {"net_arch": [4]}),
    "two heads": (PPO, {"net_arch": {"pi": [4], "vf": [4, 4]}}),
    "no head for the value": (PPO, {"net_arch": {"pi": [4], "vf": []}}),
    "none for the policy": (PPO, {"net_arch": {"pi": [], "vf": [4]}}),
    "separate extractors": (PPO, {"net_arch": [4], "share_features_extractor": False}),
    "not orthogonal": (PPO, {"net_arch": [4], "ortho_init": False, "activation_fn": torch.nn.ReLU}),
    "log_std_init": (PPO, {"net_arch": [4], "log_std_init": -1.0}),
    "actor and critic": (SAC, {"net_arch": {"pi": [4], "qf": [4, 4]}}),
    "three critics": (SAC, {"net_arch": [4], "n_critics": 3, "share_features_extractor": True}),
}


@pytest.mark.parametrize(("algorithm", "kwargs"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architectures_are_rebuilt_from_model_policy_and_file(algorithm, kwargs, tmp_path):
    source = make_model(algorithm, policy_kwargs=kwargs)
    source.save(tmp_path / "source")
    expected = source.predict(STATES, deterministic=True)[0]
    for given in (source, source.policy, tmp_path / "source"):
        model = PREFINE(given, preferences(), batch_size=8, learning_rate=1e-2, seed=0, device="cpu")
        np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], expected)
        model.learn(2).save(tmp_path / "model")
        loaded = PREFINE.load(tmp_path / "model", device="cpu")
        assert_same_weights(weights(loaded.policy), weights(model.policy))


OPTIMIZERS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "AdamW": (PPO, {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}),
    "SGD": (SAC, {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}),
    "A2C's default": (A2C, {}),
    "RMSprop like TensorFlow's": (A2C, {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}),
}


@pytest.mark.parametrize(("algorithm", "kwargs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer_of_the_source_is_exported_but_not_used(algorithm, kwargs, tmp_path):
    def optimizer_of(loaded: BaseAlgorithm) -> torch.optim.Optimizer:
        return (loaded.policy.actor if algorithm is SAC else loaded.policy).optimizer

    source = make_model(algorithm, policy_kwargs={"net_arch": [4], **kwargs})
    source.save(tmp_path / "source")
    expected = optimizer_of(algorithm.load(tmp_path / "source", device="cpu"))
    for given in (source, tmp_path / "source"):
        model = PREFINE(given, preferences(), batch_size=8, seed=0, device="cpu").learn(2)
        assert type(model.optimizer) is torch.optim.Adam
        exported = optimizer_of(algorithm.load(model.export(tmp_path / "plain"), device="cpu"))
        assert type(exported) is type(expected)
        assert exported.defaults == expected.defaults


def test_optimizer_kwargs_are_used_and_saved(tmp_path):
    given = {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-4}
    model = prefine_of(optimizer_kwargs=given).learn(2)
    assert {name: model.optimizer.param_groups[0][name] for name in given} == given
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    [group] = loaded.optimizer.param_groups
    assert (group["weight_decay"], tuple(group["betas"]), group["eps"]) == (0.1, (0.5, 0.9), 1e-4)
    assert loaded.optimizer_kwargs.keys() == given.keys()
    loaded.preferences = preferences()
    loaded.learn(2)


def test_weight_decay_shrinks_the_weights():
    norms = []
    for decay in (0.0, 10.0):
        model = prefine_of(optimizer_kwargs={"weight_decay": decay}, learning_rate=1e-3).learn(30)
        norms.append(sum(float(p.detach().norm()) for p in model.optimizer.param_groups[0]["params"]))
    assert norms[1] < 0.99 * norms[0]


def test_unknown_optimizer_argument_is_refused():
    with pytest.raises(TypeError, match="momentum"):
        prefine_of(optimizer_kwargs={"momentum": 0.9})
