"""Callbacks that evaluate the cost of the policy during training."""

import csv
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import (
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer
from sb3_prefine.callbacks import CostEvalCallback, CostGapCallback
from sb3_prefine.evaluation.cost_gap import cost_gap
from sb3_prefine.evaluation.evaluate import evaluate_policy
from tests.worlds import RandomEnv, RecordingLogger, assert_same_weights, make_model, preferences, weights


class Speed(gym.Env):
    """Ten steps. A step at speed a earns 10a, and costs 1 if a is above a limit in [0.4, 0.6] drawn at reset."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.limits = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.limit = self.np_random.uniform(0.4, 0.6)
        self.limits.append(self.limit)
        return np.array([self.limit], dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"cost": float(action[0] > self.limit)}
        return np.array([self.limit], dtype=np.float32), 10 * float(action[0]), False, self.t == 10, info


def model_at(speed, model=None):
    """Make a PPO model whose deterministic action is the given speed."""
    model = model or PPO("MlpPolicy", Speed(), n_steps=20, batch_size=20, n_epochs=1, seed=0)
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.fill_(speed)
    return model


def evaluate_at(speeds, callback):
    """Call the callback with one speed after the other."""
    model = model_at(0.0)
    model.set_logger(configure(None, []))
    callback.init_callback(model)
    return [(model_at(speed, model), callback.on_step())[1] for speed in speeds]


# The best safe model


def test_best_model_is_the_best_of_the_safe_models(tmp_path):
    callback = CostEvalCallback(Speed, cost_limit=1, eval_freq=1, best_model_save_path=tmp_path / "best", verbose=0)
    model = model_at(0.0)
    model.set_logger(configure(None, []))
    callback.init_callback(model)
    best, saved = [], []
    for speed in (0.9, 0.2, 0.35, 0.3, 0.8):
        model_at(speed, model)
        callback.on_step()
        best.append(callback.best_mean_reward)
        saved.append((tmp_path / "best" / "best_model.zip").exists())
    assert saved == [False, True, True, True, True]
    assert best == pytest.approx([-math.inf, 20, 35, 35, 35], abs=1e-4)
    assert callback.best_mean_cost == 0
    assert callback.last_evaluation.mean_reward == pytest.approx(80, abs=1e-4)

    loaded = PPO.load(tmp_path / "best" / "best_model.zip")
    action, _ = loaded.predict(np.array([0.5], np.float32), deterministic=True)
    assert action == pytest.approx(0.35)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["best_model.zip"]


def test_mean_cost_at_the_limit_is_safe():
    at_full_speed = 10  # every step costs 1
    for limit, best in ((at_full_speed, 100), (at_full_speed - 0.1, -math.inf)):
        callback = CostEvalCallback(Speed, cost_limit=limit, eval_freq=1, verbose=0)
        evaluate_at([1.0], callback)
        assert callback.best_mean_reward == pytest.approx(best)


def test_nothing_is_saved_while_no_model_is_safe(tmp_path):
    callback = CostEvalCallback(Speed, cost_limit=0, eval_freq=1, best_model_save_path=tmp_path, verbose=0)
    evaluate_at([0.7, 0.8, 0.9], callback)
    assert list(tmp_path.iterdir()) == []
    assert callback.best_mean_reward == -math.inf
    assert math.isnan(callback.best_mean_cost)


def test_child_callbacks_can_stop_training():
    reached = StopTrainingOnRewardThreshold(reward_threshold=30)
    callback = CostEvalCallback(Speed, cost_limit=1, eval_freq=1, callback_on_new_best=reached, verbose=0)
    # 0.9 earns more than 30 but is not safe.
    assert evaluate_at([0.1, 0.9, 0.35], callback) == [True, True, False]

    stuck = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    callback = CostEvalCallback(Speed, cost_limit=1, eval_freq=1, callback_after_eval=stuck, verbose=0)
    assert evaluate_at([0.2, 0.1, 0.1], callback) == [True, True, False]


# What the callback writes


def test_evaluations_npz_has_the_keys_of_sb3_and_the_costs(tmp_path):
    callback = CostEvalCallback(Speed, cost_limit=1, eval_freq=20, n_eval_episodes=4, log_path=tmp_path, verbose=0)
    model_at(0.5).learn(60, callback=callback)
    sb3 = EvalCallback(Monitor(Speed()), n_eval_episodes=4, eval_freq=20, log_path=tmp_path / "sb3", verbose=0)
    model_at(0.5).learn(60, callback=sb3)

    ours, theirs = (np.load(folder / "evaluations.npz") for folder in (tmp_path, tmp_path / "sb3"))
    assert set(ours.files) == {*theirs.files, "costs"}
    for key in theirs.files:
        assert ours[key].shape == theirs[key].shape
    np.testing.assert_array_equal(ours["timesteps"], theirs["timesteps"])
    np.testing.assert_array_equal(ours["ep_lengths"], theirs["ep_lengths"])
    assert ours["costs"].shape == (3, 4)
    np.testing.assert_array_equal(ours["costs"][-1], callback.last_evaluation.episode_costs)
    np.testing.assert_array_equal(ours["results"][-1], callback.last_evaluation.episode_rewards)


def test_evaluation_is_logged(tmp_path):
    model = model_at(0.5)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = CostEvalCallback(Speed, cost_limit=5, eval_freq=20, n_eval_episodes=40, verbose=0)
    model.learn(20, callback=callback, log_interval=100)
    [row] = csv.DictReader((tmp_path / "progress.csv").open())
    evaluation = callback.last_evaluation
    violations = float(row["eval/violation_rate"])
    assert 0 < violations < 1
    assert float(row["eval/mean_cost"]) == pytest.approx(10 * violations)  # an episode costs 0 or 10
    assert float(row["eval/mean_reward"]) == pytest.approx(evaluation.mean_reward)
    assert float(row["eval/mean_ep_length"]) == 10
    assert float(row["eval/cvar_cost"]) == 10
    assert int(row["time/total_timesteps"]) == 20


def test_evaluation_and_best_model_are_printed(capsys):
    evaluate_at([0.2], CostEvalCallback(Speed, cost_limit=5, eval_freq=1))
    printed = capsys.readouterr().out
    assert "Evaluation at 0 timesteps: reward 20.0 [20.0, 20.0], cost 0.0 [0.0, 0.0], 10 episodes" in printed
    assert "New best safe model: mean cost 0.0 is within 5" in printed


# Training


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_evaluation_does_not_change_training(algorithm):
    settings = {PPO: {"n_steps": 32, "batch_size": 32}, SAC: {"learning_starts": 40, "batch_size": 16}}[algorithm]

    def train(callback):
        return algorithm("MlpPolicy", Speed(), seed=0, **settings).learn(96, callback=callback)

    plain = train(None)
    evaluated = train(CostEvalCallback(Speed, cost_limit=5, eval_freq=10, deterministic=False, verbose=0))
    assert_same_weights(weights(plain.policy), weights(evaluated.policy))


def test_model_without_an_environment_is_evaluated(tmp_path):
    model_at(0.3).save(tmp_path / "model.zip")
    model = PPO.load(tmp_path / "model.zip")
    model.set_logger(configure(None, []))
    assert model.env is None
    callback = CostEvalCallback(Speed, cost_limit=5, eval_freq=1, verbose=0)
    callback.init_callback(model)
    callback.on_step()
    assert callback.last_evaluation.mean_reward == pytest.approx(30, abs=1e-4)


def test_prefine_without_an_environment_is_evaluated_in_one(tmp_path):
    def train(callback):
        return PREFINE(make_model(PPO), preferences(), seed=0).learn(40, callback=callback)

    callback = CostEvalCallback(
        RandomEnv, cost_limit=10, eval_freq=20, deterministic=False, best_model_save_path=tmp_path, verbose=0
    )
    evaluated = train(callback)
    assert evaluated.env is None
    assert callback.n_calls == 40
    expected = evaluate_policy(evaluated, RandomEnv, 10, deterministic=False)
    np.testing.assert_array_equal(callback.last_evaluation.episode_rewards, expected.episode_rewards)

    assert_same_weights(weights(train(None).policy), weights(evaluated.policy))

    best = evaluate_policy(PREFINE.load(tmp_path / "best_model.zip"), RandomEnv, 10, deterministic=False)
    assert best.mean_reward == callback.best_mean_reward
    assert best.mean_cost == callback.best_mean_cost


def test_model_behind_vec_normalize_sees_normalised_observations(tmp_path):
    venv = VecNormalize(DummyVecEnv([Speed]), clip_obs=3.0)
    model = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, n_epochs=1, seed=0)
    env = Speed()
    callback = CostEvalCallback(
        env, cost_limit=10, eval_freq=60, n_eval_episodes=5, best_model_save_path=tmp_path, verbose=0
    )
    model.learn(64, callback=[callback, StopTrainingOnMaxEpisodes(6)])  # stopped before its next update
    observations = np.array(env.limits, dtype=np.float32)[:, None]
    normalised, _ = model.predict(venv.normalize_obs(observations), deterministic=True)
    raw, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(callback.last_evaluation.episode_rewards, 100 * normalised[:, 0], atol=1e-3)
    assert np.abs(normalised - raw).max() > 1e-3

    saved = evaluate_policy(tmp_path / "best_model.zip", Speed, 5)
    np.testing.assert_allclose(saved.episode_rewards, callback.last_evaluation.episode_rewards, atol=1e-3)


# What is refused


def test_environment_without_costs_is_refused():
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=20, batch_size=20)
    with pytest.raises(ValueError, match=r'^eval_env: .*info\["cost"\]'):
        model.learn(20, callback=CostEvalCallback("CartPole-v1", cost_limit=5, eval_freq=10, verbose=0))


@pytest.mark.parametrize(
    ("name", "value"), [("cost_limit", -1), ("eval_freq", 0), ("n_eval_episodes", 0), ("n_envs", 0)]
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value} "):
        CostEvalCallback(Speed, **{"cost_limit": 5, name: value})


# The cost gap


def fast_costs(observations, actions):
    """A step costs 1 if the first number of its action is positive, as in BAD and not in GOOD."""
    return (actions[:, 0] > 0).astype(float)


def priced_preferences():
    sets = preferences()
    return PreferenceBuffer(
        *(replace(each, costs=fast_costs(None, each.actions)) for each in (sets.preferred, sets.dispreferred))
    )


def test_cost_gap_follows_a_policy_that_becomes_safe():
    sets = priced_preferences()
    assert sets.preferred.episode_costs.max() == 0
    assert sets.dispreferred.episode_costs.min() == 10
    callback = CostGapCallback(fast_costs, eval_freq=150)
    PREFINE(make_model(PPO), sets, learning_rate=1e-2, seed=0, device="cpu").learn(300, callback)
    assert [gaps.timestep for gaps in callback.history] == [0, 150, 300]
    before, _, after = callback.history
    # About half of the ten steps of an untrained policy cost something.
    assert 3 < before.preferred.mean < 7
    assert 3 < before.dispreferred.mean < 7
    assert after.preferred.mean < 1
    assert after.dispreferred.mean > 9


def test_last_measurement_is_of_the_trained_policy():
    sets, callback = priced_preferences(), CostGapCallback(fast_costs, eval_freq=10, seed=7)
    model = PREFINE(make_model(PPO), sets, learning_rate=1e-2, seed=0, device="cpu").learn(20, callback)
    for name in ("preferred", "dispreferred"):
        expected = cost_gap(model, getattr(sets, name), fast_costs, seed=7)
        found = getattr(callback.history[-1], name)
        np.testing.assert_array_equal(found.sampled, expected.sampled)
        np.testing.assert_array_equal(found.recorded, getattr(sets, name).episode_costs)


def test_cost_gap_does_not_change_training():
    def train(callback):
        return PREFINE(make_model(PPO), priced_preferences(), seed=0, device="cpu").learn(20, callback=callback)

    assert_same_weights(weights(train(None).policy), weights(train(CostGapCallback(fast_costs, eval_freq=5)).policy))


def test_cost_gap_is_logged_at_its_timestep(capsys):
    callback = CostGapCallback(fast_costs, eval_freq=3, verbose=1)
    model = PREFINE(make_model(PPO), priced_preferences(), seed=0, device="cpu")
    model.set_logger(recorder := RecordingLogger())
    model.learn(7, callback, log_interval=None)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [0, 3, 6]
    for row, gaps in zip(recorder.rows, callback.history, strict=True):
        assert row["cost_gap/preferred"] == gaps.preferred.mean
        assert row["cost_gap/dispreferred"] == gaps.dispreferred.mean
    assert (
        f"Cost gap at 3 timesteps: preferred {callback.history[1].preferred.mean:.1f}, disp" in capsys.readouterr().out
    )


def test_cost_gap_history_continues_with_training():
    callback = CostGapCallback(fast_costs, eval_freq=2)
    model = PREFINE(make_model(PPO), priced_preferences(), seed=0, device="cpu")
    model.learn(4, callback)
    model.learn(4, callback, reset_num_timesteps=False)
    assert [gaps.timestep for gaps in callback.history] == [0, 2, 4, 6, 8]
    model.learn(2, callback)
    assert [gaps.timestep for gaps in callback.history] == [0, 2]


def test_cost_gap_takes_given_preferences_or_refuses_their_absence():
    sets = priced_preferences()
    few = PreferenceBuffer(sets.preferred[:1], sets.dispreferred[:2])
    callback = CostGapCallback(fast_costs, few, eval_freq=16)
    make_model(PPO, n_steps=16, batch_size=16, n_epochs=1).learn(32, callback)
    assert [gaps.timestep for gaps in callback.history] == [0, 16, 32]
    assert {(len(gaps.preferred.sampled), len(gaps.dispreferred.sampled)) for gaps in callback.history} == {(1, 2)}
    with pytest.raises(ValueError, match=r"^preferences: the PPO"):
        make_model(PPO).learn(1, CostGapCallback(fast_costs))


def test_eval_freq_of_the_cost_gap_has_to_be_positive():
    with pytest.raises(ValueError, match=r"^eval_freq: 0 "):
        CostGapCallback(fast_costs, eval_freq=0)
