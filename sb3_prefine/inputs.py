"""What a policy's likelihood is conditioned on: observations, with action masks, or along sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

# Normalised, as the network sees them, (B, …); a dict of such tensors for a Dict observation space.
Observations = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Masked:
    """
    Observations, and which actions were allowed there.

    :param observations: (B, …)
    :param action_masks: (B, n), bool: sb3-contrib's layout, a flag for each option of each choice
    """

    observations: Observations
    action_masks: Tensor


@dataclass(frozen=True, eq=False)
class Sequences:
    """
    S sequences of L steps each, for recurrent policies.

    :param observations: (S · L, …), the steps of the first sequence first
    :param states: hidden and cell state of the actor's LSTM before each sequence, (layers, S, H) each
    """

    observations: Observations
    states: tuple[Tensor, Tensor]


Inputs = Observations | Masked | Sequences


def map_arrays(function: Callable[[Any], Any], observations: Any) -> Any:
    """Apply a function to observations: to the array itself, or to each array of a dict of them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def zeros_of(space: spaces.Space, n: int) -> Any:
    """``n`` observations of a space, all zero; a dict of arrays for a Dict space."""
    if isinstance(space, spaces.Dict):
        return {key: zeros_of(part, n) for key, part in space.spaces.items()}
    return np.zeros((n, *(space.shape or ())), space.dtype)


def actor_latent(policy: Any, inputs: Inputs) -> Tensor:
    """
    What the last layer of an actor-critic policy's actor sees.

    These are the steps of SB3's ``get_distribution`` without building its torch distribution, whose validation of the
    arguments waits for the device.

    :param policy: PPO's, A2C's or TRPO's, MaskablePPO's or RecurrentPPO's
    :return: (B, latent size)
    """
    if isinstance(inputs, Sequences):
        return policy.mlp_extractor.forward_actor(run_lstm(policy, inputs)[0])
    observations = inputs.observations if isinstance(inputs, Masked) else inputs
    return policy.mlp_extractor.forward_actor(_features(policy, observations))


def run_lstm(policy: Any, sequences: Sequences) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """
    Run the actor's LSTM of a recurrent policy along sequences.

    :return: its outputs (S · L, H), and its hidden and cell state after each sequence, (layers, S, H) each
    """
    lstm: nn.LSTM = policy.lstm_actor
    n_sequences = sequences.states[0].shape[1]
    features = _features(policy, sequences.observations).reshape(n_sequences, -1, lstm.input_size)
    outputs, states = lstm(features.transpose(0, 1), sequences.states)
    return outputs.transpose(0, 1).flatten(0, 1), states


def _features(policy: Any, observations: Observations) -> Tensor:
    # ActorCriticPolicy's own would run the critic's extractor too.
    return BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
