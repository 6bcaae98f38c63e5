"""The latent of the actor, against SB3's own layers and an LSTM in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from torch import nn

from sb3_prefine.policies.base import MaskedInputs, SequenceInputs, actor_latent, run_lstm
from sb3_prefine.utils.observations import zero_observations
from tests.families import DictEnv, masked_env_with_actions
from tests.worlds import OBSERVATIONS, RandomEnv, make_model

SEPARATE = {"net_arch": [16], "share_features_extractor": False}


def states(n: int = 7) -> torch.Tensor:
    return torch.randn((n, OBSERVATIONS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kwargs", [{"net_arch": [16]}, SEPARATE], ids=["shared", "separate"])
def test_actor_latent_gives_the_distribution_of_sb3(kwargs):
    policy: Any = make_model(PPO, policy_kwargs=kwargs).policy
    mean = policy.action_net(actor_latent(policy, states()))
    torch.testing.assert_close(mean, policy.get_distribution(states()).distribution.mean)


def test_latent_does_not_depend_on_masks():
    policy: Any = make_model(MaskablePPO, masked_env_with_actions(spaces.Discrete(4))()).policy
    mask = torch.zeros((7, 4), dtype=torch.bool)
    torch.testing.assert_close(actor_latent(policy, MaskedInputs(states(), mask)), actor_latent(policy, states()))


def test_extractor_of_the_critic_is_not_run():
    """It would cost a second pass over the images, and the actor's loss would train it."""
    env, kwargs = DictEnv(), {"net_arch": [8], "share_features_extractor": False}
    policy: Any = PPO("MultiInputPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu").policy
    observations = policy.obs_to_tensor(zero_observations(env.observation_space, 3))[0]
    actor_latent(policy, observations).sum().backward()
    assert all(weight.grad is not None for weight in policy.pi_features_extractor.parameters())
    assert all(weight.grad is None for weight in policy.vf_features_extractor.parameters())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm_by_hand(
    lstm: nn.LSTM, features: np.ndarray, hidden: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Hochreiter and Schmidhuber's cell with forget gates, step by step and layer by layer.

    :param features: (L, S, F)
    :param hidden: (layers, S, H)
    :param cell: (layers, S, H)
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
            input_gate, forget, candidate, output = np.split(gates, 4, axis=1)
            cell[layer] = sigmoid(forget) * cell[layer] + sigmoid(input_gate) * np.tanh(candidate)
            hidden[layer] = below = sigmoid(output) * np.tanh(cell[layer])
        outputs.append(below)
    return np.stack(outputs), hidden, cell


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_runs_along_each_sequence_from_its_initial_state(layers):
    kwargs = {"net_arch": [8], "lstm_hidden_size": 6, "n_lstm_layers": layers}
    policy: Any = RecurrentPPO("MlpLstmPolicy", RandomEnv(), policy_kwargs=kwargs, seed=0, device="cpu").policy
    n_sequences, n_steps = 3, 5
    observations = states(n_sequences * n_steps)
    before = torch.randn((2, layers, n_sequences, 6), generator=torch.Generator().manual_seed(1))
    outputs, (hidden, cell) = run_lstm(policy, SequenceInputs(observations, (before[0], before[1])))
    # The extractor leaves vectors unchanged, so the features are the observations, sequence by sequence.
    steps = observations.double().numpy().reshape(n_sequences, n_steps, OBSERVATIONS).transpose(1, 0, 2)
    expected = lstm_by_hand(policy.lstm_actor, steps, *before.double().numpy())
    by_sequence = expected[0].transpose(1, 0, 2).reshape(n_sequences * n_steps, 6)
    for found, correct in zip((outputs, hidden, cell), (by_sequence, *expected[1:]), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), correct, rtol=1e-4, atol=1e-6)
    latent = actor_latent(policy, SequenceInputs(observations, (before[0], before[1])))
    torch.testing.assert_close(latent, policy.mlp_extractor.forward_actor(outputs))
