import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.evaluation.evaluate import evaluate_policy
from sb3_prefine.rollout.collect import collect
from tests.scripted import ScriptedEnv, ZeroPolicy


@pytest.fixture(scope="module")
def model():
    return PPO("MlpPolicy", "HalfCheetah-v5", seed=0)


def test_episodes_become_trajectories_in_the_order_of_their_seeds():
    env = ScriptedEnv()
    collect(ZeroPolicy(), env, 20, progress_bar=False)
    lengths = np.array([1 + seed % 7 for seed in env.seeds])

    trajectories = collect(ZeroPolicy(), ScriptedEnv, 20, n_envs=6, progress_bar=False)
    assert isinstance(trajectories, Trajectories)
    np.testing.assert_array_equal(trajectories.episode_lengths, lengths)
    np.testing.assert_array_equal(trajectories.episode_returns, lengths * (lengths + 1) / 2)
    np.testing.assert_array_equal(trajectories.episode_costs, (lengths + 1) // 2)
    ends = np.cumsum(lengths) - 1
    np.testing.assert_array_equal(np.flatnonzero(trajectories.terminals), ends[lengths % 2 == 1])
    np.testing.assert_array_equal(np.flatnonzero(trajectories.timeouts), ends[lengths % 2 == 0])
    np.testing.assert_array_equal(trajectories.next_observations[:, 1], trajectories.observations[:, 1] + 1)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_replaying_the_recorded_actions_gives_the_same_episode(algorithm):
    """MuJoCo is deterministic: from the same seed the recorded actions lead through the recorded observations."""
    seeds = []

    class SeedLog(gym.Wrapper):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed, options=options)

    model = algorithm("MlpPolicy", "Pendulum-v1", seed=0)
    recording = collect(model, lambda: SeedLog(gym.make("Pendulum-v1")), 3, n_envs=1, progress_bar=False)
    env = gym.make("Pendulum-v1")
    for episode, seed in zip(recording, seeds, strict=True):
        observation, _ = env.reset(seed=seed)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(np.float32(observation), episode.observations[t])
            observation, reward, _, truncated, _ = env.step(action)
            np.testing.assert_array_equal(np.float32(observation), episode.next_observations[t])
            assert np.float32(reward) == episode.rewards[t]
        assert truncated
        assert episode.timeouts[-1]


def test_collecting_and_evaluating_see_the_same_episodes(model):
    trajectories = collect(model, "SpeedLimitHalfCheetah-v0", 2, deterministic=True, seed=3, progress_bar=False)
    evaluation = evaluate_policy(model, "SpeedLimitHalfCheetah-v0", 2, seed=3)
    np.testing.assert_allclose(trajectories.episode_returns, evaluation.episode_rewards, rtol=1e-5)
    np.testing.assert_array_equal(trajectories.episode_costs, evaluation.episode_costs)
    assert trajectories.observations.dtype == np.float32
    assert set(np.unique(trajectories.costs)) <= {0.0, 1.0}


def test_transformed_actions_are_recorded(model):
    recording = collect(
        model,
        "SpeedLimitHalfCheetah-v0",
        1,
        deterministic=True,
        action_transform=lambda actions: 3 * actions - 1,
        progress_bar=False,
    )
    expected, _ = model.predict(recording.observations, deterministic=True)
    np.testing.assert_allclose(recording.actions, np.clip(3 * expected - 1, -1, 1), atol=1e-4)
    assert (recording.actions == -1).any()


def test_an_environment_without_costs_gives_unknown_costs():
    trajectories = collect(PPO("MlpPolicy", "CartPole-v1", seed=0), "CartPole-v1", 3, progress_bar=False)
    assert np.isnan(trajectories.costs).all()
    assert trajectories.actions.dtype == np.int64


def test_dict_observations_are_recorded_part_by_part():
    env = gym.wrappers.TimeAwareObservation(gym.make("Pendulum-v1"), flatten=False)
    trajectories = collect(PPO("MultiInputPolicy", env).policy, env, 2, progress_bar=False)
    assert trajectories.observations["obs"].shape == (400, 3)
    assert trajectories.observations["time"].ravel().tolist() == 2 * list(range(200))
    assert trajectories.next_observations["time"].ravel().tolist() == 2 * list(range(1, 201))


def test_the_progress_bar_shows_return_and_cost(capsys):
    trajectories = collect(ZeroPolicy(), ScriptedEnv, 5)
    shown = f"return {trajectories.episode_returns.mean():.1f}, cost {trajectories.episode_costs.mean():.1f}"
    assert shown in capsys.readouterr().err
