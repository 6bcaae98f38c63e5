"""Pairs of segments for PPL and CPL: one of a preferred episode, one of a dispreferred episode."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Inputs, Likelihood
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.transition_tables import TransitionTables, build_tables, inputs_at

# So much larger than the number of starts in an episode that the remainder of a division by it is nearly uniform.
_LARGE = 2**62


@dataclass(frozen=True, eq=False)
class Pairs:
    """
    A batch of n pairs of segments of L steps: n segments of D_p, then n segments of D_np.

    The segment of an episode that is shorter than L is padded with repetitions of its last step.

    :param inputs: Inputs of the likelihood for 2 · n · L states.
    :param actions: Actions in the encoding that the likelihood scores, (2 · n · L, A).
    :param params_ref: Parameters of the reference's distribution, (2 · n · L, P).
    :param is_real: Whether each step is a step of the episode, and not padding, (2, n, L), bool.
    :param weights: Weight of each segment, (2, n). None means equal weights.
    :param labels: Probability that the segment of D_p is the better one of its pair, (n,). None means 1.
    """

    inputs: Inputs
    actions: Tensor
    params_ref: Tensor
    is_real: Tensor
    weights: Tensor | None
    labels: Tensor | None

    def by_step(self, values: Tensor) -> Tensor:
        """Arrange values of the states, (2 · n · L,), as (2, n, L), with 0 for the padding."""
        return values.view(self.is_real.shape) * self.is_real

    @property
    def lengths(self) -> Tensor:
        """Number of steps of each segment without padding, (2, n)."""
        return self.is_real.sum(dim=-1)

    @property
    def pair_weights(self) -> Tensor | None:
        """Weight of each pair, (n,): the product of its segments' weights, as if weights were frequencies."""
        return None if self.weights is None else self.weights[0] * self.weights[1]


@dataclass(frozen=True, eq=False)
class Segments:
    """
    All segments of both sets.

    :param tables: The transitions.
    :param episodes: Episode of each transition, (N,).
    :param starts: First row of each episode, (n_episodes,).
    :param ends: Row after the last one of each episode, (n_episodes,).
    """

    tables: TransitionTables
    episodes: Tensor
    starts: Tensor
    ends: Tensor

    def batches(self, n_pairs: int, length: int, generator: torch.Generator) -> Iterator[Pairs]:
        """
        Draw one batch of pairs after another, with replacement and without end.

        The probability of an episode is proportional to its length. All starts in it are equally likely. A segment
        never leaves its episode: an episode that is shorter than ``length`` is one segment.

        :param n_pairs: Number of pairs of a batch.
        :param length: Number of steps of a segment, at most the length of the longest episode.
        :param generator: Random generator of the segments.
        """
        length = min(length, int((self.ends - self.starts).max()))
        steps = torch.arange(length, device=self.starts.device)
        while True:
            for starts, ends in zip(*self._draw(n_pairs, length, generator), strict=True):
                yield self._at(starts, ends, steps)

    def _draw(self, n_pairs: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """
        Draw the segments of the next 100 batches, those of D_p first.

        :return: First row of each segment, and the row after the last one of its episode, (100, 2 · n_pairs) each.
        """
        episodes = self.episodes[self.tables.draw(n_pairs, generator)]
        starts, ends = self.starts[episodes], self.ends[episodes]
        n_places = (ends - starts - length + 1).clamp(min=1)
        drawn = torch.randint(_LARGE, episodes.shape, generator=generator, device=episodes.device)
        return starts + drawn % n_places, ends

    def _at(self, starts: Tensor, ends: Tensor, steps: Tensor) -> Pairs:
        """
        Gather segments.

        :param starts: First row of each segment, those of D_p first, (2 · n,).
        :param ends: Row after the last one of its episode, (2 · n,).
        :param steps: Steps of a segment from 0, (L,).
        """
        tables, shape = self.tables, (2, len(starts) // 2, len(steps))
        rows = starts[:, None] + steps
        is_real = rows < ends[:, None]
        rows = torch.minimum(rows, ends[:, None] - 1).flatten()
        return Pairs(
            inputs=inputs_at(tables.observations, tables.action_masks, rows),
            actions=tables.actions.index_select(0, rows),
            params_ref=tables.params_ref.index_select(0, rows),
            is_real=is_real.view(shape),
            weights=None if tables.weights is None else tables.weights[starts].view(shape[:2]),
            # If both labels are right, so is the order of the pair. If one is wrong, both segments belong to the same
            # set, and either may be the better one: q q' + (q (1 - q') + (1 - q) q') / 2, which is the mean.
            labels=None if tables.labels is None else tables.labels[starts].view(shape[:2]).mean(dim=0),
        )


def build_segments(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> Segments:
    """
    Normalise, encode and score the data once. Data on disk are read into memory.

    :param preferences: Preferences that fit the reference.
    :param reference: The reference, whose normaliser is applied.
    :param likelihood: Likelihood that encodes actions and scores states.
    :param device: Device of the tensors.
    :raises ValueError: If :func:`~sb3_prefine.training.transition_tables.build_tables` refuses the data.
    """
    sets = (preferences.preferred, preferences.dispreferred)
    lengths = np.concatenate([trajectories.episode_lengths for trajectories in sets])
    ends = np.cumsum(lengths)
    return Segments(
        tables=build_tables(preferences, reference, likelihood, device),
        episodes=torch.as_tensor(np.repeat(np.arange(len(lengths)), lengths), device=device),
        starts=torch.as_tensor(ends - lengths, device=device),
        ends=torch.as_tensor(ends, device=device),
    )
