"""The reference: printed, wrapped, exported, and fine-tuned from a checkpoint of RL Zoo."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference
from tests.worlds import OBSERVATIONS, make_model

CLASSES = {"ppo": PPO, "a2c": A2C, "sac": SAC, "dqn": DQN}
STATES = np.random.default_rng(7).normal(3.0, 2.0, (50, OBSERVATIONS)).astype(np.float32)


def test_repr_of_a_reference_is_short():
    shown = repr(load_reference(make_model(PPO)))
    assert "ActorCriticPolicy" in shown
    assert len(shown) < 10_000


@pytest.mark.parametrize("name", ["ppo/HalfCheetah-v3", "a2c/HalfCheetah-v3", "sac/HalfCheetah-v3", "ppo/Walker2d-v3"])
def test_exported_zoo_checkpoint_is_loaded_by_sb3(zoo, name, tmp_path):
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
    if name == "ppo/HalfCheetah-v3":  # the values of config.yml, because Python 3.7 pickled the zip's functions
        assert exported.clip_range(1.0) == 0.1
        assert exported.lr_schedule(1.0) == pytest.approx(2.0633e-05)
    again = load_reference(path)
    assert [wrapper.path for wrapper in again.env_wrappers] == [wrapper.path for wrapper in reference.env_wrappers]
    np.testing.assert_array_equal(again.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("name", ["ppo/Walker2d-v3", "ppo/Swimmer-v3"])
def test_time_feature_wrapper_of_a_zoo_checkpoint_is_applied(zoo, name):
    reference = load_reference(zoo / name)
    [wrapper] = reference.env_wrappers
    assert wrapper.path == "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    env = reference.wrap_env(gym.make(name.split("/")[1].replace("v3", "v5")))
    assert env.observation_space.shape == reference.observation_space.shape
    observation, _ = env.reset(seed=0)
    reference.predict(observation)


def test_data_without_the_time_feature_are_refused(zoo):
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
    with pytest.raises(ValueError, match=r"^preferred: .*TimeFeatureWrapper"):
        PREFINE(reference, PreferenceBuffer(preferred=bare[0], dispreferred=bare[1]))


def test_every_zoo_zip_except_dqn_can_be_fine_tuned(zoo):
    for path in sorted(zoo.glob("*/*/*.zip")):
        if "dqn" in path.parts:
            with pytest.raises(TypeError, match=r"^policy: DQNPolicy"):
                PREFINE(path, device="cpu")
        else:
            assert PREFINE(path, device="cpu").optimizer.param_groups[0]["params"], path


def test_discrete_zoo_checkpoint_learns_from_its_own_rollouts(zoo):
    reference = load_reference(zoo / "ppo" / "CartPole-v1")
    episodes = collect(reference, "CartPole-v1", 4, seed=0, progress_bar=False)
    data = PreferenceBuffer(preferred=episodes[:2], dispreferred=episodes[2:])
    model = PREFINE(reference, data, seed=0, device="cpu").learn(20)
    assert model.predict(episodes.observations[:5])[0].shape == (5,)
