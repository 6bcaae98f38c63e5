"""What cannot be trained together is refused in words."""

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
from tests.worlds import GOOD, Anything, choosing, model_of, preferences, trajectories


def prefine(source: Any = None, **kwargs: Any) -> PREFINE:
    return PREFINE(model_of(PPO) if source is None else source, device="cpu", **kwargs)


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
def test_hyperparameters_that_shape_the_computation_have_to_be_the_same(kwargs, found, expected):
    [name] = kwargs
    message = f"^{name}: models\\[2\\] has {found}, models\\[0\\] has {expected}. It has to be the same in all runs"
    with pytest.raises(ValueError, match=message):
        Population([prefine(), prefine(), prefine(**kwargs)])


def test_what_is_compared_is_an_attribute_of_every_model():
    model = prefine()
    assert all(hasattr(model, name) for name in SHARED_SETTINGS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: model_of(A2C, policy_kwargs={"net_arch": [16, 8]}), r"policy: .*out_features=8"),
        (
            lambda: model_of(PPO, policy_kwargs={"net_arch": [16, 16], "activation_fn": torch.nn.ReLU}),
            r"policy: .*ReLU\(\), models\[0\] has .*Tanh\(\)",
        ),
        (lambda: model_of(SAC), "action_space|type"),
        (lambda: model_of(PPO, policy_kwargs={"net_arch": [16, 16, 16]}), "policy: "),
        (lambda: model_of(PPO, use_sde=True), "policy: "),
        (lambda: model_of(PPO, choosing(spaces.Discrete(3))()), "action_space: "),
    ],
    ids=["width", "activation", "algorithm", "depth", "gSDE", "space"],
)
def test_another_architecture_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Population([prefine(), prefine(source())])


def test_settings_that_are_no_modules_are_compared_too():
    def sde(use_expln: bool) -> PREFINE:
        return prefine(model_of(PPO, use_sde=True, policy_kwargs={"net_arch": [16], "use_expln": use_expln}))

    with pytest.raises(ValueError, match=r"policy: models\[1\] has use_expln=True, models\[0\] has use_expln=False"):
        Population([sde(False), sde(True)])

    def cvae(log_std_min: float) -> PREFINE:
        spaces_ = Anything.observation_space, Anything.action_space
        return prefine(CVAEPolicy(*spaces_, net_arch=[16], log_std_min=log_std_min))

    with pytest.raises(ValueError, match=r"policy: models\[1\] has log_std_min=-2.0"):
        Population([cvae(-5.0), cvae(-2.0)])


def test_a_recurrent_policy_is_refused():
    source = RecurrentPPO("MlpLstmPolicy", Anything(), policy_kwargs={"lstm_hidden_size": 8}, device="cpu")
    with pytest.raises(TypeError, match=r"^models\[0\]: RecurrentActorCriticPolicy is recurrent"):
        Population([prefine(source)])


def test_an_algorithm_of_one_s_own_is_refused():
    class Mine(PREFINE):
        def train(self, batch: Any) -> None:
            super().train(batch)

    with pytest.raises(TypeError, match=r"^models\[1\]: Mine .*train"):
        Population([prefine(), Mine(model_of(PPO), device="cpu")])


def test_a_subclass_that_trains_as_prefine_does_is_not_refused():
    class Named(PREFINE):
        pass

    assert len(Population([prefine(), Named(model_of(PPO), device="cpu")])) == 2


@pytest.mark.parametrize("other", [lambda: BC("MlpPolicy", trajectories(GOOD), Anything(), device="cpu"), lambda: 3])
def test_what_is_no_prefine_model_is_refused(other):
    with pytest.raises(TypeError, match=r"models\[1\]: expected a PREFINE model, found (BC|int)\."):
        Population([prefine(), other()])


def test_no_model_and_one_model_twice_are_refused():
    with pytest.raises(ValueError, match=r"^models: .*empty"):
        Population([])
    model = prefine()
    with pytest.raises(ValueError, match=r"models: \[0\] and \[2\] are one and the same"):
        Population([model, prefine(), model])


def test_models_that_have_been_changed_are_refused_before_anything_is_trained():
    population = Population([prefine(preferences=preferences()), prefine(preferences=preferences())])
    population[1].batch_size = 8
    with pytest.raises(ValueError, match=r"batch_size: models\[1\] has 8"):
        population.learn(1)
    assert [model.num_timesteps for model in population] == [0, 0]


def test_references_score_alike_if_weights_and_normaliser_are_the_same(tmp_path):
    source = model_of(PPO, VecNormalize(DummyVecEnv([Anything])), n_steps=16, batch_size=16).learn(16)
    model = PREFINE(source, device="cpu")
    model.save(tmp_path / "model.zip")
    reference, again = load_reference(source), load_reference(tmp_path / "model.zip")
    assert reference is not again
    assert same_distribution(reference, reference)
    assert same_distribution(reference, again)
    assert not same_distribution(reference, load_reference(source, normalizer=False))
    source.get_vec_normalize_env().obs_rms.mean += np.float64(1e-3)
    assert not same_distribution(reference, load_reference(source))
    other = model_of(PPO)
    assert not same_distribution(load_reference(other), load_reference(source, normalizer=False))
