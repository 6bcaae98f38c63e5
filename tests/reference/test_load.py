"""Opening a policy from a model, a policy, a zip or a folder of RL Zoo."""

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import ARS
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, load_reference
from tests.worlds import OBSERVATIONS, RandomEnv, make_model

CLASSES = {"ppo": PPO, "a2c": A2C, "sac": SAC, "dqn": DQN}
STATES = np.random.default_rng(7).normal(3.0, 2.0, (50, OBSERVATIONS)).astype(np.float32)


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_model_policy_and_zip_give_the_same_reference(algorithm, tmp_path):
    model = make_model(algorithm)
    model.save(tmp_path / "model")
    expected = model.predict(STATES, deterministic=True)[0]
    for source in (model, model.policy, tmp_path / "model.zip", str(tmp_path / "model")):
        reference = load_reference(source)
        np.testing.assert_array_equal(reference.predict(STATES, deterministic=True)[0], expected)
        assert not any(parameter.requires_grad for parameter in reference.policy.parameters())
        assert reference.policy is not model.policy


def test_policy_without_a_likelihood_opens_but_cannot_be_fine_tuned():
    model = ARS("LinearPolicy", RandomEnv(), seed=0, device="cpu")
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(load_reference(model).predict(STATES, deterministic=True)[0], expected)
    with pytest.raises(TypeError, match=r"^policy: ARSLinearPolicy"):
        PREFINE(model)


def test_loading_a_reference_returns_it():
    reference = load_reference(make_model(PPO))
    assert load_reference(reference) is reference


def test_normaliser_of_a_model_is_found():
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    model = make_model(PPO, env, n_steps=16, batch_size=16).learn(16)
    np.testing.assert_array_equal(load_reference(model).normalizer.observations.mean, env.obs_rms.mean)


def test_normaliser_of_another_environment_is_refused(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    with pytest.raises(ValueError, match=r"^normalizer: .*Box"):
        load_reference(make_model(PPO), normalizer=env)


def test_zip_of_prefine_accepts_no_other_normaliser(tmp_path):
    PREFINE(make_model(PPO), device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"^normalizer: .*model\.zip"):
        load_reference(tmp_path / "model.zip", normalizer=VecNormalize(DummyVecEnv([RandomEnv])))


def test_algorithm_other_than_the_file_s_is_refused(tmp_path):
    make_model(PPO).save(tmp_path / "model.zip")
    assert load_reference(tmp_path / "model.zip", algo="ppo").algo == "ppo"
    with pytest.raises(ValueError, match=r"^algo: 'sac'.*'ppo'"):
        load_reference(tmp_path / "model.zip", algo="sac")


def test_environment_with_another_shape_is_refused(tmp_path):
    make_model(PPO).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"^env: its observation_space .*\(3,\).*\(5,\)"):
        load_reference(tmp_path / "model.zip", env="Pendulum-v1")


@pytest.mark.filterwarnings("ignore:numpy.core.numeric is deprecated")
def test_zoo_zips_act_the_same_with_and_without_trust(zoo):
    paths = sorted(zoo.glob("*/*/*.zip"))
    assert len(paths) >= 20
    for path in paths:
        plain, trusted = load_reference(path), load_reference(path, trust=True)
        rng = np.random.default_rng(0)
        observations = rng.normal(size=(10, *plain.observation_space.shape)).astype(np.float32)
        actions = plain.predict(observations, deterministic=True)[0]
        np.testing.assert_array_equal(actions, trusted.predict(observations, deterministic=True)[0], err_msg=str(path))
        assert plain.algo == path.parts[-3]
        assert len({action.tobytes() for action in actions}) > 1, f"{path}: every observation gives the same action"


def test_missing_normaliser_is_refused_if_the_config_normalises(zoo, tmp_path):
    source = zoo / "ppo" / "HalfCheetah-v3_1"
    (tmp_path / "HalfCheetah-v3").mkdir()
    (tmp_path / "HalfCheetah-v3.zip").write_bytes((source / "HalfCheetah-v3.zip").read_bytes())
    config = (source / "HalfCheetah-v3" / "config.yml").read_text()
    (tmp_path / "HalfCheetah-v3" / "config.yml").write_text(config)
    with pytest.raises(ValueError, match=r"^normalizer: .*HalfCheetah-v3\.zip"):
        load_reference(tmp_path / "HalfCheetah-v3.zip")
    given = load_reference(tmp_path / "HalfCheetah-v3.zip", normalizer=source / "HalfCheetah-v3" / "vecnormalize.pkl")
    assert given.normalizer is not None
