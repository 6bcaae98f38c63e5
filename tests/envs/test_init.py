"""Properties of every environment, and of importing them."""

import importlib
import subprocess
import sys
import textwrap
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import sb3_prefine.envs
from tests.envs.packages import PAPER, actions, own_registrations, play


@pytest.fixture(scope="module", params=PAPER)
def env(request):
    env = gymnasium.make(request.param, disable_env_checker=True)
    yield env
    env.close()


def make(env_id, **kwargs):
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def test_spaces_match_the_paper(env):
    # Table of tasks of DSRL (Liu et al. 2024): observation size, action size, horizon.
    sizes = {
        "SafetyAntVelocity-v1": (27, 8, 1000),
        "SafetyHalfCheetahVelocity-v1": (17, 6, 1000),
        "SafetyHopperVelocity-v1": (11, 3, 1000),
        "SafetySwimmerVelocity-v1": (8, 2, 1000),
        "SafetyWalker2dVelocity-v1": (17, 6, 1000),
        "SafetyPointGoal1-v0": (60, 2, 1000),
        "SafetyCarGoal1-v0": (72, 2, 1000),
        "SafetyBallRun-v0": (7, 2, 100),
        "SafetyBallCircle-v0": (8, 2, 200),
        "SafetyCarRun-v0": (7, 2, 200),
        "SafetyCarCircle-v0": (8, 2, 300),
        "SafetyDroneRun-v0": (17, 4, 200),
    }
    observation_size, action_size, horizon = sizes[env.spec.id]
    assert env.observation_space.shape == (observation_size,)
    assert env.observation_space.dtype == np.float64
    assert env.action_space.shape == (action_size,)
    np.testing.assert_array_equal(env.action_space.low, -1)
    np.testing.assert_array_equal(env.action_space.high, 1)
    assert env.spec.max_episode_steps == horizon


def test_an_environment_can_be_made_again_from_its_spec(env):
    again = gymnasium.make(env.spec)
    assert type(again.unwrapped) is type(env.unwrapped)
    np.testing.assert_array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
    again.close()


def test_a_step_has_five_values_and_a_cost(env):
    env.reset(seed=0)
    for action in actions(env, 20):
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation.dtype == np.float64
        assert [type(value) for value in (reward, terminated, truncated, info["cost"])] == [float, bool, bool, float]
        assert info["cost"] in (0.0, 1.0)
        if terminated:
            break


def test_an_episode_is_truncated_exactly_at_the_horizon(env):
    # Without actions none of the robots that can die would live to the horizon.
    immortal = {"terminate_when_unhealthy": False} if any(r in env.spec.id for r in ("Ant", "Hopper", "Walker")) else {}
    env = make(env.spec.id, **immortal)
    rest = np.zeros((env.spec.max_episode_steps + 5, *env.action_space.shape), env.action_space.dtype)
    rows = play(env, rest, seed=0)
    assert len(rows) == 1 + env.spec.max_episode_steps
    np.testing.assert_array_equal(rows[-1, -2:], [False, True])
    assert not rows[:-1, -2:].any()
    env.close()


def test_a_seed_gives_the_same_episode_to_the_last_bit(env):
    steps = actions(env, 40)
    first = play(env, steps, seed=3)
    assert not np.array_equal(play(env, steps, seed=4)[0], first[0])
    np.testing.assert_array_equal(play(env, steps, seed=3), first)


def test_new_and_used_environments_give_the_same_episode(env):
    steps = actions(env, 40, seed=1)
    for seed in range(3):
        play(env, actions(env, 60, seed), seed)
    fresh = make(env.spec.id)
    np.testing.assert_array_equal(play(env, steps, seed=11), play(fresh, steps, seed=11))
    fresh.close()


def test_without_a_seed_the_random_stream_continues(env):
    first, second = env.reset(seed=7)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    env.reset(seed=7)
    np.testing.assert_array_equal(env.reset()[0], second)


def test_numpys_global_random_state_is_neither_used_nor_changed(env):
    steps = actions(env, 10)
    episodes = []
    for global_seed in (1, 2):
        np.random.seed(global_seed)  # noqa: NPY002
        # A cached second normal number is part of the state.
        np.random.standard_normal()  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        episodes.append(play(env, steps, seed=5))
        np.testing.assert_equal(np.random.get_state(), before)  # noqa: NPY002
    np.testing.assert_array_equal(*episodes)


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyBallCircle-v0"])
def test_making_an_environment_keeps_numpys_global_state(env_id):
    before = np.random.get_state()  # noqa: NPY002
    make(env_id).close()
    np.testing.assert_equal(np.random.get_state(), before)  # noqa: NPY002


def test_two_environments_do_not_touch_each_other(env):
    other, steps = make(env.spec.id), actions(env, 15)
    alone = play(env, steps, seed=0)
    rows, _ = [env.reset(seed=0)[0]], other.reset(seed=1)
    for action in steps:
        rows.append(env.step(action)[0])
        other.step(-action)
        if len(rows) == 8:
            other.reset()
        if len(rows) == len(alone):
            break
    np.testing.assert_array_equal(np.array(rows), alone[:, :-4])
    other.close()


