import gymnasium
import numpy as np
import pytest

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from sb3_prefine.envs.speed_limit import SpeedLimit
from tests.envs.packages import actions, play


class Runner(gymnasium.Env):
    """Reports the given speeds."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, infos):
        self.infos = iter(infos)

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.5, False, False, next(self.infos)


def test_the_cost_is_one_above_the_limit_and_not_at_it():
    speeds = [-9.0, 1.9, 2.0, np.nextafter(2.0, 3.0), 7.0, float("nan")]
    env = SpeedLimit(Runner({"x_velocity": speed} for speed in speeds), 2.0)
    steps = [env.step(None) for _ in speeds]
    assert [step[4]["cost"] for step in steps] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert {type(step[4]["cost"]) for step in steps} == {float}
    assert {step[1] for step in steps} == {1.5}


def test_a_missing_speed_key_is_named():
    env = SpeedLimit(Runner([{"knots": 5}]), 2.0, speed_key="knots")
    assert env.step(None)[4]["cost"] == 1.0
    with pytest.raises(ValueError, match=r"^speed_key: .*'x_velocity'.*\['knots'\]"):
        SpeedLimit(Runner([{"knots": 5}]), 2.0).step(None)


def test_a_cost_of_the_environment_is_not_hidden():
    with pytest.raises(ValueError, match=r"^env: .*'cost'"):
        SpeedLimit(Runner([{"x_velocity": 1, "cost": 1}]), 2.0).step(None)


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_a_limit_that_is_not_finite_is_refused(limit):
    with pytest.raises(ValueError, match=r"^limit: "):
        SpeedLimit(Runner([]), limit)


def test_the_half_cheetah_equals_safety_gymnasiums():
    """gymnasium's v5 with this wrapper, and Safety-Gymnasium's own class, from the same states and actions."""
    ours = gymnasium.make("SpeedLimitHalfCheetah-v0", disable_env_checker=True)
    theirs = gymnasium.make("SafetyHalfCheetahVelocity-v1", disable_env_checker=True)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    costs = []
    for i, action in enumerate(actions(ours, 200)):
        if i % 10 == 0:
            ours.reset(), theirs.reset()
            qpos = ours.unwrapped.init_qpos + rng.uniform(-0.1, 0.1, 9)
            qvel = rng.normal(0, 1, 9)
            qvel[0] = rng.uniform(2, 5)
            ours.unwrapped.set_state(qpos, qvel)
            theirs.unwrapped.set_state(qpos, qvel)
        observation, reward, _, _, info = ours.step(action)
        their_observation, their_reward, _, _, their_info = theirs.step(action)
        np.testing.assert_array_equal(observation, their_observation)
        assert (reward, info["cost"]) == (their_reward, their_info["cost"])
        costs.append(info["cost"])
    assert 20 < sum(costs) < 180


def test_the_half_cheetah_runs_a_thousand_steps():
    env = gymnasium.make("SpeedLimitHalfCheetah-v0")
    rows = play(env, np.zeros((1100, 6), np.float32), seed=0)
    assert len(rows) == 1001
    np.testing.assert_array_equal(rows[-1, -2:], [False, True])
    again = gymnasium.make(env.spec)
    assert again.get_wrapper_attr("limit") == 3.2096
    assert isinstance(again, SpeedLimit)
