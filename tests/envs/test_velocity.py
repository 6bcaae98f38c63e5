import copy
import pickle

import gymnasium
import numpy as np
import pytest

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from sb3_prefine.envs import velocity
from tests.envs.packages import VELOCITY, actions, own_registrations, play

# Of the paper and the tasks of Safety-Gymnasium, in m/s.
LIMITS = {"Ant": 2.6222, "HalfCheetah": 3.2096, "Hopper": 0.7402, "Swimmer": 0.2282, "Walker2d": 2.3415}


@pytest.mark.parametrize("robot", LIMITS)
def test_a_step_costs_one_when_the_displacement_is_faster_than_the_limit(robot):
    env = gymnasium.make(f"Safety{robot}Velocity-v1").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    costs = []
    for action in actions(env, 60):
        start = env.init_qvel.copy()
        start[0] = rng.uniform(0, 2 * LIMITS[robot])
        env.set_state(env.init_qpos, start)
        before = torso(env, robot)
        cost = env.step(action)[4]["cost"]
        displacement = torso(env, robot) - before
        # Along x, but for the Ant in the plane.
        distance = np.linalg.norm(displacement) if robot == "Ant" else displacement[0]
        assert cost == (distance / (env.model.opt.timestep * env.frame_skip) > LIMITS[robot])
        costs.append(cost)
    assert {0.0, 1.0} == set(costs)


def torso(env, robot):
    return env.data.body("torso").xpos[:2].copy() if robot == "Ant" else env.data.qpos[:2].copy()


@pytest.mark.parametrize("env_id", VELOCITY)
def test_steps_equal_the_packages_except_for_the_place_of_the_cost(env_id):
    spec = own_registrations("safety_gymnasium")[env_id]
    theirs = gymnasium.envs.registration.load_env_creator(spec.entry_point)()
    ours = gymnasium.make(env_id)
    rows = play(ours, actions(ours, 50), seed=2)
    observation, _ = theirs.reset(seed=2)
    np.testing.assert_array_equal(rows[0, :-4], observation)
    for row, action in zip(rows[1:], actions(ours, 50), strict=False):
        observation, reward, cost, terminated, truncated, _ = theirs.step(action)
        np.testing.assert_array_equal(row, np.append(observation, [reward, cost, terminated, truncated]))


def test_arguments_reach_the_robot():
    env = gymnasium.make("SafetyHopperVelocity-v1", terminate_when_unhealthy=False, max_episode_steps=70)
    assert len(play(env, actions(env, 100), seed=0)) == 71


def test_a_copied_and_a_pickled_environment_work():
    env = gymnasium.make("SafetySwimmerVelocity-v1", reset_noise_scale=0.5).unwrapped
    observation, _ = env.reset(seed=3)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        np.testing.assert_array_equal(other.reset(seed=3)[0], observation)


def test_an_unknown_robot_is_an_attribute_error():
    assert hasattr(velocity, "SafetyHumanoidVelocityV0")
    assert not hasattr(velocity, "SafetyHorseVelocityV0")
    assert not hasattr(velocity, "SafetyHumanoidVelocityV2")
