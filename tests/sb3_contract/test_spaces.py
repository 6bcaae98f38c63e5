"""Spaces in which PREFINE learns, their precision, and spaces that are refused."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import ConstantSchedule

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect
from sb3_prefine.data.columns import COLUMNS
from tests.families import DictEnv
from tests.sb3_contract.models import vec_env
from tests.worlds import (
    ACTIONS,
    BAD,
    GOOD,
    OBSERVATIONS,
    RandomEnv,
    env_with_actions,
    make_model,
    preferences,
    trajectories,
)

DISCRETE = [spaces.Discrete(4), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)]


class Doubles(RandomEnv):
    """Observations and actions of float64."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float64)
    action_space = spaces.Box(np.array([-2.0, 0.0, -1.0]), np.array([1.0, 3.0, 1.0]), dtype=np.float64)

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(3.0, 2.0, OBSERVATIONS)


class WholeNumbers(RandomEnv):
    """Observations are whole numbers."""

    observation_space = spaces.Discrete(5)

    def _observe(self) -> Any:
        return int(self.np_random.integers(5))


def recorded(model: Any, env: type[RandomEnv]) -> PreferenceBuffer:
    episodes = collect(model, env, 4, seed=0, progress_bar=False)
    return PreferenceBuffer(preferred=episodes[:2], dispreferred=episodes[2:])


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("space", DISCRETE, ids=str)
def test_discrete_actions_are_learnt_with_an_environment(algorithm, space):
    env = env_with_actions(space)
    source = make_model(algorithm, env())
    model = PREFINE(source, recorded(source, env), env=vec_env(2, env), batch_size=8, device="cpu").learn(3)
    assert model.num_timesteps == 3
    observations = model.get_env().reset()
    actions, _ = model.predict(observations)
    assert actions.shape == (2, *space.shape)
    model.get_env().step(actions)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_of_float64_are_learnt_and_saved(algorithm, dtype, tmp_path):
    """The data may have either precision: those of DSRL are float32."""

    def of(action: list[float]) -> Trajectories:
        given = trajectories(action)
        columns = {name: getattr(given, name) for name in COLUMNS}
        wide = {name: columns[name].astype(dtype) for name in ("observations", "next_observations", "actions")}
        wide["actions"] = wide["actions"].clip(Doubles.action_space.low, Doubles.action_space.high)
        return Trajectories(**{**columns, **wide})

    data = PreferenceBuffer(preferred=of(GOOD), dispreferred=of(BAD))
    model = PREFINE(make_model(algorithm, Doubles()), data, env=Doubles(), batch_size=8, seed=0, device="cpu").learn(3)
    observation = Doubles.observation_space.sample()
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == (ACTIONS,)
    assert Doubles.action_space.contains(action.astype(np.float64))
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", env=Doubles(), device="cpu")
    assert (loaded.observation_space, loaded.action_space) == (Doubles.observation_space, Doubles.action_space)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)


def test_discrete_observations_are_learnt_and_saved(tmp_path):
    source = make_model(PPO, WholeNumbers())
    model = PREFINE(source, recorded(source, WholeNumbers), env=WholeNumbers(), batch_size=8, device="cpu").learn(3)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    for observation in range(5):
        expected = model.predict(observation, deterministic=True)[0]
        np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)


def test_dict_observations_are_learnt_with_an_environment(tmp_path):
    source = PPO("MultiInputPolicy", DictEnv(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    model = PREFINE(source, recorded(source, DictEnv), env=vec_env(2, DictEnv), batch_size=8, device="cpu").learn(2)
    observations = model.get_env().reset()
    expected = model.predict(observations, deterministic=True)[0]
    assert expected.shape == (2, ACTIONS)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", env=vec_env(2, DictEnv), device="cpu")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)


def test_data_of_another_space_are_refused():
    source = PPO("MultiInputPolicy", DictEnv(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    with pytest.raises((TypeError, ValueError), match="observation"):
        PREFINE(source, preferences(), device="cpu")
    with pytest.raises((TypeError, ValueError), match="actions"):
        PREFINE(make_model(PPO, env_with_actions(spaces.Discrete(4))()), preferences(), device="cpu")


@pytest.mark.parametrize("bound", [np.inf, -np.inf])
def test_actions_without_bounds_are_refused_as_in_sb3(bound):
    """SB3 checks this for the environment, which is optional here."""
    low, high = (-1.0, bound) if bound > 0 else (bound, 1.0)
    space = spaces.Box(low, high, (ACTIONS,), np.float32)
    policy = ActorCriticPolicy(RandomEnv.observation_space, space, ConstantSchedule(1e-3))
    with pytest.raises(ValueError, match=r"action_space.*finite"):
        PREFINE(policy, device="cpu")


def test_discrete_actions_that_do_not_start_at_zero_are_refused():
    policy = ActorCriticPolicy(RandomEnv.observation_space, spaces.Discrete(3, start=1), ConstantSchedule(1e-3))
    with pytest.raises(TypeError, match="start at 1"):
        PREFINE(policy, device="cpu")