def test_the_checkers_of_gymnasium_and_sb3_pass(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What they recommend and these environments do not have: finite and small bounds, float32.
        warnings.filterwarnings("ignore", message=".*(infinity|unbounded|box bound|precision|float32).*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        check_env(env.unwrapped, skip_render_check=True)
        check_env_for_sb3(env.unwrapped)


@pytest.mark.parametrize("package", ["safety_gymnasium", "bullet_safety_gym"])
def test_horizons_match_the_packages(package):
    theirs = own_registrations(package)
    ours = [info for info in sb3_prefine.envs.CATALOGUE if info.package == package.replace("_", "-")]
    assert len(ours) == {"safety_gymnasium": 107, "bullet_safety_gym": 14}[package]
    assert {i.id: i.max_episode_steps for i in ours} == {i.id: theirs[i.id].max_episode_steps for i in ours}


def test_the_two_packages_have_no_id_in_common():
    ids = {
        p: {i for i in own_registrations(p) if i.startswith("Safety")}
        for p in ("safety_gymnasium", "bullet_safety_gym")
    }
    assert not ids["safety_gymnasium"] & ids["bullet_safety_gym"]
    assert len(set(sb3_prefine.envs.env_ids())) == len(sb3_prefine.envs.CATALOGUE)


@pytest.mark.parametrize("robot", ["Point", "Car", "Racecar", "Doggo", "Ant"])
def test_catalogue_sizes_match_the_environments(robot):
    """One level of every kind of task, which covers each agent and each number of lidars."""
    level = {"Point": "Goal0", "Car": "Button1", "Racecar": "Push0", "Doggo": "Circle2", "Ant": "Run0"}[robot]
    info = next(i for i in sb3_prefine.envs.CATALOGUE if i.id == f"Safety{robot}{level}-v0")
    env = make(info.id)
    assert (info.observation_size,) == env.observation_space.shape == env.reset(seed=0)[0].shape
    assert (info.action_size,) == env.action_space.shape == env.action_space.sample().shape
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
@pytest.mark.parametrize("package", ["safety_gymnasium", "bullet_safety_gym"])
def test_a_later_import_does_not_replace_an_id(package):
    importlib.reload(importlib.import_module(package))
    for info in sb3_prefine.envs.CATALOGUE:
        assert gymnasium.spec(info.id).entry_point == info.entry_point


def test_an_earlier_import_does_not_keep_an_id():
    for package in ("safety_gymnasium", "bullet_safety_gym"):
        gymnasium.registry.update(own_registrations(package))
    assert gymnasium.spec("SafetyBallRun-v0").entry_point.startswith("bullet_safety_gym")
    assert gymnasium.spec("SafetyPointGoal1-v0").entry_point.startswith("safety_gymnasium")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(sb3_prefine.envs)
    for info in sb3_prefine.envs.CATALOGUE:
        assert gymnasium.spec(info.id).entry_point == info.entry_point


def test_importing_envs_imports_no_package_in_any_order():
    """In a new process: the import loads no package, and everything works after the packages are imported by hand."""
    run(
        """
        import dataclasses, sys
        import gymnasium, sb3_prefine.envs

        simulators = {"mujoco", "safety_gymnasium", "pybullet", "bullet_safety_gym"}
        assert not simulators & set(sys.modules), simulators & set(sys.modules)

        dataclass, wrappers = dataclasses.dataclass, set(dir(gymnasium.wrappers))
        import safety_gymnasium, bullet_safety_gym

        assert dataclasses.dataclass is dataclass
        assert set(dir(gymnasium.wrappers)) == wrappers
        assert not [m for m in sys.modules if m.startswith("gymnasium_robotics")]
        for old in ("autoreset", "compatibility", "env_checker", "normalize", "time_limit"):
            assert f"gymnasium.wrappers.{old}" not in sys.modules

        for env_id in ("SafetyHopperVelocity-v1", "SafetyPointGoal1-v0", "SafetyBallRun-v0"):
            env = gymnasium.make(env_id)
            env.reset(seed=0)
            assert "cost" in env.step(env.action_space.sample())[4]
        """
    )


def test_a_missing_package_is_named_with_advice():
    """In a new process in which none of the packages can be imported, and then all but one."""
    run(
        """
        import importlib.metadata, sys
        import gymnasium

        simulators = ("mujoco", "safety_gymnasium", "pybullet", "bullet_safety_gym")
        sys.modules.update(dict.fromkeys(simulators))
        import sb3_prefine.envs

        def message(env_id):
            try:
                gymnasium.make(env_id)
            except ImportError as error:
                return str(error)

        def expect(env_id, *texts):
            assert all(text in message(env_id) for text in texts), message(env_id)

        navigation, velocity, bullet = "SafetyPointGoal1-v0", "SafetyHopperVelocity-v1", "SafetyBallRun-v0"
        expect(bullet, "pybullet", 'pip install "sb3-prefine[bullet]"')
        expect(navigation, "mujoco", 'pip install "sb3-prefine[safety]"')
        expect(velocity, "mujoco", 'pip install "sb3-prefine[safety]"')

        del sys.modules["pybullet"], sys.modules["mujoco"], sys.modules["safety_gymnasium"]
        sys.modules["xmltodict"] = None
        expect(navigation, "xmltodict", 'pip install "sb3-prefine[safety]"')
        sys.modules["safety_gymnasium"] = None
        expect(bullet, "bullet-safety-gym", "sb3-prefine envs --install")
        expect(navigation, "safety-gymnasium", "sb3-prefine envs --install")
        expect(velocity, "safety-gymnasium", "sb3-prefine envs --install")

        version = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.4.0" if name == "safety-gymnasium" else version(name)
        expect(navigation, "0.4.0", "safety-gymnasium 1.0.0", "sb3-prefine envs --install")
        """
    )


def run(code):
    command = [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
