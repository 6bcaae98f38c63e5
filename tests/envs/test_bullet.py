import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_prefine.envs
from sb3_prefine.envs.bullet import builder
from tests.envs.packages import BULLET, actions, own_registrations, play

TASKS = [info.id for info in sb3_prefine.envs.CATALOGUE if info.package == "bullet-safety-gym"]


def make(env_id, **kwargs):
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


@pytest.mark.parametrize("env_id", BULLET)
def test_an_episode_equals_the_packages_first_one_with_the_seed(env_id):
    ours = make(env_id)
    with np.errstate(over="ignore"):
        theirs = builder.EnvironmentBuilder(**own_registrations("bullet_safety_gym")[env_id].kwargs)
    play(ours, actions(ours, 20), seed=1)
    rows = play(ours, actions(ours, 60), seed=2)
    np.random.seed(2)  # noqa: NPY002
    observation, _ = theirs.reset()
    np.testing.assert_array_equal(rows[0, :-4], observation)
    for row, action in zip(rows[1:], actions(ours, 60), strict=False):
        observation, reward, terminated, truncated, info = theirs.step(action)
        np.testing.assert_array_equal(row, np.append(observation, [reward, info["cost"], terminated, truncated]))
    theirs.close()
    ours.close()


@pytest.fixture(scope="module", params=["BallRun", "CarRun", "DroneRun", "AntCircle"])
def used(request):
    """One environment that all tests use, and an episode of a new one."""
    fresh, env = make(f"Safety{request.param}-v0"), make(f"Safety{request.param}-v0")
    episode = play(fresh, actions(fresh, 25), seed=5)
    fresh.close()
    yield env, episode
    env.close()


@settings(max_examples=12, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1), n_steps=st.one_of(st.integers(0, 4), st.integers(5, 40)))
def test_the_previous_episode_has_no_effect(used, seed, n_steps):
    """Above all short episodes, in which the agent still touches the ground where the next episode starts."""
    env, episode = used
    play(env, actions(env, n_steps, seed % 1000), seed)
    np.testing.assert_array_equal(play(env, actions(env, 25), seed=5), episode)


@pytest.mark.parametrize("robot", ["Ball", "Car", "Drone"])
def test_a_step_costs_one_beyond_the_speed_limit_or_the_border(robot):
    """The limits of Bullet-Safety-Gym: 2.5 m/s for the ball, 1.5 m/s for car and drone; 2 m to each side."""
    limit = 2.5 if robot == "Ball" else 1.5
    env = make(f"Safety{robot}Run-v0")
    agent = env.unwrapped.agent
    costs = []
    for seed in range(30):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        agent.set_position((0, rng.uniform(-4, 4), agent.init_xyz[2]))
        agent.set_velocity(linear_velocity=(rng.uniform(0, 2 * limit), 0, 0))
        cost = env.step(np.zeros(env.action_space.shape))[4]["cost"]
        x_velocity, y_velocity = env.unwrapped.bc.getBaseVelocity(agent.body_id)[0][:2]
        y = env.unwrapped.bc.getBasePositionAndOrientation(agent.body_id)[0][1]
        assert cost == (np.hypot(x_velocity, y_velocity) > limit or abs(y) > 2)
        costs.append(cost)
    assert set(costs) == {0.0, 1.0}
    env.close()


@pytest.mark.parametrize("env_id", [t for t in TASKS if t not in BULLET and "Drone" not in t])
def test_the_other_tasks_work_too(env_id):
    info = next(info for info in sb3_prefine.envs.CATALOGUE if info.id == env_id)
    env = make(env_id)
    rows = play(env, actions(env, 30), seed=0)
    assert rows.shape[1] == info.observation_size + 4
    np.testing.assert_array_equal(play(env, actions(env, 30), seed=0), rows)
    env.close()


def test_a_new_goal_is_drawn_from_the_environments_own_state():
    env = make("SafetyBallPush-v0")
    goals = []
    for global_seed in (1, 2):
        np.random.seed(global_seed)  # noqa: NPY002
        env.reset(seed=0)
        task = env.unwrapped.task
        before = np.random.get_state()  # noqa: NPY002
        # The puck is at the goal: the next step draws another.
        task.puck.set_position(task.goal.get_position())
        old_goal = task.goal.get_position()
        env.step(np.zeros(2))
        assert not np.array_equal(task.goal.get_position(), old_goal)
        goals.append(task.goal.get_position())
        np.testing.assert_equal(np.random.get_state(), before)  # noqa: NPY002
    np.testing.assert_array_equal(*goals)
    env.close()


def test_rendering_shows_the_scene_and_changes_nothing():
    env, blind = make("SafetyBallCircle-v0", render_mode="rgb_array"), make("SafetyBallCircle-v0")
    steps = actions(env, 20)
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((360, 480, 3), np.uint8)
    # The ball in the package's marker of a broken limit would be red.
    assert not is_red(first).any()
    rows = [env.step(action)[0] for action in steps[:10]]
    assert not np.array_equal(env.render(), first)
    rows += [env.step(action)[0] for action in steps[10:]]
    np.testing.assert_array_equal(play(blind, steps, seed=0)[1:, :-4], rows)
    env.unwrapped.agent.set_position((7.0, 0.0, 0.5))
    assert env.step(np.zeros(2))[4]["cost"] == 1.0
    assert is_red(env.render()).any()
    env.reset()
    assert not is_red(env.render()).any()
    env.close()
    blind.close()


def is_red(image):
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > 150) & (green < 50) & (blue < 50)


def test_seed_method_is_not_available():
    env = make("SafetyBallRun-v0").unwrapped
    with pytest.raises(AttributeError, match=r"reset\(seed="):
        env.seed(0)
    env.close()


def test_environments_work_where_stdout_is_not_a_file(capsys):
    """As in a notebook. The environment prints nothing either."""
    env = make("SafetyBallRun-v0")
    env.reset(seed=0)
    env.close()
    assert capsys.readouterr() == ("", "")


def test_bullet_prints_nothing(capfd):
    make("SafetyBallRun-v0").close()
    assert capfd.readouterr() == ("", "")
