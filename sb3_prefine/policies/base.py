"""What a likelihood is, and the inputs that it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn


@dataclass(frozen=True)
class Likelihood:
    """
    How the policies of one family score and sample actions, as functions of their distribution's parameters.

    Shapes: B states; the parameters at a state are one row of P numbers; an encoded action is one row of A numbers.
    ``log_prob`` broadcasts over leading dimensions of the actions: (K, B, A) gives (K, B).

    :param family: Name of the family, e.g. ``"diagonal Gaussian"``.
    :param params: (policy, inputs of B states, normalised as the policy expects them) -> parameters (B, P), with
        gradient.
    :param log_prob: (parameters (B, P), encoded actions (…, B, A)) -> log π(a|s), (…, B), in nats.
    :param sample: (parameters (B, P), random generator) -> encoded actions (B, A). Call it under ``torch.no_grad()``.
    :param encode: Actions of the environment, N of them -> encoded actions (N, A), which ``log_prob`` and ``sample``
        use.
    :param needs: Kind of the inputs: ``"observations"``, ``"masks"`` (:class:`MaskedInputs`) or ``"sequences"``
        (:class:`SequenceInputs`).
    """

    family: str
    params: Callable[[Any, "Inputs"], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator | None], Tensor]
    encode: Callable[[Tensor], Tensor]
    needs: "Needs" = "observations"


@dataclass(frozen=True, eq=False)
class MaskedInputs:
    """
    Observations, and the actions that are allowed at each of them.

    :param observations: B observations, (B, …).
    :param action_masks: (B, n), bool, in sb3-contrib's layout: one flag for each option of each choice.
    """

    observations: PyTorchObs
    action_masks: Tensor


@dataclass(frozen=True, eq=False)
class SequenceInputs:
    """
    S sequences of L steps each, for recurrent policies.

    :param observations: (S · L, …), sequence by sequence.
    :param states: Hidden and cell state of the actor's LSTM before each sequence, (layers, S, H) each.
    """

    observations: PyTorchObs
    states: tuple[Tensor, Tensor]


Inputs = PyTorchObs | MaskedInputs | SequenceInputs
Needs = Literal["observations", "masks", "sequences"]


def actor_latent(policy: Any, inputs: Inputs) -> Tensor:
    """
    Compute the input of the actor's last layer in an actor-critic policy.

    These are the steps of SB3's ``get_distribution``, without its torch distribution, which synchronises with the
    device to validate its arguments.

    :param policy: Policy of PPO, A2C, TRPO, MaskablePPO or RecurrentPPO.
    :param inputs: Inputs of B states.
    :return: The latent, (B, size of the latent).
    """
    if isinstance(inputs, SequenceInputs):
        return policy.mlp_extractor.forward_actor(run_lstm(policy, inputs)[0])
    observations = inputs.observations if isinstance(inputs, MaskedInputs) else inputs
    return policy.mlp_extractor.forward_actor(_actor_features(policy, observations))


def run_lstm(policy: Any, sequences: SequenceInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """
    Run the actor's LSTM of a recurrent policy along sequences.

    :param policy: Policy of RecurrentPPO.
    :param sequences: S sequences of L steps.
    :return: The outputs (S · L, H), and the hidden and cell state after each sequence, (layers, S, H) each.
    """
    lstm: nn.LSTM = policy.lstm_actor
    n_sequences = sequences.states[0].shape[1]
    features = _actor_features(policy, sequences.observations).reshape(n_sequences, -1, lstm.input_size)
    outputs, states = lstm(features.transpose(0, 1), sequences.states)
    return outputs.transpose(0, 1).flatten(0, 1), states


def _actor_features(policy: Any, observations: PyTorchObs) -> Tensor:
    # ActorCriticPolicy's own method would also run the critic's extractor.
    return BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
