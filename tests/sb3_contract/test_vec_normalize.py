"""VecNormalize: its statistics are in the model, so that SB3's tools get raw environments."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, collect
from tests.families import DictEnv
from tests.sb3_contract.models import vec_env
from tests.worlds import STATES, RandomEnv, make_model, preferences

SHORT: dict[type[BaseAlgorithm], dict[str, Any]] = {
    PPO: {"n_steps": 32, "batch_size": 32},
    SAC: {"learning_starts": 16, "buffer_size": 100},
}


def trained(algorithm: type[BaseAlgorithm]) -> tuple[BaseAlgorithm, VecNormalize]:
    env = VecNormalize(vec_env(), norm_reward=False)
    source = make_model(algorithm, env, **SHORT[algorithm]).learn(32)
    env.training = False
    return source, env


def rewards_of(model: BaseAlgorithm, env: VecEnv) -> list[float]:
    env.seed(3)
    return evaluate_policy(model, env, n_eval_episodes=3, return_episode_rewards=True)[0]


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_evaluation_in_a_raw_environment_gives_the_same_returns(algorithm):
    source, env = trained(algorithm)
    model = PREFINE(source, device="cpu")
    assert model.get_vec_normalize_env() is None
    np.testing.assert_allclose(rewards_of(model, vec_env()), rewards_of(source, env), rtol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_training_and_evaluation_do_not_change_the_statistics(algorithm):
    source, env = trained(algorithm)
    model = PREFINE(source, preferences(), env=vec_env(), batch_size=8, seed=0, device="cpu")
    before = model.reference.normalize(STATES).copy()
    mean, count = env.obs_rms.mean.copy(), env.obs_rms.count
    model.learn(4, callback=EvalCallback(vec_env(), eval_freq=2, n_eval_episodes=2, verbose=0))
    np.testing.assert_array_equal(model.reference.normalize(STATES), before)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    assert env.obs_rms.count == count


def test_later_statistics_of_the_source_do_not_change_the_model():
    source, env = trained(PPO)
    model = PREFINE(source, device="cpu")
    before = model.predict(STATES, deterministic=True)[0]
    env.obs_rms.mean += 100.0
    np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], before)


def test_normalised_rewards_alone_need_no_normaliser():
    env = VecNormalize(vec_env(), norm_obs=False)
    source = make_model(PPO, env, **SHORT[PPO]).learn(32)
    model = PREFINE(source, device="cpu")
    assert model.reference.normalizer is None
    expected = source.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(STATES, deterministic=True)[0], expected)


def test_best_model_of_an_evaluation_has_its_normaliser(tmp_path):
    source, _ = trained(PPO)
    model = PREFINE(source, preferences(), env=vec_env(), batch_size=8, seed=0, device="cpu")
    callback = EvalCallback(vec_env(), eval_freq=2, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    model.learn(2, callback=callback)
    best = PREFINE.load(tmp_path / "best_model", env=RandomEnv(), device="cpu")
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(best.predict(STATES, deterministic=True)[0], expected)
    assert not np.allclose(best.policy.predict(STATES, deterministic=True)[0], expected)


def test_one_part_of_a_dict_can_be_normalised():
    env = VecNormalize(vec_env(env=DictEnv), norm_obs_keys=["speed"], norm_reward=False)
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu"}
    source = PPO("MultiInputPolicy", env, **kwargs).learn(16)
    env.training = False
    episodes = collect(source, DictEnv, 4, seed=0, progress_bar=False)
    data = PreferenceBuffer(preferred=episodes[:2], dispreferred=episodes[2:])
    model = PREFINE(source, data, env=vec_env(2, DictEnv), batch_size=8, seed=0, device="cpu")
    raw = model.get_env().reset()
    expected = source.predict(env.normalize_obs(raw), deterministic=True)[0]
    np.testing.assert_allclose(model.predict(raw, deterministic=True)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.reference.normalize(raw)["camera"], raw["camera"])
    model.learn(2)
