import copy
import ctypes.util
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from tests.envs.packages import NAVIGATION, actions, own_registrations, play

needs_egl = pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="MuJoCo draws with libEGL")


@pytest.mark.parametrize("env_id", [*NAVIGATION, "SafetyDoggoButton1-v0"])
def test_steps_equal_the_packages_except_for_the_place_of_the_cost(env_id):
    """The package's own builder also draws the sky, so removing the sky changes nothing."""
    from safety_gymnasium.builder import Builder

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="overflow encountered in cast")
        theirs = Builder(**own_registrations("safety_gymnasium")[env_id].kwargs)
    ours = gymnasium.make(env_id)
    rows = play(ours, actions(ours, 40), seed=2)
    observation, _ = theirs.reset(seed=2)
    np.testing.assert_array_equal(rows[0, :-4], observation)
    for row, action in zip(rows[1:], actions(ours, 40), strict=True):
        observation, reward, cost, terminated, truncated, _ = theirs.step(action)
        np.testing.assert_array_equal(row, np.append(observation, [reward, cost, terminated, truncated]))


def test_a_hazard_costs_one_a_step():
    env = gymnasium.make("SafetyPointGoal1-v0").unwrapped
    env.reset(seed=0)
    hazards = env.task.hazards
    costs, inside = [], []
    for hazard in hazards.pos:
        for offset in (0.0, 0.5 * hazards.size, 1.5 * hazards.size):
            env.task.data.qpos[:2] = hazard[:2] + np.array([offset, 0.0])
            env.task.data.qvel[:] = 0
            info = env.step(np.zeros(2))[4]
            distances = np.linalg.norm(hazards.pos - env.task.agent.pos, axis=1)
            inside.append(bool((distances <= hazards.size).any()))
            costs.append(info["cost"])
    assert costs == [float(i) for i in inside]
    assert set(costs) == {0.0, 1.0}


def test_a_mujoco_failure_truncates_the_episode_with_a_cost(monkeypatch):
    from safety_gymnasium.utils.common_utils import MujocoException

    env = gymnasium.make("SafetyPointGoal1-v0")
    env.reset(seed=0)
    before = env.step(np.ones(2))[0]

    def give_up(*_):
        raise MujocoException("NaN in QACC")

    with monkeypatch.context() as patch:
        patch.setattr(mujoco, "mj_step", give_up)
        observation, reward, terminated, truncated, info = env.step(np.ones(2))
    np.testing.assert_array_equal(observation, before)
    assert (reward, terminated, truncated, info["cost"]) == (-10.0, False, True, 1.0)
    assert len(play(env, actions(env, 5), seed=0)) == 6


def test_a_longer_horizon_than_the_packages_works():
    env = gymnasium.make("SafetyPointRun0-v0", max_episode_steps=520)
    assert len(play(env, np.zeros((600, 2)), seed=0)) == 521


def test_an_action_may_be_a_list():
    env = gymnasium.make("SafetyPointGoal1-v0", disable_env_checker=True)
    env.reset(seed=0)
    from_list = env.step([0.5, 0.5])[0]
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.array([0.5, 0.5]))[0], from_list)


def test_a_copied_environment_works():
    env = gymnasium.make("SafetyPointGoal1-v0", width=32, height=24).unwrapped
    observation, _ = env.reset(seed=3)
    other = copy.deepcopy(env)
    np.testing.assert_array_equal(other.reset(seed=3)[0], observation)
    assert (other.render_parameters.width, other.render_parameters.height) == (32, 24)


@needs_egl
def test_rendering_shows_the_scene_and_changes_nothing(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = gymnasium.make("SafetyPointGoal1-v0", render_mode="rgb_array", width=64, height=48)
    steps = actions(env, 20)
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((48, 64, 3), np.uint8)
    assert first.std() > 10
    rows = []
    for action in steps:
        rows.append(env.step(action)[0])
        if len(rows) % 10 == 0:
            assert not np.array_equal(env.render(), first)
    env.reset(seed=1)
    assert not np.array_equal(env.render(), first)
    env.close()
    blind = gymnasium.make("SafetyPointGoal1-v0")
    np.testing.assert_array_equal(play(blind, steps, seed=0)[1:, :-4], rows)


@needs_egl
def test_the_velocity_tasks_have_images_too(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = gymnasium.make("SafetyAntVelocity-v1", render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    first = env.render()
    env.step(env.action_space.sample())
    second = env.render()
    assert (second.shape, second.dtype) == ((48, 64, 3), np.uint8)
    assert second.std() > 10
    assert not np.array_equal(first, second)
    env.close()
