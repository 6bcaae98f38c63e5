"""Opening a policy from anywhere, the checkpoints of RL Zoo among them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference
from tests.worlds import OBSERVATIONS, Anything, model_of

CLASSES = {"ppo": PPO, "a2c": A2C, "sac": SAC, "dqn": DQN}
STATES = np.random.default_rng(7).normal(3.0, 2.0, (50, OBSERVATIONS)).astype(np.float32)


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_model_policy_and_zip_give_the_same_reference(algorithm, tmp_path):
    model = model_of(algorithm)
    model.save(tmp_path / "model")
    expected = model.predict(STATES, deterministic=True)[0]
    for source in (model, model.policy, tmp_path / "model.zip", str(tmp_path / "model")):
        reference = load_reference(source)
        np.testing.assert_array_equal(reference.predict(STATES, deterministic=True)[0], expected)
        assert not any(parameter.requires_grad for parameter in reference.policy.parameters())
        assert reference.policy is not model.policy


def test_a_policy_without_gradients_opens_although_it_cannot_be_fine_tuned():
    model = ARS("LinearPolicy", Anything(), seed=0, device="cpu")
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(load_reference(model).predict(STATES, deterministic=True)[0], expected)
    with pytest.raises(TypeError, match="ARSLinearPolicy has no likelihood"):
        PREFINE(model)


def test_a_reference_stays_what_it_is():
    reference = load_reference(model_of(PPO))
    assert load_reference(reference) is reference


def test_a_reference_can_be_printed():
    shown = repr(load_reference(model_of(PPO)))
    assert "ActorCriticPolicy" in shown
    assert len(shown) < 10_000


def test_the_model_s_own_normaliser_is_found():
    env = VecNormalize(DummyVecEnv([Anything]))
    model = model_of(PPO, env, n_steps=16, batch_size=16).learn(16)
    np.testing.assert_array_equal(load_reference(model).normalizer.observations.mean, env.obs_rms.mean)


def test_a_normaliser_of_another_environment_is_refused(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    with pytest.raises(ValueError, match=r"normalizer: its statistics are of other observations"):
        load_reference(model_of(PPO), normalizer=env)


def test_a_zip_of_prefine_carries_its_own_normaliser(tmp_path):
    PREFINE(model_of(PPO), device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"was written by PREFINE\.save and carries its own"):
        load_reference(tmp_path / "model.zip", normalizer=VecNormalize(DummyVecEnv([Anything])))


def test_an_algorithm_that_is_not_the_file_s_is_refused(tmp_path):
    model_of(PPO).save(tmp_path / "model.zip")
    assert load_reference(tmp_path / "model.zip", algo="ppo").algo == "ppo"
    with pytest.raises(ValueError, match=r"algo: 'sac' was given, but .* is of 'ppo'"):
        load_reference(tmp_path / "model.zip", algo="sac")


def test_an_environment_of_another_shape_is_refused(tmp_path):
    model_of(PPO).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"env: its observation_space .*\(3,\).*\(5,\)"):
        load_reference(tmp_path / "model.zip", env="Pendulum-v1")


@pytest.mark.filterwarnings("ignore:numpy.core.numeric is deprecated")
def test_every_readable_zip_of_the_zoo_opens_both_ways_with_equal_predictions(zoo):
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


def test_every_zip_of_the_zoo_but_dqn_s_can_be_fine_tuned(zoo):
    for path in sorted(zoo.glob("*/*/*.zip")):
        if "dqn" in path.parts:
            with pytest.raises(TypeError, match="DQN"):
                PREFINE(path, device="cpu")
        else:
            assert PREFINE(path, device="cpu").optimizer.param_groups[0]["params"], path


def test_a_discrete_checkpoint_of_the_zoo_learns_from_its_own_rollouts(zoo):
    reference = load_reference(zoo / "ppo" / "CartPole-v1")
    episodes = collect(reference, "CartPole-v1", 4, seed=0, progress_bar=False)
    data = PreferenceBuffer(preferred=episodes[:2], dispreferred=episodes[2:])
    model = PREFINE(reference, data, seed=0, device="cpu").learn(20)
    assert model.predict(episodes.observations[:5])[0].shape == (5,)


@pytest.mark.parametrize("name", ["ppo/Walker2d-v3", "ppo/Swimmer-v3"])
def test_the_zoo_s_time_feature_wrapper_is_found(zoo, name):
    reference = load_reference(zoo / name)
    [wrapper] = reference.env_wrappers
    assert wrapper.path == "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    env = reference.wrap_env(gym.make(name.split("/")[1].replace("v3", "v5")))
    assert env.observation_space.shape == reference.observation_space.shape
    observation, _ = env.reset(seed=0)
    reference.predict(observation)


def test_data_without_the_time_feature_are_refused_with_a_hint(zoo):
    reference = load_reference(zoo / "ppo" / "Walker2d-v3")
    rng = np.random.default_rng(0)
    bare = Trajectories(
        observations=rng.normal(size=(4, 17)).astype(np.float32),
        next_observations=rng.normal(size=(4, 17)).astype(np.float32),
        actions=rng.uniform(-1, 1, (4, 6)).astype(np.float32),
        rewards=np.ones(4),
        costs=np.zeros(4),
        terminals=np.zeros(4, bool),
        timeouts=np.array([False, True, False, True]),
    )
    with pytest.raises(ValueError, match="TimeFeatureWrapper"):
        PREFINE(reference, PreferenceBuffer(preferred=bare[0], dispreferred=bare[1]))


@pytest.mark.parametrize("name", ["ppo/HalfCheetah-v3", "a2c/HalfCheetah-v3", "sac/HalfCheetah-v3", "ppo/Walker2d-v3"])
def test_a_zoo_checkpoint_is_exported_as_a_zip_that_sb3_loads(zoo, name, tmp_path):
    reference = load_reference(zoo / name)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(10, *reference.observation_space.shape)).astype(np.float32)
    model = PREFINE(reference, device="cpu")
    with torch.no_grad():
        for parameter in model.optimizer.param_groups[0]["params"]:
            parameter.mul_(1.01)
    path = model.export(tmp_path / "safe")
    exported = CLASSES[reference.algo].load(path, device="cpu")
    expected = model.predict(observations, deterministic=True)[0]
    normalized = reference.normalize(observations)
    np.testing.assert_array_equal(exported.predict(normalized, deterministic=True)[0], expected)
    assert exported.num_timesteps == reference.checkpoint.fields["num_timesteps"]
    if name == "ppo/HalfCheetah-v3":  # what its config.yml says; the zip's own functions are Python 3.7's
        assert exported.clip_range(1.0) == 0.1
        assert exported.lr_schedule(1.0) == pytest.approx(2.0633e-05)
    again = load_reference(path)
    assert [wrapper.path for wrapper in again.env_wrappers] == [wrapper.path for wrapper in reference.env_wrappers]
    np.testing.assert_array_equal(again.predict(observations, deterministic=True)[0], expected)


def test_a_missing_pickle_beside_a_configuration_that_normalises_is_refused(zoo, tmp_path):
    source = zoo / "ppo" / "HalfCheetah-v3_1"
    (tmp_path / "HalfCheetah-v3").mkdir()
    (tmp_path / "HalfCheetah-v3.zip").write_bytes((source / "HalfCheetah-v3.zip").read_bytes())
    config = (source / "HalfCheetah-v3" / "config.yml").read_text()
    (tmp_path / "HalfCheetah-v3" / "config.yml").write_text(config)
    with pytest.raises(ValueError, match=r"normalizer: .*was trained on normalised observations.*Pass normalizer="):
        load_reference(tmp_path / "HalfCheetah-v3.zip")
    given = load_reference(tmp_path / "HalfCheetah-v3.zip", normalizer=source / "HalfCheetah-v3" / "vecnormalize.pkl")
    assert given.normalizer is not None
