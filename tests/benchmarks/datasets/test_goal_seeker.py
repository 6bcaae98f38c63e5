"""The scripted controller of the Goal tasks, compared with the simulator."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from benchmarks.datasets.goal_seeker import HAZARD_RADIUS, LIDAR_RANGE, N_BINS, SENSORS, GoalSeeker, locate
from sb3_prefine import evaluate_policy

ROBOTS = ("Point", "Car")


def make(robot: str, steps: int = 1000) -> gym.Env:
    return gym.make(f"Safety{robot}Goal1-v0", max_episode_steps=steps)


def lidar_of(angle: float, distance: float) -> np.ndarray:
    """Compute a pseudo lidar's readings of one object, as Safety-Gymnasium's documentation defines them."""
    size = 2 * np.pi / N_BINS
    position = (angle % (2 * np.pi)) / size
    here = int(position) % N_BINS
    reading = np.zeros(N_BINS)
    value = 1 - distance / LIDAR_RANGE
    reading[here] = value
    reading[(here + 1) % N_BINS] = (position - int(position)) * value
    reading[here - 1] = (1 - (position - int(position))) * value
    return reading


@given(angle=st.floats(-np.pi, np.pi, exclude_max=True), distance=st.floats(0.0, 2.9))
def test_object_is_located_from_the_bins_that_share_it(angle, distance):
    angles, distances = locate(np.stack([lidar_of(angle, distance), lidar_of(0.5, 1.0)]))
    assert abs((angles[0] - angle + np.pi) % (2 * np.pi) - np.pi) < 1e-6
    assert distances[0] == pytest.approx(distance)
    assert (angles[1], distances[1]) == pytest.approx((0.5, 1.0))


def test_object_out_of_range_is_located_ahead_at_full_range():
    assert np.array(locate(np.zeros((1, N_BINS)))).ravel() == pytest.approx([0.0, LIDAR_RANGE])


@pytest.mark.parametrize("robot", ROBOTS)
def test_goal_is_located_where_the_simulator_has_it(robot):
    """Positions are compared in the robot's frame."""
    env = make(robot)
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    seen = 0
    for seed in range(12):
        observation, _ = env.reset(seed=seed)
        start = SENSORS[robot].lidars
        angle, distance = (values[0] for values in locate(observation[None, start : start + N_BINS]))
        # Safety-Gymnasium ignores the goal's height, but not the robot's.
        difference = np.array([*task.goal.pos[:2], 0.0]) - task.agent.pos
        expected = (task.agent.mat.T @ difference)[:2]
        if np.linalg.norm(expected) < LIDAR_RANGE:
            np.testing.assert_allclose(distance * np.array([np.cos(angle), np.sin(angle)]), expected, atol=1e-9)
            seen += 1
    assert seen > 5
    env.close()


@pytest.mark.parametrize("robot", ROBOTS)
def test_sensor_indices_match_the_simulator(robot):
    env = make(robot)
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(np.array([1.0, 0.5], np.float32))
    sensors = SENSORS[robot]
    velocity = observation[sensors.velocimeter : sensors.velocimeter + 2]
    np.testing.assert_array_equal(velocity, task.agent.get_sensor("velocimeter")[:2])
    assert np.abs(velocity).max() > 0.01
    hazards = observation[sensors.lidars + N_BINS : sensors.lidars + 2 * N_BINS]
    nearest = min(np.linalg.norm(hazard[:2] - task.agent.pos[:2]) for hazard in task.hazards.pos)
    assert LIDAR_RANGE * (1 - hazards.max()) == pytest.approx(nearest, abs=0.01)
    assert task.hazards.size == HAZARD_RADIUS
    assert (task.lidar_conf.num_bins, task.lidar_conf.max_dist) == (N_BINS, LIDAR_RANGE)
    env.close()


@pytest.mark.parametrize("robot", ROBOTS)
def test_agent_reaches_goals_and_caution_lowers_cost(robot):
    careless, careful = (
        evaluate_policy(GoalSeeker(robot, 1.3, margin, caution, 0.05), lambda: make(robot, 200), 4, n_envs=4)
        for margin, caution in ((0.0, 0.0), (0.2, 3.0))
    )
    # The reward is the progress to the goal in metres, and 1 for each reached goal.
    assert careless.mean_reward > 3
    assert careful.mean_reward > 2
    assert careful.mean_cost < 0.5 * careless.mean_cost


def with_hazard(robot: str, angle: float, distance: float) -> np.ndarray:
    """Make an observation of a goal 2 m ahead and of one hazard."""
    observation = np.zeros((1, SENSORS[robot].lidars + 3 * N_BINS))
    start = SENSORS[robot].lidars
    observation[0, start : start + N_BINS] = lidar_of(0.0, 2.0)
    observation[0, start + N_BINS : start + 2 * N_BINS] = lidar_of(angle, distance)
    return observation


def test_agent_turns_away_only_from_hazards_in_its_way():
    careful, careless = GoalSeeker("Point", 1.0, 0.1, 3.0, 0.0), GoalSeeker("Point", 1.0, 0.1, 0.0, 0.0)

    def turn(seeker: GoalSeeker, angle: float, distance: float) -> float:
        return float(seeker.predict(with_hazard("Point", angle, distance), deterministic=True)[0][0, 1])

    assert turn(careful, 0.2, 0.6) < -0.2  # the hazard is on the left
    assert turn(careful, -0.2, 0.6) > 0.2
    assert turn(careless, 0.2, 0.6) == pytest.approx(0.0, abs=1e-6)
    for angle, distance in ((0.2, 2.4), (np.pi, 0.6), (np.pi / 2, 0.6)):  # far, behind, beside
        assert turn(careful, angle, distance) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("robot", ROBOTS)
def test_actions_are_bounded_and_noise_follows_numpy_seed(robot):
    observation = np.repeat(with_hazard(robot, 0.2, 0.6), 500, axis=0)
    seeker = GoalSeeker(robot, 1.0, 0.1, 1.0, 0.2)
    draws = []
    for seed in (0, 0, 1):
        np.random.seed(seed)  # noqa: NPY002
        draws.append(seeker.predict(observation)[0])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert np.abs(draws[0]).max() <= 1
    assert draws[0].dtype == np.float32
    quiet = seeker.predict(observation, deterministic=True)[0]
    assert (quiet == quiet[0]).all()
