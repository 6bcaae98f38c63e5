"""Observations and actions of other kinds than vectors, and observations behind a normaliser."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import collect, load_reference
from sb3_prefine.baselines import CPL, CPQ, SafeDICE
from tests.algorithms.cases import ONE_OF_EACH, each_algorithm, predicted
from tests.families import DictEnv, ImageEnv
from tests.worlds import STATES, RandomEnv, assert_same_weights, env_with_actions, make_model, weights

ENVS = {
    "images": (ImageEnv, "CnnPolicy"),
    "Dict": (DictEnv, "MultiInputPolicy"),
    "Discrete": (env_with_actions(spaces.Discrete(4)), "MlpPolicy"),
    "MultiDiscrete": (env_with_actions(spaces.MultiDiscrete([3, 2])), "MlpPolicy"),
    "MultiBinary": (env_with_actions(spaces.MultiBinary(3)), "MlpPolicy"),
}
READS_VECTORS = (SafeDICE, CPQ)


def ppo(kind: str) -> PPO:
    env, policy = ENVS[kind]
    return PPO(policy, env(), policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize(
    "case", [case for case in ONE_OF_EACH if case.algorithm not in READS_VECTORS], ids=lambda case: case.name
)
def test_other_spaces_are_trained_on_saved_and_exported(case, kind, tmp_path):
    source, env = ppo(kind), ENVS[kind][0]
    before = weights(source.policy)
    data = case.make_data(*(collect(source, env, 2, seed=seed, progress_bar=False) for seed in range(2)))
    # A fixed standard deviation is for continuous actions.
    options = {"fixed_std": None} if case.algorithm is CPL else {}
    model = case.make(source, **data, **options).learn(3)
    assert_same_weights(weights(model.reference.policy), before)
    assert any((weight != before[name]).any() for name, weight in weights(model.policy).items())
    model.save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", device="cpu")
    exported = PPO.load(model.export(tmp_path / "ppo"), device="cpu")
    observations = [space.sample() for space in [model.observation_space] * 5]
    for observation in observations:
        expected = predicted(model, observation)
        for other in (loaded, exported):
            np.testing.assert_array_equal(predicted(other, observation), expected)


@pytest.mark.parametrize("case", [c for c in ONE_OF_EACH if c.algorithm in READS_VECTORS], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", ENVS)
def test_algorithms_with_critics_refuse_other_spaces(case, kind):
    name = "observation_space" if kind in ("images", "Dict") else "action_space"
    with pytest.raises(TypeError, match=rf"^({name}|policy): "):
        case.make(ppo(kind), **{case.data_name: None})


@each_algorithm
def test_predict_takes_raw_observations_and_normalizes_them(case, tmp_path):
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    source = make_model(SAC, env, learning_starts=5).learn(30)
    model = case.make(source)
    expected = predicted(source, env.normalize_obs(STATES))
    np.testing.assert_allclose(predicted(model, STATES), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(predicted(source, STATES), expected, atol=1e-3)

    # The normaliser stays with the model, its file and its export.
    expected = predicted(model.learn(7), STATES)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(predicted(case.algorithm.load(tmp_path / "model", device="cpu"), STATES), expected)
    path = model.export(tmp_path / "sac")
    np.testing.assert_array_equal(predicted(load_reference(path), STATES), expected)
    exported = SAC.load(path, device="cpu")
    saved = VecNormalize.load(str(tmp_path / "sac" / "vecnormalize.pkl"), DummyVecEnv([RandomEnv]))
    np.testing.assert_array_equal(predicted(exported, saved.normalize_obs(STATES)), expected)
