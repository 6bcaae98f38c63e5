"""What a likelihood is, for every policy family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class MaskedInputs:
    """
    Observations, and which actions were allowed there.

    :param observations: (B, …)
    :param action_masks: (B, n), bool: sb3-contrib's layout, a flag for each option of each choice
    """

    observations: PyTorchObs
    action_masks: Tensor


@dataclass(frozen=True, eq=False)
class SequenceInputs:
    """
    S sequences of L steps each, for recurrent policies.

    :param observations: (S · L, …), the steps of the first sequence first
    :param states: hidden and cell state of the actor's LSTM before each sequence, (layers, S, H) each
    """

    observations: PyTorchObs
    states: tuple[Tensor, Tensor]


Inputs = PyTorchObs | MaskedInputs | SequenceInputs


# What `Likelihood.params` is given: observations, `MaskedInputs` or `SequenceInputs`.
Needs = Literal["observations", "masks", "sequences"]


@dataclass(frozen=True)
class Likelihood:
    """
    The likelihood of one policy family, as functions of its distribution parameters.

    Shapes: a batch has B states, the parameters of a state are one row of P numbers, an encoded action is one row of
    A numbers. ``log_prob`` broadcasts: actions may have leading dimensions, as in (K, B, A) -> (K, B).

    :param family: what to call it, e.g. ``"diagonal Gaussian"``
    :param params: (policy, inputs of B states, normalised as the policy expects them) -> parameters (B, P), with
        gradient
    :param log_prob: (parameters (B, P), encoded actions (…, B, A)) -> log π(a|s) (…, B), nats
    :param sample: (parameters (B, P), random generator) -> encoded actions (B, A); call it under ``torch.no_grad()``
    :param encode: environment actions (N, A) -> the encoded actions that ``log_prob`` and ``sample`` speak of
    :param needs: what the inputs are: ``"observations"``, with ``"masks"`` of actions, or in ``"sequences"``
    """

    family: str
    params: Callable[[Any, Inputs], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator | None], Tensor]
    encode: Callable[[Tensor], Tensor]
    needs: Needs = "observations"


def actor_latent(policy: Any, inputs: Inputs) -> Tensor:
    """
    What the last layer of an actor-critic policy's actor sees.

    These are the steps of SB3's ``get_distribution`` without building its torch distribution, whose validation of the
    arguments waits for the device.

    :param policy: PPO's, A2C's or TRPO's, MaskablePPO's or RecurrentPPO's
    :return: (B, latent size)
    """
    if isinstance(inputs, SequenceInputs):
        return policy.mlp_extractor.forward_actor(run_lstm(policy, inputs)[0])
    observations = inputs.observations if isinstance(inputs, MaskedInputs) else inputs
    return policy.mlp_extractor.forward_actor(_features(policy, observations))


def run_lstm(policy: Any, sequences: SequenceInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """
    Run the actor's LSTM of a recurrent policy along sequences.

    :return: its outputs (S · L, H), and its hidden and cell state after each sequence, (layers, S, H) each
    """
    lstm: nn.LSTM = policy.lstm_actor
    n_sequences = sequences.states[0].shape[1]
    features = _features(policy, sequences.observations).reshape(n_sequences, -1, lstm.input_size)
    outputs, states = lstm(features.transpose(0, 1), sequences.states)
    return outputs.transpose(0, 1).flatten(0, 1), states


def _features(policy: Any, observations: PyTorchObs) -> Tensor:
    # ActorCriticPolicy's own would run the critic's extractor too.
    return BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
