"""Predict with action masks and with hidden states. tests/sb3_contract tests what SB3 promises."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO

from sb3_prefine import PREFINE
from tests.families import masked_env_with_actions
from tests.worlds import STATES, RandomEnv, env_with_actions, make_model

FOUR = spaces.Discrete(4)


@pytest.mark.parametrize(
    ("space", "sizes"),
    [(FOUR, [4]), (spaces.MultiDiscrete([3, 2]), [3, 2]), (spaces.MultiBinary(2), [2, 2])],
    ids=["Discrete", "MultiDiscrete", "MultiBinary"],
)
def test_masked_policy_takes_only_allowed_actions(space, sizes):
    source = make_model(MaskablePPO, masked_env_with_actions(space)())
    model = PREFINE(source, device="cpu")
    assert model.takes_action_masks
    # One option of each choice: the last option of the first choice, the first option of the others.
    only = np.concatenate([np.arange(size) == (size - 1 if i == 0 else 0) for i, size in enumerate(sizes)])
    expected = np.array([sizes[0] - 1, *[0] * (len(sizes) - 1)]).reshape(space.shape)
    for deterministic in (False, True):
        actions, _ = model.predict(STATES, deterministic=deterministic, action_masks=np.tile(only, (len(STATES), 1)))
        assert (actions == expected).all()
        np.testing.assert_array_equal(model.predict(STATES[0], action_masks=only)[0], expected)
    # Without masks all actions are allowed, as in SB3.
    np.testing.assert_array_equal(
        model.predict(STATES, deterministic=True)[0], source.predict(STATES, deterministic=True)[0]
    )


@pytest.mark.parametrize("masks", [np.ones(3), np.ones((50, 5)), np.ones((50, 4, 1)), True])
def test_masks_with_another_number_of_options_are_refused(masks):
    model = PREFINE(make_model(MaskablePPO, masked_env_with_actions(FOUR)()), device="cpu")
    with pytest.raises(ValueError, match=r"^action_masks: .*\(.*\).* 4 "):
        model.predict(STATES, action_masks=masks)


@pytest.mark.parametrize("env", [RandomEnv, env_with_actions(FOUR)])
def test_policy_without_masks_refuses_them(env):
    model = PREFINE(make_model(PPO, env()), device="cpu")
    assert not model.takes_action_masks
    with pytest.raises(ValueError, match=r"^action_masks: ActorCriticPolicy"):
        model.predict(STATES, action_masks=np.ones((50, 4)))


def test_recurrent_policy_keeps_its_state_until_an_episode_starts():
    source = RecurrentPPO("MlpLstmPolicy", RandomEnv(), policy_kwargs={"lstm_hidden_size": 8}, seed=0, device="cpu")
    model = PREFINE(source, device="cpu")
    state: Any = None
    other: Any = None
    start = np.array([True])
    actions = []
    for row in range(6):
        action, state = model.predict(STATES[row : row + 1], state, start, deterministic=True)
        expected, other = source.predict(STATES[row : row + 1], other, start, deterministic=True)
        np.testing.assert_array_equal(action, expected)
        actions.append(action)
        start = np.array([False])
    again, _ = model.predict(STATES[:1], state, np.array([True]), deterministic=True)
    np.testing.assert_array_equal(again, actions[0])
    remembered, _ = model.predict(STATES[:1], state, np.array([False]), deterministic=True)
    assert not np.array_equal(remembered, actions[0])
