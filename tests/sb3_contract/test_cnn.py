"""Images: channels first in the data, first or last in an environment and in predict."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage, is_vecenv_wrapped

from sb3_prefine import PREFINE, PreferenceBuffer, load_reference
from sb3_prefine.data.trajectories import Trajectories
from tests.sb3_contract.models import vec_env
from tests.worlds import ACTIONS, BAD, GOOD, RandomEnv, trajectories

SMALL: dict[type[BaseAlgorithm], dict[str, Any]] = {PPO: {"n_steps": 16, "batch_size": 16}, SAC: {"buffer_size": 10}}
N = 40


class ChannelsLast(RandomEnv):
    """Images with channels last, as cameras and renderers return them."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)

    def _observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (36, 40, 3), dtype=np.uint8)


def source_of(algorithm: type[BaseAlgorithm], env: Any = None) -> BaseAlgorithm:
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    env = ChannelsLast() if env is None else env
    return algorithm("CnnPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **SMALL[algorithm])


def images(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 36, 40, channels), dtype=np.uint8)


def preferences(channels: int = 3) -> PreferenceBuffer:
    def seen(action: list[float]) -> Trajectories:
        given = trajectories(action, n_episodes=N // 10)
        frames = images(channels).transpose(0, 3, 1, 2)
        columns = {name: getattr(given, name) for name in ("actions", "rewards", "costs", "terminals", "timeouts")}
        return Trajectories(observations=frames, next_observations=frames, **columns)

    return PreferenceBuffer(preferred=seen(GOOD), dispreferred=seen(BAD))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_env_is_transposed_and_predict_takes_both_layouts(algorithm):
    source = source_of(algorithm)
    model = PREFINE(source, preferences(), env=ChannelsLast(), batch_size=4, seed=0, device="cpu").learn(2)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)
    assert model.observation_space.shape == (3, 36, 40)
    assert model.get_env().reset().shape == (1, 3, 36, 40)
    last, first = images(), images().transpose(0, 3, 1, 2)
    expected = model.predict(first, deterministic=True)[0]
    assert expected.shape == (N, ACTIONS)
    np.testing.assert_array_equal(model.predict(last, deterministic=True)[0], expected)
    np.testing.assert_allclose(model.predict(last[0], deterministic=True)[0], expected[0], atol=1e-6)
    assert not np.allclose(source.predict(first, deterministic=True)[0], expected)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_loaded_model_takes_an_environment_of_either_layout(n_envs, tmp_path):
    model = PREFINE(source_of(PPO), preferences(), batch_size=4, seed=0, device="cpu").learn(1)
    model.save(tmp_path / "model")
    env = vec_env(n_envs, ChannelsLast)
    for given in (env, VecTransposeImage(env)):
        loaded = PREFINE.load(tmp_path / "model", env=given, device="cpu")
        observations = loaded.get_env().reset()
        assert observations.shape == (n_envs, 3, 36, 40)
        expected = model.predict(observations, deterministic=True)[0]
        np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("make", [ChannelsLast, lambda: vec_env(2, ChannelsLast)], ids=["Env", "VecEnv"])
def test_zip_of_another_algorithm_opens_with_its_environment(make, tmp_path):
    source = source_of(PPO)
    source.save(tmp_path / "ppo")
    expected = source.predict(images(), deterministic=True)[0]
    reference = load_reference(tmp_path / "ppo", env=make())
    np.testing.assert_array_equal(reference.predict(images(), deterministic=True)[0], expected)
    model = PREFINE.load(tmp_path / "ppo", env=make(), device="cpu")
    np.testing.assert_array_equal(model.predict(images(), deterministic=True)[0], expected)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)


def test_frames_can_be_stacked():
    env = VecFrameStack(vec_env(2, ChannelsLast), n_stack=2)
    source = source_of(PPO, env)
    model = PREFINE(source, preferences(channels=6), env=env, batch_size=4, seed=0, device="cpu").learn(2)
    assert model.observation_space.shape == (6, 36, 40)
    observations = model.get_env().reset()
    assert model.predict(observations)[0].shape == (2, ACTIONS)


def test_scaled_images_are_not_scaled_again(tmp_path):
    """normalize_images=False is a setting of the policy, which is kept."""

    class Scaled(ChannelsLast):
        observation_space = spaces.Box(0.0, 1.0, (3, 36, 40), np.float32)

        def _observe(self) -> np.ndarray:
            return self.np_random.random((3, 36, 40), dtype=np.float32)

    kwargs = {
        "net_arch": [8],
        "normalize_images": False,
        "features_extractor_kwargs": {"features_dim": 8, "normalized_image": True},
    }
    source = PPO("CnnPolicy", Scaled(), policy_kwargs=kwargs, seed=0, device="cpu", **SMALL[PPO])
    frames = np.random.default_rng(0).random((5, 3, 36, 40), dtype=np.float32)
    expected = source.predict(frames, deterministic=True)[0]
    model = PREFINE(source, device="cpu")
    assert not model.policy.normalize_images
    np.testing.assert_array_equal(model.predict(frames, deterministic=True)[0], expected)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(frames, deterministic=True)[0], expected)
