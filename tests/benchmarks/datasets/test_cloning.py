"""A PPO that starts as a clone: what its networks learn."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.datasets import cloning
from benchmarks.datasets.cloning import clone
from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.lagrangian import Recipe, train
from sb3_prefine import collect
from tests.worlds import RandomEnv

# PPO warns about the small batch of its few steps.
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
EXPERT = GoalSeeker("Point", speed=1.8, margin=0.0, caution=0.0, noise=0.1)


class Goal(RandomEnv):
    """A Point robot's view of a goal that moves at random. The reward is higher if the goal is nearer."""

    observation_space = spaces.Box(-np.inf, np.inf, (60,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        self.steps += 1
        observation = self._observe()
        return observation, float(observation[12:28].max()), False, self.steps == 12, {"cost": 0.0}

    def _observe(self) -> np.ndarray:
        observation = np.zeros(60, np.float32)
        observation[:12] = self.np_random.normal(0.3, 0.1, 12)
        observation[12 + self.np_random.integers(16)] = self.np_random.uniform(0.3, 0.9)
        return observation


@pytest.fixture
def untrained(monkeypatch) -> tuple[PPO, VecNormalize]:
    monkeypatch.setattr(cloning, "EPISODES", 200)
    monkeypatch.setattr(cloning, "UPDATES", 2000)
    normalize = VecNormalize(make_vec_env(Goal, n_envs=2, seed=0), gamma=0.9)
    return PPO("MlpPolicy", normalize, n_steps=16, gamma=0.9, seed=0, device="cpu"), normalize


def test_statistics_are_those_of_the_expert_episodes(untrained):
    model, normalize = untrained
    clone(model, normalize, EXPERT, Goal, seed=3)
    episodes = collect(EXPERT, Goal, 200, n_envs=2, seed=3, progress_bar=False)
    np.testing.assert_allclose(normalize.obs_rms.mean, episodes.observations.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(normalize.obs_rms.var, episodes.observations.var(axis=0), rtol=1e-3, atol=1e-4)
    # VecNormalize's own sum, step by step.
    running, seen = 0.0, []
    for reward, ended in zip(episodes.rewards, episodes.terminals | episodes.timeouts, strict=True):
        running = running * 0.9 + float(reward)
        seen.append(running)
        running *= not ended
    assert float(normalize.ret_rms.var) == pytest.approx(np.var(seen), rel=1e-3)


def test_actor_learns_expert_actions_and_critic_expert_returns(untrained):
    model, normalize = untrained
    episodes = collect(EXPERT, Goal, 10, n_envs=2, seed=99, progress_bar=False)
    wanted, _ = EXPERT.predict(episodes.observations, deterministic=True)

    def errors() -> tuple[float, float]:
        normal = torch.as_tensor(normalize.normalize_obs(episodes.observations), dtype=torch.float32)
        with torch.no_grad():
            done, values, _ = model.policy(normal, deterministic=True)
        values = values.numpy()[:, 0] * np.sqrt(normalize.ret_rms.var)
        earned = []
        for episode in episodes:
            total = 0.0
            for reward in episode.rewards[::-1]:
                total = float(reward) + 0.9 * total
                earned.append(total)
            earned[-len(episode.rewards) :] = earned[-len(episode.rewards) :][::-1]
        return float(((done.numpy() - wanted) ** 2).mean()), abs(float(values.mean() - np.mean(earned)))

    action_error, value_error = errors()
    clone(model, normalize, EXPERT, Goal, seed=3)
    cloned_action_error, cloned_value_error = errors()
    assert cloned_action_error < action_error / 5
    assert cloned_value_error < value_error / 5


def test_recipe_with_expert_starts_as_its_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(cloning, "EPISODES", 200)
    monkeypatch.setattr(cloning, "UPDATES", 2000)
    still = {"reward_per_step": 1.0, "learning_rate": 1e-9}
    mean_errors = []
    for expert in (None, EXPERT):
        recipe = Recipe((10.0,), (100,), expert=expert, **still)
        first = train(Goal, recipe, tmp_path / str(expert), seed=0, progress_bar=False)[0]
        episodes = collect(EXPERT, Goal, 10, n_envs=2, seed=99, progress_bar=False)
        done, _ = first.predict(episodes.observations, deterministic=True)
        wanted, _ = EXPERT.predict(episodes.observations, deterministic=True)
        mean_errors.append(float(((done - wanted) ** 2).mean()))
    assert mean_errors[1] < mean_errors[0] / 3
