"""Predict: shapes, types, bounds, and observations that do not fit."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC

from sb3_prefine import PREFINE
from tests.sb3_contract.models import DEVICES, prefine_of, vec_env
from tests.worlds import ACTIONS, STATES, RandomEnv, env_with_actions, make_model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_predict_takes_one_observation_and_a_batch(algorithm, device):
    model = prefine_of(algorithm, env=vec_env(2), device=device)
    assert model.policy.device.type == device
    one, state = model.predict(STATES[0], deterministic=True)
    many, _ = model.predict(STATES, deterministic=True)
    assert state is None
    assert one.shape == (ACTIONS,)
    assert many.shape == (len(STATES), ACTIONS)
    assert one.dtype == many.dtype == np.float32
    np.testing.assert_allclose(many[0], one, atol=1e-6)
    assert model.action_space.contains(one)
    assert model.predict(model.get_env().reset())[0].shape == (2, ACTIONS)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_predictions_equal_those_of_the_source(algorithm):
    source = make_model(algorithm)
    model = PREFINE(source, device="cpu")
    expected, _ = source.predict(STATES, deterministic=True)
    np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], expected)
    for predictor in (source, model):
        predictor.set_random_seed(4)
    expected, _ = source.predict(STATES)
    model.set_random_seed(4)
    np.testing.assert_array_equal(model.predict(STATES)[0], expected)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_samples_differ_and_stay_in_bounds(algorithm):
    model = prefine_of(algorithm)
    samples = np.concatenate([model.predict(STATES)[0] for _ in range(20)])
    assert len(np.unique(samples[:, 0])) > 100
    assert (samples >= RandomEnv.action_space.low).all()
    assert (samples <= RandomEnv.action_space.high).all()


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)], ids=str)
def test_discrete_actions_are_in_their_space(space):
    model = PREFINE(make_model(PPO, env_with_actions(space)()), device="cpu")
    actions, _ = model.predict(STATES)
    assert actions.shape == (len(STATES), *space.shape)
    assert all(space.contains(action.astype(space.dtype)) for action in actions)
    assert np.issubdtype(actions.dtype, np.integer) or isinstance(space, spaces.MultiBinary)
    assert space.contains(model.predict(STATES[0], deterministic=True)[0].astype(space.dtype))


def test_observations_of_another_shape_are_refused():
    model = prefine_of()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros((2, 3, 5), np.float32))
    with pytest.raises(AssertionError, match="The observation provided is a dict"):
        model.predict({"observation": STATES[0]})


def test_result_of_reset_is_refused_with_a_hint():
    """reset returns a pair of observation and info. Passing it is the most common mistake since gym 0.26."""
    with pytest.raises(ValueError, match="mixing Gym API"):
        prefine_of().predict(RandomEnv().reset())
