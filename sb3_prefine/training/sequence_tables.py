"""What training reads for a recurrent policy: sequences, with the hidden states that the policies had there."""

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
from sb3_prefine.training.transition_tables import UPDATES_PER_DRAW, Batch, normalized_observations, on_device
from sb3_prefine.utils.observations import map_arrays

# Steps that the gradient goes back through time.
SEQUENCE_LENGTH = 32
# Sequences of a forward pass over all of the data: 8192 states, as in tables.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class SequenceTables:
    """
    Episodes cut into S sequences of L steps, those of the preferred set first; the last of an episode is filled up.

    The policy and the reference each have hidden states of their own. The reference's run from the start of each
    episode once, for its table. The policy's change as it learns: they are run anew, from the start of each episode,
    every 100 updates, and in between are as old as those of RecurrentPPO's rollouts.

    :param policy: the policy that learns
    :param observations: normalised, (S, L, …) or a dict of such tensors
    :param actions: encoded, (S, L, A)
    :param params_ref: parameters of the reference's distribution, (S, L, P)
    :param weights: (S, L): 0 for steps that only fill up
    :param labels: (S, L), or None
    :param positions: (S,), which sequence of its episode each is, from 0
    :param n_preferred: how many sequences come from D_p
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
        One batch after another, without end: whole sequences, drawn with replacement.

        :param batch_size: transitions of each set, rounded to whole sequences
        """
        n, device = len(self.actions), self.actions.device
        n_drawn = max(1, round(batch_size / SEQUENCE_LENGTH))
        is_preferred = torch.arange(2 * n_drawn * SEQUENCE_LENGTH, device=device) < n_drawn * SEQUENCE_LENGTH
        while True:
            hidden, cell = hidden_states(self.policy, self.observations, self.positions)
            preferred = torch.randint(
                0, self.n_preferred, (UPDATES_PER_DRAW, n_drawn), generator=generator, device=device
            )
            dispreferred = torch.randint(
                self.n_preferred, n, (UPDATES_PER_DRAW, n_drawn), generator=generator, device=device
            )
            for chosen in torch.cat((preferred, dispreferred), dim=1):
                yield Batch(
                    inputs=sequences_at(self.observations, (hidden, cell), chosen),
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

    :param policy: the policy that learns, on the device of the computation
    :raises ValueError: an observation is not finite after normalisation
    """
    sets = (preferences.preferred, preferences.dispreferred)
    rows, real, positions = zip(*(_cut(trajectories.episode_lengths) for trajectories in sets), strict=True)
    # Rows of the second set come after those of the first.
    all_rows = torch.as_tensor(np.concatenate([rows[0], rows[1] + sets[0].n_transitions]), device=policy.device)
    frozen = reference.trainable_copy().to(policy.device)
    joined = normalized_observations("preferences", sets, reference, frozen)
    observations = map_arrays(lambda part: part[all_rows], joined)
    starts = torch.as_tensor(np.concatenate(positions), device=policy.device)
    states = hidden_states(frozen, observations, starts)
    chunks = torch.arange(len(starts), device=policy.device).split(_CHUNK)
    params_ref = torch.cat([likelihood.params(frozen, sequences_at(observations, states, chunk)) for chunk in chunks])
    actions = likelihood.encode(torch.as_tensor(np.concatenate([s.actions for s in sets]), device=policy.device))
    weights = torch.as_tensor(np.concatenate(real), device=policy.device, dtype=torch.float32)
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
    A policy's own hidden and cell states before each sequence, zero at the start of an episode.

    :param observations: (S, L, …)
    :param positions: (S,), which sequence of its episode each is; the sequences of an episode follow each other
    :return: (layers, S, H) each
    """
    lstm: Any = policy.lstm_actor
    shape = (lstm.num_layers, len(positions), lstm.hidden_size)
    hidden, cell = torch.zeros(shape, device=policy.device), torch.zeros(shape, device=policy.device)
    for position in range(int(positions.max())):
        # One step along all episodes that are long enough.
        for after in torch.nonzero(positions == position + 1).flatten().split(_CHUNK):
            before = sequences_at(observations, (hidden, cell), after - 1)
            _, (hidden[:, after], cell[:, after]) = run_lstm(policy, before)
    return hidden, cell


def sequences_at(observations: PyTorchObs, states: tuple[Tensor, Tensor], chosen: Tensor) -> SequenceInputs:
    """Some of the sequences, with the states before them."""
    hidden, cell = states
    return SequenceInputs(
        map_arrays(lambda part: part[chosen].flatten(0, 1), observations), (hidden[:, chosen], cell[:, chosen])
    )


def _cut(episode_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Cut episodes into sequences.

    :return: the rows of each sequence (S, L), an episode's last row repeated to fill it up; which of them are real
        (S, L); which sequence of its episode each is (S,)
    """
    n_sequences = -(-episode_lengths // SEQUENCE_LENGTH)
    episodes = np.repeat(np.arange(len(episode_lengths)), n_sequences)
    positions = np.arange(len(episodes)) - np.repeat(np.cumsum(n_sequences) - n_sequences, n_sequences)
    steps = positions[:, None] * SEQUENCE_LENGTH + np.arange(SEQUENCE_LENGTH)
    lengths, starts = episode_lengths[episodes, None], (np.cumsum(episode_lengths) - episode_lengths)[episodes, None]
    return starts + np.minimum(steps, lengths - 1), steps < lengths, positions
