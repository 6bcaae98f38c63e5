"""Models that cannot be trained together are refused."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.baselines.bc import BC
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.population.compatibility import SHARED_SETTINGS, same_distribution
from sb3_prefine.population.population import Population
from tests.worlds import GOOD, RandomEnv, env_with_actions, make_model, preferences, trajectories


def prefine(source: Any = None, **kwargs: Any) -> PREFINE:
    return PREFINE(make_model(PPO) if source is None else source, device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "found", "expected"),
    [
        ({"batch_size": 32}, 32, 256),
        ({"loss_type": "hinge"}, "hinge", "sigmoid"),
        ({"label_smoothing": 0.1}, 0.1, 0.0),
        ({"log_ratio_bound": 2.0}, 2.0, None),
        ({"n_counterfactuals": 2}, 2, 1),
        ({"counterfactuals": "reference"}, "reference", "policy"),
        ({"log_std_min": -3.0}, -3.0, -5.0),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shared_hyperparameters_have_to_be_equal(kwargs, found, expected):
    [name] = kwargs
    with pytest.raises(ValueError, match=rf"^{name}: models\[2\] has {found}, models\[0\] has {expected}\."):
        Population([prefine(), prefine(), prefine(**kwargs)])


def test_shared_settings_are_attributes_of_a_model():
    model = prefine()
    assert all(hasattr(model, name) for name in SHARED_SETTINGS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: make_model(A2C, policy_kwargs={"net_arch": [16, 8]}), r"policy: .*out_features=8"),
        (
            lambda: make_model(PPO, policy_kwargs={"net_arch": [16, 16], "activation_fn": torch.nn.ReLU}),
            r"policy: .*ReLU\(\), models\[0\] has .*Tanh\(\)",
        ),
        (lambda: make_model(SAC), "action_space|type"),
        (lambda: make_model(PPO, policy_kwargs={"net_arch": [16, 16, 16]}), "policy: "),
        (lambda: make_model(PPO, use_sde=True), "policy: "),
        (lambda: make_model(PPO, env_with_actions(spaces.Discrete(3))()), "action_space: "),
    ],
    ids=["width", "activation", "algorithm", "depth", "gSDE", "space"],
)
def test_another_architecture_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Population([prefine(), prefine(source())])


def test_settings_that_are_not_modules_are_compared():
    def sde(use_expln: bool) -> PREFINE:
        return prefine(make_model(PPO, use_sde=True, policy_kwargs={"net_arch": [16], "use_expln": use_expln}))

    with pytest.raises(ValueError, match=r"^policy: models\[1\] .*use_expln=True.*use_expln=False"):
        Population([sde(False), sde(True)])

    def cvae(log_std_min: float) -> PREFINE:
        spaces_ = RandomEnv.observation_space, RandomEnv.action_space
        return prefine(CVAEPolicy(*spaces_, net_arch=[16], log_std_min=log_std_min))

    with pytest.raises(ValueError, match=r"^policy: models\[1\] .*log_std_min=-2.0"):
        Population([cvae(-5.0), cvae(-2.0)])


def test_recurrent_policy_is_refused():
    source = RecurrentPPO("MlpLstmPolicy", RandomEnv(), policy_kwargs={"lstm_hidden_size": 8}, device="cpu")
    with pytest.raises(TypeError, match=r"^models\[0\]: RecurrentActorCriticPolicy is recurrent"):
        Population([prefine(source)])


def test_subclass_that_overrides_the_update_is_refused():
    class Mine(PREFINE):
        def train(self, batch: Any) -> None:
            super().train(batch)

    with pytest.raises(TypeError, match=r"^models\[1\]: Mine .*train"):
        Population([prefine(), Mine(make_model(PPO), device="cpu")])


def test_subclass_that_trains_as_prefine_is_accepted():
    class Named(PREFINE):
        pass

    assert len(Population([prefine(), Named(make_model(PPO), device="cpu")])) == 2


@pytest.mark.parametrize("other", [lambda: BC("MlpPolicy", trajectories(GOOD), RandomEnv(), device="cpu"), lambda: 3])
def test_objects_other_than_prefine_models_are_refused(other):
    with pytest.raises(TypeError, match=r"^models\[1\]: .*found (BC|int)\."):
        Population([prefine(), other()])


def test_no_models_and_duplicate_models_are_refused():
    with pytest.raises(ValueError, match=r"^models: .*empty"):
        Population([])
    model = prefine()
    with pytest.raises(ValueError, match=r"^models: \[0\] and \[2\]"):
        Population([model, prefine(), model])


def test_changed_models_are_refused_before_training():
    population = Population([prefine(preferences=preferences()), prefine(preferences=preferences())])
    population[1].batch_size = 8
    with pytest.raises(ValueError, match=r"^batch_size: models\[1\] has 8"):
        population.learn(1)
    assert [model.num_timesteps for model in population] == [0, 0]


def test_same_distribution_compares_weights_and_normaliser(tmp_path):
    source = make_model(PPO, VecNormalize(DummyVecEnv([RandomEnv])), n_steps=16, batch_size=16).learn(16)
    model = PREFINE(source, device="cpu")
    model.save(tmp_path / "model.zip")
    reference, again = load_reference(source), load_reference(tmp_path / "model.zip")
    assert reference is not again
    assert same_distribution(reference, reference)
    assert same_distribution(reference, again)
    assert not same_distribution(reference, load_reference(source, normalizer=False))
    source.get_vec_normalize_env().obs_rms.mean += np.float64(1e-3)
    assert not same_distribution(reference, load_reference(source))
    other = make_model(PPO)
    assert not same_distribution(load_reference(other), load_reference(source, normalizer=False))
