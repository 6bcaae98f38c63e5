"""What PPL and CPL learn from: pairs of segments, one of a preferred and one of a dispreferred episode."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.policies.base import Inputs, Likelihood
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training.transition_tables import TransitionTables, build_tables, inputs_at

# Far more than an episode has starts, so that the remainder of a division by their number is as good as uniform.
_MANY = 2**62


@dataclass(frozen=True, eq=False)
class Pairs:
    """
    n pairs of segments of L steps, for one update: n segments of D_p, then n of D_np.

    A segment of an episode that is shorter than L is filled up with its last step.

    :param inputs: what the likelihood needs, of 2 · n · L states
    :param actions: encoded, as the likelihood scores them, (2 · n · L, A)
    :param params_ref: parameters of the reference's distribution, (2 · n · L, P)
    :param is_real: bool, (2, n, L): which steps do not only fill up
    :param weights: (2, n): how much each segment counts; None is 1 for all
    :param labels: (n,): the probability that the segment of D_p is the better one of its pair; None is 1 for all
    """

    inputs: Inputs
    actions: Tensor
    params_ref: Tensor
    is_real: Tensor
    weights: Tensor | None
    labels: Tensor | None

    def by_step(self, values: Tensor) -> Tensor:
        """Numbers of states, (2 · n · L,), as (2, n, L); 0 for steps that only fill up."""
        return values.view(self.is_real.shape) * self.is_real

    @property
    def lengths(self) -> Tensor:
        """Steps of each segment, (2, n)."""
        return self.is_real.sum(dim=-1)

    @property
    def pair_weights(self) -> Tensor | None:
        """How much each pair counts, (n,): the product of its two weights, as if they were how often each is drawn."""
        return None if self.weights is None else self.weights[0] * self.weights[1]


@dataclass(frozen=True, eq=False)
class Segments:
    """
    All segments of both sets.

    :param tables: of the transitions
    :param episodes: (N,), the episode of each transition
    :param starts: (n_episodes,), each episode's first row
    :param ends: (n_episodes,), the row after each episode's last
    """

    tables: TransitionTables
    episodes: Tensor
    starts: Tensor
    ends: Tensor

    def batches(self, n_pairs: int, length: int, generator: torch.Generator) -> Iterator[Pairs]:
        """
        One batch of pairs after another, without end, drawn with replacement.

        An episode is drawn as often as it is long, as if a transition of its set was; then any place in it is as likely
        as any other to be where the segment starts. A segment never leaves its episode: one that is shorter than
        ``length`` is taken as a whole.

        :param n_pairs: of a batch
        :param length: steps of a segment; that of the longest episode, if it is shorter
        """
        length = min(length, int((self.ends - self.starts).max()))
        steps = torch.arange(length, device=self.starts.device)
        while True:
            for starts, ends in zip(*self._draw(n_pairs, length, generator), strict=True):
                yield self._at(starts, ends, steps)

    def _draw(self, n_pairs: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """
        The segments of the next 100 batches, those of D_p first.

        :return: the first row of each, and the row after the last of its episode; (100, 2 · n_pairs) each
        """
        episodes = self.episodes[self.tables.draw(n_pairs, generator)]
        starts, ends = self.starts[episodes], self.ends[episodes]
        n_places = (ends - starts - length + 1).clamp(min=1)
        drawn = torch.randint(_MANY, episodes.shape, generator=generator, device=episodes.device)
        return starts + drawn % n_places, ends

    def _at(self, starts: Tensor, ends: Tensor, steps: Tensor) -> Pairs:
        """
        :param starts: (2 · n,), the first row of each segment, those of D_p first
        :param ends: (2 · n,), the row after the last of its episode
        :param steps: (L,), from 0
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
            # Both right: the pair's order is right. Both wrong: it is the other way round. One wrong: both are of the
            # same set, and either may be the better one. q q' + (q (1 - q') + (1 - q) q') / 2 is the mean.
            labels=None if tables.labels is None else tables.labels[starts].view(shape[:2]).mean(dim=0),
        )


def build_segments(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> Segments:
    """
    Normalise, encode and score the data once; data on disk are read into memory.

    :raises ValueError: as :func:`~sb3_prefine.training.transition_tables.build_tables`
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


def refuse_recurrent(algorithm: str, policy: nn.Module, likelihood: Likelihood) -> None:
    """:raises TypeError: the likelihood is one of sequences from the start of an episode on"""
    if likelihood.needs == "sequences":
        raise TypeError(
            f"policy: {type(policy).__name__} is recurrent: its hidden states depend on what was before a segment, "
            f"which {algorithm} does not read. PREFINE trains such a policy."
        )
