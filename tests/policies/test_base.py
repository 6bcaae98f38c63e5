"""What the actor's last layer sees, against SB3's own layers and an LSTM in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from torch import nn

from sb3_prefine.policies.base import MaskedInputs, SequenceInputs, actor_latent, run_lstm
from sb3_prefine.utils.observations import map_arrays, zeros_of
from tests.families import Parts, masked
from tests.worlds import OBSERVATIONS, Anything, model_of

SEPARATE = {"net_arch": [16], "share_features_extractor": False}


def states(n: int = 7) -> torch.Tensor:
    return torch.randn((n, OBSERVATIONS), generator=torch.Generator().manual_seed(0))


def test_a_function_is_applied_to_the_array_or_to_each_of_a_dict():
    assert map_arrays(lambda part: part + 1, np.array([1, 2])).tolist() == [2, 3]
    found = map_arrays(len, {"a": [1, 2], "b": [3]})
    assert found == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3, 2), np.float64),
        spaces.Box(0, 255, (3, 4, 5), np.uint8),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary((2, 3)),
    ],
    ids=str,
)
def test_zeros_are_observations_of_the_space(space):
    zeros = zeros_of(space, 5)
    assert zeros.shape == (5, *space.shape)
    assert zeros.dtype == space.dtype
    assert not zeros.any()
    if not isinstance(space, spaces.Discrete):
        assert all(space.contains(row) for row in zeros if space.shape)
    found = zeros_of(spaces.Dict({"a": space, "b": spaces.Discrete(2)}), 3)
    assert {key: part.shape for key, part in found.items()} == {"a": (3, *space.shape), "b": (3,)}


@pytest.mark.parametrize("kwargs", [{"net_arch": [16]}, SEPARATE], ids=["shared", "separate"])
def test_the_actor_s_latent_gives_sb3_s_distribution(kwargs):
    policy: Any = model_of(PPO, policy_kwargs=kwargs).policy
    mean = policy.action_net(actor_latent(policy, states()))
    torch.testing.assert_close(mean, policy.get_distribution(states()).distribution.mean)


def test_masks_are_no_part_of_the_latent():
    policy: Any = model_of(MaskablePPO, masked(spaces.Discrete(4))()).policy
    mask = torch.zeros((7, 4), dtype=torch.bool)
    torch.testing.assert_close(actor_latent(policy, MaskedInputs(states(), mask)), actor_latent(policy, states()))


def test_the_critic_s_extractor_is_not_run():
    """It would cost a second pass over the images, and be trained with the actor."""
    env, kwargs = Parts(), {"net_arch": [8], "share_features_extractor": False}
    policy: Any = PPO("MultiInputPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu").policy
    seen = policy.obs_to_tensor(zeros_of(env.observation_space, 3))[0]
    actor_latent(policy, seen).sum().backward()
    assert all(weight.grad is not None for weight in policy.pi_features_extractor.parameters())
    assert all(weight.grad is None for weight in policy.vf_features_extractor.parameters())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm_by_hand(
    lstm: nn.LSTM, features: np.ndarray, hidden: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Hochreiter and Schmidhuber's cell with forget gates, one step and one layer after the other.

    :param features: (L, S, F)
    :param hidden: (layers, S, H)
    :param cell: the same
    """
    hidden, cell, outputs = hidden.copy(), cell.copy(), []
    for step in features:
        below = step
        for layer in range(lstm.num_layers):
            weights = [
                getattr(lstm, f"{name}_l{layer}").detach().double().numpy()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            gates = below @ weights[0].T + hidden[layer] @ weights[1].T + weights[2] + weights[3]
            entry, forget, candidate, output = np.split(gates, 4, axis=1)
            cell[layer] = sigmoid(forget) * cell[layer] + sigmoid(entry) * np.tanh(candidate)
            hidden[layer] = below = sigmoid(output) * np.tanh(cell[layer])
        outputs.append(below)
    return np.stack(outputs), hidden, cell


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_runs_along_each_sequence_from_the_state_before_it(layers):
    kwargs = {"net_arch": [8], "lstm_hidden_size": 6, "n_lstm_layers": layers}
    policy: Any = RecurrentPPO("MlpLstmPolicy", Anything(), policy_kwargs=kwargs, seed=0, device="cpu").policy
    n_sequences, n_steps = 3, 5
    seen = states(n_sequences * n_steps)
    before = torch.randn((2, layers, n_sequences, 6), generator=torch.Generator().manual_seed(1))
    outputs, (hidden, cell) = run_lstm(policy, SequenceInputs(seen, (before[0], before[1])))
    # The observations of a sequence follow each other; the extractor of vectors leaves them as they are.
    steps = seen.double().numpy().reshape(n_sequences, n_steps, OBSERVATIONS).transpose(1, 0, 2)
    expected = lstm_by_hand(policy.lstm_actor, steps, *before.double().numpy())
    by_sequence = expected[0].transpose(1, 0, 2).reshape(n_sequences * n_steps, 6)
    for found, wanted in zip((outputs, hidden, cell), (by_sequence, *expected[1:]), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)
    latent = actor_latent(policy, SequenceInputs(seen, (before[0], before[1])))
    torch.testing.assert_close(latent, policy.mlp_extractor.forward_actor(outputs))
