"""Which environments a model accepts, although training does not use them."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.reference.zoo_folder import env_wrapper
from sb3_prefine.training.env_checks import check_actions, check_env, make_env, refuse_normalized
from tests.worlds import ACTIONS, OBSERVATIONS, RandomEnv, make_model

FOUR = spaces.Discrete(4)


def test_env_id_gets_the_wrappers_of_the_reference():
    reference = load_reference(PPO("MlpPolicy", TimeFeatureWrapper(gym.make("Pendulum-v1")), device="cpu"))
    path = f"{TimeFeatureWrapper.__module__}.{TimeFeatureWrapper.__name__}"
    wrapped = replace(reference, env_wrappers=(env_wrapper(path, {}, "test", False),))
    made: Any = make_env("Pendulum-v1", wrapped)
    assert made.observation_space.shape == (4,)
    assert PREFINE(wrapped, env="Pendulum-v1", device="cpu").get_env().reset().shape == (1, 4)
    with pytest.raises(ValueError, match=r"^env: its observation_space .*\(3,\).*\(4,\)"):
        PREFINE(reference, env="Pendulum-v1", device="cpu")


def test_given_env_is_not_wrapped():
    reference = load_reference(make_model(PPO))
    env = RandomEnv()
    assert make_env(env, reference) is env
    assert make_env(None, reference) is None
    with pytest.raises(ValueError, match=r"^env: .*VecNormalize"):
        make_env(VecNormalize(DummyVecEnv([RandomEnv])), reference)
    refuse_normalized(DummyVecEnv([RandomEnv]))


def like(observation_space: spaces.Space, action_space: spaces.Space) -> DummyVecEnv:
    class Like(RandomEnv):
        pass

    Like.observation_space, Like.action_space = observation_space, action_space
    return DummyVecEnv([Like])


def test_bounds_and_dtype_of_a_box_may_differ():
    own = RandomEnv.observation_space, RandomEnv.action_space
    check_env(like(*own), *own)
    wide = spaces.Box(-10, 10, (OBSERVATIONS,), np.float64), spaces.Box(-1, 1, (ACTIONS,), np.float64)
    check_env(like(*wide), *own)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("observation_space", spaces.Box(-1, 1, (OBSERVATIONS + 1,))),
        ("observation_space", spaces.Discrete(OBSERVATIONS)),
        ("observation_space", spaces.Dict({"a": RandomEnv.observation_space})),
        ("action_space", spaces.Box(-1, 1, (ACTIONS, 1))),
        ("action_space", spaces.MultiBinary(ACTIONS)),
    ],
)
def test_space_of_another_kind_or_shape_is_refused(name, found):
    own = {"observation_space": RandomEnv.observation_space, "action_space": RandomEnv.action_space}
    with pytest.raises(ValueError, match=f"^env: its {name} .*Box"):
        check_env(like(**{**own, name: found}), **own)


@pytest.mark.parametrize("other", [spaces.Discrete(5), spaces.Discrete(4, start=1), spaces.MultiDiscrete([4])])
def test_discrete_spaces_have_to_be_equal(other):
    check_env(like(RandomEnv.observation_space, FOUR), RandomEnv.observation_space, spaces.Discrete(4))
    with pytest.raises(ValueError, match=r"^env: its action_space .*Discrete\(4\)"):
        check_env(like(RandomEnv.observation_space, other), RandomEnv.observation_space, FOUR)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1.0), (-1.0, np.inf), (-np.inf, np.inf)])
def test_actions_without_bounds_are_refused(low, high):
    with pytest.raises(ValueError, match=r"^policy: its action_space Box"):
        check_actions(spaces.Box(np.array([low, -1.0]), np.array([1.0, high]), dtype=np.float64))
    check_actions(spaces.Box(-1e6, 1e6, (2,)))
    check_actions(FOUR)
