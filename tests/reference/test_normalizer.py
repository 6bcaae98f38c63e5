"""The frozen statistics against ``VecNormalize``, and pickles whose code must not run."""

import os
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine.reference.normalizer import read_normalizer
from tests.worlds import OBSERVATIONS, RandomEnv


def vec_normalize(seed: int = 0, **kwargs) -> VecNormalize:
    """A ``VecNormalize`` after a hundred random steps."""
    env = VecNormalize(DummyVecEnv([RandomEnv]), **kwargs)
    env.seed(seed)
    env.reset()
    for _ in range(100):
        env.step([RandomEnv.action_space.sample()])
    return env


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 10.0), st.floats(1e-8, 1e-1))
def test_normaliser_equals_vec_normalize(seed, clip_obs, epsilon):
    env = vec_normalize(seed, clip_obs=clip_obs, epsilon=epsilon)
    observations = np.random.default_rng(seed).normal(3.0, 10.0, (20, OBSERVATIONS)).astype(np.float32)
    normalizer = read_normalizer(env)
    np.testing.assert_array_equal(normalizer(observations), env.normalize_obs(observations))
    np.testing.assert_array_equal(normalizer(observations[0]), env.normalize_obs(observations)[0])


def test_object_path_and_bytes_give_the_same_statistics(tmp_path):
    env = vec_normalize()
    env.save(str(tmp_path / "vecnormalize.pkl"))
    for source in (env, tmp_path / "vecnormalize.pkl", pickle.dumps(env)):
        normalizer = read_normalizer(source)
        np.testing.assert_array_equal(normalizer.observations.mean, env.obs_rms.mean)
        np.testing.assert_array_equal(normalizer.observations.var, env.obs_rms.var)


def test_vec_normalize_is_the_same_after_read_and_write(tmp_path):
    env = vec_normalize(gamma=0.97, clip_reward=3.0, norm_reward=True)
    env.venv.observation_space = RandomEnv.observation_space
    again = read_normalizer(env).to_vec_normalize(env.observation_space, env.action_space)
    again.save(str(tmp_path / "vecnormalize.pkl"))
    loaded = VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), DummyVecEnv([RandomEnv]))
    for running in ("obs_rms", "ret_rms"):
        for statistic in ("mean", "var", "count"):
            expected = getattr(getattr(env, running), statistic)
            np.testing.assert_array_equal(getattr(getattr(loaded, running), statistic), expected)
    for name in ("gamma", "clip_reward", "norm_reward", "clip_obs", "epsilon", "norm_obs"):
        assert getattr(loaded, name) == getattr(env, name), name
    assert not loaded.training


def test_statistics_are_read_only():
    normalizer = read_normalizer(vec_normalize())
    with pytest.raises(ValueError, match="read-only"):
        normalizer.observations.mean[0] = 1.0


def test_vec_normalize_of_rewards_only_gives_none():
    assert read_normalizer(vec_normalize(norm_obs=False)) is None


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_hostile_pickle_runs_no_code(tmp_path):
    path = tmp_path / "made_by_the_pickle"
    env = vec_normalize()
    env.extra = Hostile(str(path))
    content = pickle.dumps(env)
    normalizer = read_normalizer(content)
    np.testing.assert_array_equal(normalizer.observations.mean, env.obs_rms.mean)
    assert not path.exists()
    with pytest.raises(ValueError, match=r"^normalizer is not the pickle of a VecNormalize"):
        read_normalizer(pickle.dumps(Hostile(str(path))))
    assert not path.exists()
    pickle.loads(content)
    assert path.exists()  # the pickle was indeed hostile


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({"obs_rms": 1})])
def test_file_without_a_vec_normalize_is_refused(content, tmp_path):
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^normalizer .*vecnormalize\.pkl is not"):
        read_normalizer(path)


def test_truncated_pickle_is_refused(tmp_path):
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(vec_normalize())[:-40])
    with pytest.raises(ValueError, match=r"^normalizer .*vecnormalize\.pkl is not"):
        read_normalizer(path)


def test_statistics_that_are_not_finite_are_refused():
    env = vec_normalize()
    env.obs_rms.mean[1] = np.nan
    with pytest.raises(ValueError, match=r"^normalizer: .*not finite"):
        read_normalizer(env)


class Parts(RandomEnv):
    observation_space = spaces.Dict(
        {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,)), "c": spaces.Box(0, 255, (1, 4, 4), np.uint8)}
    )

    def _observe(self) -> dict[str, np.ndarray]:
        return self.observation_space.sample()


def test_dict_observations_are_normalised_as_in_sb3():
    env = VecNormalize(DummyVecEnv([Parts]), norm_obs_keys=["b", "a"])
    env.reset()
    for _ in range(50):
        env.step(np.zeros((1, 3)))
    raw = env.get_original_obs()
    normalizer = read_normalizer(env)
    for key, expected in env.normalize_obs(raw).items():
        np.testing.assert_array_equal(normalizer(raw)[key], expected)
    assert normalizer(raw)["c"].dtype == np.uint8
    again = normalizer.to_vec_normalize(env.observation_space, env.action_space)
    assert set(again.norm_obs_keys) == {"a", "b"}
    for key, expected in env.normalize_obs(raw).items():
        np.testing.assert_array_equal(again.normalize_obs(raw)[key], expected)


def test_normaliser_matches_only_spaces_of_its_shapes():
    for_dict, for_array = (
        read_normalizer(VecNormalize(DummyVecEnv([Parts]), norm_obs_keys=["a"])),
        read_normalizer(VecNormalize(DummyVecEnv([RandomEnv]))),
    )
    assert for_dict.matches(Parts.observation_space)
    assert not for_dict.matches(RandomEnv.observation_space)
    assert for_array.matches(RandomEnv.observation_space)
    assert not for_array.matches(Parts.observation_space)


def test_every_pickle_of_the_zoo_is_read(zoo):
    paths = sorted(zoo.glob("*/*/*/vecnormalize.pkl"))
    assert paths
    for path in paths:
        normalizer = read_normalizer(path)
        assert normalizer.observations.mean.shape == normalizer.observations.var.shape
        assert np.isfinite(normalizer.observations.mean).all()
        assert normalizer.observations.count > 1e5
