import math

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stable_baselines3 import PPO

from sb3_prefine.evaluation.evaluate import Evaluation, evaluate_policy
from tests.scripted import ScriptedEnv, ZeroPolicy

COSTS = st.lists(st.floats(0, 1000), min_size=1, max_size=60)


def of_costs(costs):
    return Evaluation(np.zeros(len(costs)), np.array(costs), np.ones(len(costs)))


# evaluate_policy


@pytest.mark.parametrize("n_envs", [1, 4, 30])
def test_episode_sums_are_exact(n_envs):
    env = ScriptedEnv()
    evaluate_policy(ZeroPolicy(), env, 20)
    lengths = np.array([1 + seed % 7 for seed in env.seeds])

    evaluation = evaluate_policy(ZeroPolicy(), ScriptedEnv, 20, n_envs=n_envs)
    np.testing.assert_array_equal(evaluation.episode_lengths, lengths)
    np.testing.assert_array_equal(evaluation.episode_rewards, lengths * (lengths + 1) / 2)
    np.testing.assert_array_equal(evaluation.episode_costs, (lengths + 1) // 2)


def test_results_agree_with_a_plain_loop_over_single_steps():
    """A plain loop over one environment, one observation at a time."""

    class SeedLog(gym.Wrapper):
        seeds: list

        def reset(self, *, seed=None, options=None):
            self.seeds = [*getattr(self, "seeds", []), seed]
            return super().reset(seed=seed, options=options)

    model = PPO("MlpPolicy", "CartPole-v1", seed=0)
    env = SeedLog(gym.make("CartPole-v1"))
    evaluation = evaluate_policy(model, env, 6)
    returns = []
    for seed in env.seeds:
        observation, _ = env.env.reset(seed=seed)
        returns.append(0.0)
        done = False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.env.step(action)
            returns[-1] += reward
            done = terminated or truncated
    np.testing.assert_array_equal(evaluation.episode_rewards, returns)
    np.testing.assert_array_equal(evaluate_policy(model, "CartPole-v1", 6, n_envs=4).episode_rewards, returns)


def test_the_cost_of_the_speed_limit_environment():
    model = PPO("MlpPolicy", "HalfCheetah-v5", seed=0)
    evaluation = evaluate_policy(model, "SpeedLimitHalfCheetah-v0", 2)
    np.testing.assert_array_equal(evaluation.episode_lengths, [1000, 1000])
    assert not np.isnan(evaluation.mean_cost)


def test_unknown_costs_stay_unknown():
    evaluation = evaluate_policy(PPO("MlpPolicy", "CartPole-v1", seed=0), "CartPole-v1", 3)
    assert math.isnan(evaluation.mean_cost)
    assert math.isnan(evaluation.violation_rate(10))
    assert math.isnan(evaluation.cvar_cost())
    assert all(math.isnan(bound) for bound in evaluation.cost_interval)
    assert "cost unknown, 3 episodes" in str(evaluation)


def test_the_progress_bar_shows_return_and_cost(capsys):
    evaluation = evaluate_policy(ZeroPolicy(), ScriptedEnv, 5, progress_bar=True)
    expected = f"return {evaluation.mean_reward:.1f}, cost {evaluation.mean_cost:.1f}"
    assert expected in capsys.readouterr().err
    evaluate_policy(ZeroPolicy(), ScriptedEnv, 5)
    assert capsys.readouterr().err == ""


def test_zero_episodes_are_refused():
    with pytest.raises(ValueError, match=r"^n_episodes: 0 "):
        evaluate_policy(ZeroPolicy(), ScriptedEnv, 0)


# Evaluation


def test_an_episode_at_the_limit_is_safe():
    evaluation = of_costs([0, 10, 25, 25, 40])
    assert evaluation.violation_rate(25) == 0.2
    assert evaluation.violation_rate(24.9) == pytest.approx(0.6)
    assert evaluation.violation_rate(0) == 0.8
    assert evaluation.violation_rate(math.inf) == 0


@pytest.mark.parametrize("limit", [-1, math.nan])
def test_an_invalid_cost_limit_is_refused(limit):
    with pytest.raises(ValueError, match=r"^cost_limit: "):
        of_costs([1]).violation_rate(limit)


def test_cvar_is_the_mean_of_the_worst_tenth():
    evaluation = of_costs(np.random.default_rng(0).permutation(100))
    assert evaluation.cvar_cost() == np.mean(range(90, 100))
    assert evaluation.cvar_cost(0.07) == np.mean(range(93, 100))  # 0.07 * 100 is 7.000000000000001
    assert evaluation.cvar_cost(0.001) == 99
    assert of_costs([3, 1, 2]).cvar_cost(0.5) == 2.5


@given(costs=COSTS, alpha=st.floats(0.01, 1))
def test_cvar_lies_between_the_mean_and_the_maximum(costs, alpha):
    evaluation = of_costs(costs)
    slack = 1e-9 * (1 + max(costs))
    assert evaluation.mean_cost - slack <= evaluation.cvar_cost(alpha) <= max(costs) + slack
    assert evaluation.cvar_cost(1) == pytest.approx(evaluation.mean_cost)


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1, math.nan])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"^alpha: "):
        of_costs([1]).cvar_cost(alpha)


def test_the_intervals_are_scipys_percentile_bootstrap():
    rng = np.random.default_rng(1)
    rewards, costs = rng.normal(50, 10, 100), rng.exponential(20, 100)
    evaluation = Evaluation(rewards, costs, np.ones(100))
    for values, interval in ((rewards, evaluation.reward_interval), (costs, evaluation.cost_interval)):
        expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=2)
        assert interval == pytest.approx(tuple(expected.confidence_interval), abs=0.012 * values.std())
    assert evaluation.cost_interval == evaluation.cost_interval


@given(costs=COSTS)
def test_the_interval_lies_within_the_data(costs):
    low, high = of_costs(costs).cost_interval
    slack = 1e-9 * (1 + max(costs))
    assert min(costs) - slack <= low <= high <= max(costs) + slack


def test_str_shows_means_and_intervals():
    evaluation = Evaluation(np.array([5880.06] * 20), np.array([975.0] * 20), np.full(20, 1000))
    assert str(evaluation) == "reward 5,880.1 [5,880.1, 5,880.1], cost 975.0 [975.0, 975.0], 20 episodes"
    assert str(Evaluation([1.5], [0], [3])) == "reward 1.5, cost 0.0, 1 episode"


def test_the_arrays_are_read_only_copies():
    costs = np.array([1.0, 2.0])
    evaluation = of_costs(costs)
    costs[0] = 100
    assert evaluation.mean_cost == 1.5
    with pytest.raises(ValueError, match="read-only"):
        evaluation.episode_costs[0] = 3


@pytest.mark.parametrize(
    "arrays", [([], [], []), ([1.0], [1.0, 2.0], [1]), ([1.0], [1.0], [1, 1]), ([[1.0]], [[1.0]], [[1]]), (1.0, 1.0, 1)]
)
def test_arrays_without_one_number_per_episode_are_refused(arrays):
    with pytest.raises(ValueError, match=r"^episode_\w+: shape "):
        Evaluation(*arrays)
