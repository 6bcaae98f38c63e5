"""Tables for a recurrent policy: sequences of steps, and the hidden states before each of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.objective import Sets
from sb3_prefine.policies.base import Likelihood, SequenceInputs, run_lstm
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.draw_rows import draw_rows
from sb3_prefine.training.transition_tables import (
    STATES_PER_FORWARD_PASS,
    Batch,
    normalized_observations,
    on_device,
    preferred_first,
)
from sb3_prefine.utils.observations import map_arrays

# Steps through which the gradient is propagated back in time.
SEQUENCE_LENGTH = 32
SEQUENCES_PER_FORWARD_PASS = STATES_PER_FORWARD_PASS // SEQUENCE_LENGTH


@dataclass(frozen=True, eq=False)
class SequenceTables:
    """
    Episodes cut into S sequences of L steps, those of the preferred set first. The last sequence is padded.

    The policy and the reference have separate hidden states. Those of the reference are computed once, for its
    distribution. Those of the policy change as it learns: they are computed again every 100 updates, from the start of
    each episode. Between two computations they become stale, as those of RecurrentPPO do in a rollout.

    :param policy: The policy that learns.
    :param observations: Normalised observations, (S, L, …) or a dict of such tensors.
    :param actions: Actions in the encoding that the likelihood scores, (S, L, A).
    :param params_ref: Parameters of the reference's distribution, (S, L, P).
    :param weights: Weights, (S, L); 0 for padding.
    :param labels: Probability that each step belongs to its set, (S, L), or None.
    :param positions: Position of each sequence in its episode, from 0, (S,).
    :param n_preferred: Number of sequences of the preferred set.
    """

    policy: BasePolicy
    observations: PyTorchObs
    actions: Tensor
    params_ref: Tensor
    weights: Tensor
    labels: Tensor | None
    positions: Tensor
    n_preferred: int

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        Draw one batch of whole sequences after another, with replacement and without end.

        :param batch_size: Number of transitions from each set, which is rounded to whole sequences.
        :param generator: Random generator of the sequences.
        """
        set_sizes = (self.n_preferred, len(self.actions) - self.n_preferred)
        n_drawn = max(1, round(batch_size / SEQUENCE_LENGTH))
        is_preferred = preferred_first(n_drawn * SEQUENCE_LENGTH, self.actions.device).is_preferred
        while True:
            states = hidden_states(self.policy, self.observations, self.positions)
            for chosen in draw_rows(set_sizes, n_drawn, generator):
                yield Batch(
                    inputs=sequences_at(self.observations, states, chosen),
                    actions=self.actions[chosen].flatten(0, 1),
                    params_ref=self.params_ref[chosen].flatten(0, 1),
                    sets=Sets(is_preferred, self.weights[chosen].flatten()),
                    labels=None if self.labels is None else self.labels[chosen].flatten(),
                )


@torch.no_grad()
def build_sequence_tables(
    preferences: PreferenceBuffer,
    reference: Reference,
    likelihood: Likelihood,
    policy: BasePolicy,
) -> SequenceTables:
    """
    Cut the data into sequences, and run the reference along them once.

    :param preferences: The data.
    :param reference: The reference.
    :param likelihood: Likelihood of the policy.
    :param policy: The policy that learns, on the device of the computation.
    :return: The tables.
    :raises ValueError: If an observation is not finite after normalisation.
    """
    sets = (preferences.preferred, preferences.dispreferred)
    rows, is_real, positions = zip(*(_cut(trajectories.episode_lengths) for trajectories in sets), strict=True)
    # The rows of the second set come after those of the first.
    all_rows = torch.as_tensor(np.concatenate([rows[0], rows[1] + sets[0].n_transitions]), device=policy.device)
    frozen = reference.trainable_copy().to(policy.device)
    joined = normalized_observations("preferences", sets, reference, frozen)
    observations = map_arrays(lambda part: part[all_rows], joined)
    starts = torch.as_tensor(np.concatenate(positions), device=policy.device)
    states = hidden_states(frozen, observations, starts)
    parts = torch.arange(len(starts), device=policy.device).split(SEQUENCES_PER_FORWARD_PASS)
    params_ref = torch.cat([likelihood.params(frozen, sequences_at(observations, states, part)) for part in parts])
    actions = likelihood.encode(torch.as_tensor(np.concatenate([s.actions for s in sets]), device=policy.device))
    weights = torch.as_tensor(np.concatenate(is_real), device=policy.device, dtype=torch.float32)
    given = on_device(preferences.per_transition("weights"), policy.device)
    labels = on_device(preferences.per_transition("labels"), policy.device)
    return SequenceTables(
        policy=policy,
        observations=observations,
        actions=actions[all_rows],
        params_ref=params_ref.unflatten(0, (len(starts), SEQUENCE_LENGTH)),
        weights=weights if given is None else weights * given[all_rows],
        labels=None if labels is None else labels[all_rows],
        positions=starts,
        n_preferred=len(rows[0]),
    )


@torch.no_grad()
def hidden_states(policy: BasePolicy, observations: PyTorchObs, positions: Tensor) -> tuple[Tensor, Tensor]:
    """
    Compute the hidden and cell states of a policy before each sequence. They are zero at the start of an episode.

    :param policy: The policy.
    :param observations: Normalised observations, (S, L, …). The sequences of an episode follow each other.
    :param positions: Position of each sequence in its episode, (S,).
    :return: Hidden and cell states, (layers, S, H) each.
    """
    lstm: Any = policy.lstm_actor
    shape = (lstm.num_layers, len(positions), lstm.hidden_size)
    hidden, cell = torch.zeros(shape, device=policy.device), torch.zeros(shape, device=policy.device)
    for position in range(int(positions.max())):
        # Advance all episodes that have a next sequence by one sequence.
        for after in torch.nonzero(positions == position + 1).flatten().split(SEQUENCES_PER_FORWARD_PASS):
            before = sequences_at(observations, (hidden, cell), after - 1)
            _, (hidden[:, after], cell[:, after]) = run_lstm(policy, before)
    return hidden, cell


def sequences_at(observations: PyTorchObs, states: tuple[Tensor, Tensor], chosen: Tensor) -> SequenceInputs:
    """
    Gather some sequences with the states before them.

    :param observations: Normalised observations, (S, L, …).
    :param states: Hidden and cell states before each sequence, (layers, S, H) each.
    :param chosen: Numbers of the sequences.
    :return: Inputs of the likelihood.
    """
    hidden, cell = states
    return SequenceInputs(
        map_arrays(lambda part: part[chosen].flatten(0, 1), observations), (hidden[:, chosen], cell[:, chosen])
    )


def _cut(episode_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Cut episodes into sequences.

    :return: Rows of each sequence (S, L), padded with the last row of the episode; whether each is real and not
        padding (S, L); position of each sequence in its episode (S,).
    """
    n_sequences = -(-episode_lengths // SEQUENCE_LENGTH)
    episodes = np.repeat(np.arange(len(episode_lengths)), n_sequences)
    positions = np.arange(len(episodes)) - np.repeat(np.cumsum(n_sequences) - n_sequences, n_sequences)
    steps = positions[:, None] * SEQUENCE_LENGTH + np.arange(SEQUENCE_LENGTH)
    lengths, starts = episode_lengths[episodes, None], (np.cumsum(episode_lengths) - episode_lengths)[episodes, None]
    return starts + np.minimum(steps, lengths - 1), steps < lengths, positions
