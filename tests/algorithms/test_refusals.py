"""What no algorithm takes: hyperparameters out of range, data, environments and policies that do not fit."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE
from sb3_prefine.baselines import BC, CPL, CPQ, PPL, SafeDICE
from tests.algorithms.cases import ONE_OF_EACH, each_algorithm
from tests.families import make_cvae, masked_env_with_actions
from tests.worlds import GOOD, RandomEnv, make_model, trajectories

INVALID = [
    pytest.param(case, name, value, id=f"{case.algorithm.__name__}-{name}-{value}")
    for case in ONE_OF_EACH
    for name, values in case.invalid.items()
    for value in values
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[type, Any]:
    """A file of each algorithm."""
    folder = tmp_path_factory.mktemp("saved")
    for case in ONE_OF_EACH:
        case.make().save(folder / case.algorithm.__name__)
    return {case.algorithm: folder / f"{case.algorithm.__name__}.zip" for case in ONE_OF_EACH}


@pytest.mark.parametrize(("case", "name", "value"), INVALID)
def test_a_hyperparameter_out_of_its_range_is_named_and_shown(case, name, value, saved):
    # Of a list, the first number out of range.
    found = next(number for number in value if number != 16) if isinstance(value, list) else value
    error = rf"^{name}: .*{re.escape(repr(found))}"
    with pytest.raises(ValueError, match=error):
        case.make(**{name: value})
    with pytest.raises(ValueError, match=error):
        case.algorithm.load(saved[case.algorithm], device="cpu", **{name: value})


@each_algorithm
def test_learning_without_data_is_refused(case):
    model = case.make()
    setattr(model, case.data_name, None)
    with pytest.raises(ValueError, match=rf"^{case.data_name}: .*{case.algorithm.__name__}"):
        model.learn(1)
    assert model.num_timesteps == 0


DATA = trajectories(GOOD)
FLAT, NESTED = DATA.observations[:, :2], DATA.observations[..., None]
OUTSIDE = np.where(np.arange(40)[:, None] == 3, np.float32(3.5), DATA.actions)
BAD_COLUMNS = {
    "short observations": (r"observations .*\(2,\)", {"observations": FLAT, "next_observations": FLAT}),
    "nested observations": (r"observations .*\(5, 1\)", {"observations": NESTED, "next_observations": NESTED}),
    "short actions": (r"actions .*\(2,\)", {"actions": DATA.actions[:, :2]}),
    "actions out of bounds": (r"actions: .*3\.5", {"actions": OUTSIDE}),
}


@each_algorithm
@pytest.mark.parametrize(("error", "columns"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_data_of_other_spaces_are_refused_before_any_step(case, error, columns):
    bad = dataclasses.replace(DATA, **columns)
    data = case.make_data(bad, bad)
    name = "trajectories" if case.data_name == "trajectories" else "preferred"
    with pytest.raises(ValueError, match=rf"^{name}: {error}"):
        case.make(make_model(SAC), **data)
    model = case.make(make_model(SAC))
    setattr(model, case.data_name, data[case.data_name])
    with pytest.raises(ValueError, match=rf"^{name}: {error}"):
        model.learn(1)
    assert model.num_timesteps == 0


@each_algorithm
def test_an_environment_that_does_not_fit_is_refused(case):
    with pytest.raises(ValueError, match=r"^env: .*observation_space"):
        case.make(make_model(SAC), env="Pendulum-v1")
    with pytest.raises(ValueError, match=r"^env: .*VecNormalize"):
        case.make(env=VecNormalize(DummyVecEnv([RandomEnv])))


POLICIES = {
    "int": lambda: 3,
    "TD3Policy": lambda: make_model(TD3, buffer_size=1),
    "RecurrentActorCriticPolicy": lambda: RecurrentPPO("MlpLstmPolicy", RandomEnv(), device="cpu"),
    "MaskableActorCriticPolicy": lambda: make_model(MaskablePPO, masked_env_with_actions(spaces.Discrete(4))()),
    "CVAEPolicy": make_cvae,
    "ActorCriticPolicy": lambda: make_model(PPO),
}
UNTRAINABLE = {
    PREFINE: ("int", "TD3Policy"),
    BC: ("int", "TD3Policy", "RecurrentActorCriticPolicy", "MaskableActorCriticPolicy"),
    PPL: ("int", "TD3Policy", "RecurrentActorCriticPolicy"),
    CPL: ("int", "RecurrentActorCriticPolicy"),
    SafeDICE: ("int", "TD3Policy", "RecurrentActorCriticPolicy", "MaskableActorCriticPolicy", "CVAEPolicy"),
    CPQ: ("int", "TD3Policy", "RecurrentActorCriticPolicy", "CVAEPolicy", "ActorCriticPolicy"),
}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{case.algorithm.__name__}-{name}")
        for case in ONE_OF_EACH
        for name in UNTRAINABLE[case.algorithm]
    ],
)
def test_a_policy_that_the_algorithm_cannot_train_is_refused(case, name):
    with pytest.raises(TypeError, match=rf"^policy: .*{name}"):
        case.make(POLICIES[name](), **{case.data_name: None})
