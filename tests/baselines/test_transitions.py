"""The transitions that critics read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sb3_prefine.baselines import BC
from sb3_prefine.baselines.transitions import transitions_of, vector_sizes
from tests.worlds import GOOD, RandomEnv, trajectories


def test_transitions_are_normalized_scaled_and_end_at_terminals():
    data = trajectories(GOOD, n_episodes=2, length=3)
    rows = np.arange(6)
    actions = np.tile(np.array([[-2.0, 3.0, 0.5]], np.float32), (6, 1))
    data = replace(data, actions=actions, terminals=rows == 2, timeouts=rows == 5)
    model = BC("GaussianPolicy", data, env=RandomEnv(), device="cpu")
    found = transitions_of("data", data, model.reference, model.policy)
    np.testing.assert_allclose(found.actions, np.tile([[-1.0, 1.0, 0.5]], (6, 1)), atol=1e-6)
    for name in ("observations", "next_observations"):
        np.testing.assert_array_equal(getattr(found, name), model.reference.normalize(getattr(data, name)))
    assert found.continues.tolist() == [1, 1, 0, 1, 1, 1]
    rows = torch.tensor([4, 2, 2])
    some = found.at(rows)
    assert len(some) == 3
    assert torch.equal(some.inputs, torch.cat((found.observations, found.actions), dim=1)[rows])
    assert torch.equal(some.next_observations, found.next_observations[rows])
    assert some.continues.tolist() == [1, 0, 0]


VECTOR = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "error"),
    [
        (spaces.Dict({"a": VECTOR}), VECTOR, "observation_space: .*Dict"),
        (spaces.Box(0, 255, (1, 36, 36), np.uint8), VECTOR, "observation_space: .*Box"),
        (spaces.Discrete(3), VECTOR, "observation_space: .*Discrete"),
        (VECTOR, spaces.Discrete(3), "action_space: .*Discrete"),
    ],
)
def test_spaces_other_than_vectors_are_refused(observation_space, action_space, error):
    with pytest.raises(TypeError, match=f"^{error}"):
        vector_sizes("CPQ", observation_space, action_space)


def test_the_sizes_of_vectors_are_their_dimensions():
    assert vector_sizes("CPQ", VECTOR, spaces.Box(-2, 2, (1,), np.float64)) == (3, 1)
