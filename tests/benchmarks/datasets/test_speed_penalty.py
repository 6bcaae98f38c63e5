"""The penalty on speed."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from benchmarks.datasets.speed_penalty import SpeedPenalty


class Running(gym.Env):
    """An environment with a speed limit of 2 m/s and known velocities, whose norm is the reward."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    velocities = ((1.0, 0.0), (0.0, -3.0), (3.0, 4.0))
    _velocity_threshold = 2.0

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        x, y = self.velocities[self.steps]
        self.steps += 1
        return (
            np.zeros(1, np.float32),
            float(np.hypot(x, y)),
            self.steps == 3,
            False,
            {"x_velocity": x, "y_velocity": y},
        )


def rewards(max_speed: float) -> list[float]:
    env = SpeedPenalty(DummyVecEnv([Running]))
    env.reset()
    env.max_speed = max_speed
    return [float(env.step(np.zeros((1, 1)))[1][0]) for _ in range(3)]


def test_speed_above_maximum_is_penalised():
    np.testing.assert_allclose(rewards(1.0), [1.0, 3.0 - 1.2 * 1.0, 5.0 - 1.2 * 3.0], rtol=1e-6)
    np.testing.assert_allclose(rewards(1.5), [1.0, 3.0, 5.0 - 1.2 * 2.0], rtol=1e-6)
    assert rewards(np.inf) == [1.0, 3.0, 5.0]


def test_penalty_uses_speed_limit_of_the_robot():
    env = SpeedPenalty(DummyVecEnv([lambda: gym.make("SafetyHopperVelocity-v1")]))
    env.reset()
    env.max_speed = -1e6  # all speeds are penalised
    _, charged, _, infos = env.step(np.zeros((1, 3)))
    expected = 1.0 + infos[0]["x_velocity"] - 1.2 * (abs(infos[0]["x_velocity"]) + 1e6 * 0.7402)
    np.testing.assert_allclose(charged, [expected], rtol=1e-6)
