"""Costs of single steps from restored states, compared with episodes of the real simulators."""

from functools import cache

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation

from benchmarks.datasets.behaviors import Behaviors
from benchmarks.datasets.generate import WEIGHTS
from sb3_prefine import Trajectories, collect
from sb3_prefine.envs.speed_limit import SpeedLimit
from sb3_prefine.evaluation.one_step_cost import one_step_costs

ROBOTS = ("Ant", "HalfCheetah", "Hopper", "Swimmer", "Walker2d")
CLIPPED = ("Hopper", "Walker2d")


def make(robot):
    return gymnasium.make(f"Safety{robot}Velocity-v1", disable_env_checker=True)


@cache
def episodes(robot):
    """Episodes of two walking agents: a fast one, and one near the limit."""
    agents = Behaviors.load(WEIGHTS / f"{robot}Velocity.npz")
    return Trajectories.concatenate(
        [collect(agents[i], f"Safety{robot}Velocity-v1", 1, seed=i, progress_bar=False) for i in (0, len(agents) // 2)]
    )


@pytest.mark.parametrize("robot", ROBOTS)
def test_recorded_actions_have_the_recorded_cost(robot):
    data = episodes(robot)
    assert 0.01 < data.costs.mean() < 0.99
    differs = one_step_costs(make(robot))(data.observations, data.actions) != data.costs
    if robot in CLIPPED:
        is_clipped = (np.abs(data.observations) >= 10).any(axis=1)
        assert is_clipped.any()
        assert differs[is_clipped].mean() < 0.05
        differs &= ~is_clipped
    assert not differs.any()


def test_the_cost_depends_on_the_speed_after_the_action():
    """The same robot twice, just below the limit: one action speeds it up, the other slows it down."""
    env = make("HalfCheetah").unwrapped
    data = episodes("HalfCheetah")
    observations, rng = data.observations, np.random.default_rng(0)
    one, other = (rng.uniform(-1, 1, data.actions.shape).astype(np.float32) for _ in range(2))
    costs = one_step_costs(make("HalfCheetah"))
    rows = np.flatnonzero(costs(observations, one) != costs(observations, other))
    assert len(rows) > 10
    for row in rows[:20]:
        speeds = []
        for action in (one[row], other[row]):
            env.reset(seed=0)
            env.set_state(np.append(7.0, observations[row, :8]), observations[row, 8:])
            speeds.append(env.step(action)[4]["x_velocity"])
        limit = 3.2096
        assert costs(observations[[row]], one[[row]])[0] == (speeds[0] > limit)
        assert costs(observations[[row]], other[[row]])[0] == (speeds[1] > limit)


def test_a_cost_does_not_depend_on_the_rows_before():
    data = episodes("Walker2d")
    costs, again = one_step_costs(make("Walker2d")), one_step_costs(make("Walker2d"))
    order = np.random.default_rng(0).permutation(400)
    forwards = costs(data.observations[:400], data.actions[:400])
    shuffled = again(data.observations[order], data.actions[order])
    assert 0 < forwards.mean() < 1
    np.testing.assert_array_equal(forwards[order], shuffled)


def test_a_cost_added_by_a_wrapper_is_used():
    env = SpeedLimit(gymnasium.make("HalfCheetah-v5", disable_env_checker=True), 3.2096)
    data = episodes("HalfCheetah")[0]
    np.testing.assert_array_equal(one_step_costs(env)(data.observations, data.actions), data.costs)


# What is refused


def test_an_environment_without_mujoco_state_is_refused():
    with pytest.raises(ValueError, match=r"^env: PendulumEnv "):
        one_step_costs(gymnasium.make("Pendulum-v1"))


def test_observations_that_are_not_the_state_are_refused():
    with pytest.raises(ValueError, match=r"^env: .*HumanoidEnv.*\(348,\)"):
        one_step_costs(SpeedLimit(gymnasium.make("Humanoid-v5"), 1.0))
    env = make("HalfCheetah")
    doubled = TransformObservation(env, lambda observation: 2 * observation, env.observation_space)
    with pytest.raises(ValueError, match=r"^env: .*\(17,\).*9 positions"):
        one_step_costs(doubled)


def test_an_environment_without_a_cost_is_refused():
    with pytest.raises(ValueError, match=r'^env: .*info\["cost"\]'):
        one_step_costs(gymnasium.make("HalfCheetah-v5"))
