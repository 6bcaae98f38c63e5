"""What training reads: the states and actions of the data, and the reference's distribution at each state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from sb3_prefine.inputs import Inputs, Masked, Observations, map_arrays
from sb3_prefine.likelihood_types import Likelihood
from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.reference import Reference
from sb3_prefine.trajectories import Trajectories

# Rows of the reference's forward pass while its table is made, and updates whose rows are drawn at once.
_CHUNK = 8192
BLOCK = 100


@dataclass(frozen=True, eq=False)
class Batch:
    """
    B transitions of both sets, for one update.

    :param inputs: what the likelihood needs, of B states
    :param actions: encoded, as the likelihood scores them, (B, A)
    :param params_ref: parameters of the reference's distribution, (B, P)
    :param is_preferred: (B,), bool: which come from D_p
    :param weights: (B,), how much each counts; None is 1 for all
    :param labels: (B,), the probability that each is of the set it is in; None is 1 for all
    """

    inputs: Inputs
    actions: Tensor
    params_ref: Tensor
    is_preferred: Tensor
    weights: Tensor | None
    labels: Tensor | None


class Batches(Protocol):
    """A source of batches: :class:`Tables`, or :class:`~sb3_prefine.sequences.SequenceTables`."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True, eq=False)
class Columns:
    """
    N transitions.

    :param observations: normalised, as the network sees them, (N, …) or a dict of such tensors
    :param action_masks: (N, n_options), bool, for a policy that takes them
    :param actions: encoded, as the likelihood scores them, (N, A)
    :param params_ref: parameters of the reference's distribution, (N, P)
    :param weights: (N,), or None
    :param labels: (N,), or None
    """

    observations: Observations
    action_masks: Tensor | None
    actions: Tensor
    params_ref: Tensor
    weights: Tensor | None
    labels: Tensor | None

    def at(self, rows: Tensor, is_preferred: Tensor) -> Batch:
        """
        Some rows as a batch.

        :param rows: (…, B); every tensor of the batch gets its leading dimensions
        :param is_preferred: (B,), which come from D_p
        """
        return Batch(
            inputs=inputs_at(self.observations, self.action_masks, rows),
            actions=_at(self.actions, rows),
            params_ref=_at(self.params_ref, rows),
            is_preferred=is_preferred,
            weights=None if self.weights is None else _at(self.weights, rows),
            labels=None if self.labels is None else _at(self.labels, rows),
        )


@dataclass(frozen=True, eq=False)
class Tables(Columns):
    """
    The transitions of a buffer, those of the preferred set first.

    :param n_preferred: how many rows come from D_p
    """

    n_preferred: int

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        One batch after another, without end, drawn with replacement.

        :param batch_size: rows of each set; those of the preferred set come first
        """
        is_preferred = preferred_first(batch_size, self.actions.device)
        while True:
            for rows in self.draw(batch_size, generator):
                yield self.at(rows, is_preferred)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """
        The rows of the next 100 batches, drawn with replacement.

        :return: (100, 2 · batch_size), those of the preferred set first
        """
        size, device = (BLOCK, batch_size), self.actions.device
        preferred = torch.randint(0, self.n_preferred, size, generator=generator, device=device)
        dispreferred = torch.randint(self.n_preferred, len(self.actions), size, generator=generator, device=device)
        return torch.cat((preferred, dispreferred), dim=1)


def preferred_first(batch_size: int, device: torch.device) -> Tensor:
    """Which rows of a batch of both sets come from D_p, (2 · batch_size,)."""
    return torch.arange(2 * batch_size, device=device) < batch_size


@torch.no_grad()
def build_tables(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> Tables:
    """
    Normalise, encode and score the data once, so that training never runs the reference's network again.

    :raises ValueError: an observation is not finite after normalisation, or the policy takes action masks and the data
        have none
    """
    sets = (preferences.preferred, preferences.dispreferred)
    policy = reference.trainable_copy().to(device)
    observations = normalized_observations("preferences", sets, reference, policy)
    masks = None
    if likelihood.needs == "masks":
        if sets[0].action_masks is None or sets[1].action_masks is None:
            raise ValueError(
                "preferences: they have no action_masks, and the policy takes them. Record the data with collect, or "
                "give Trajectories(…, action_masks=…); np.ones if every action was allowed."
            )
        masks = torch.as_tensor(np.concatenate([s.action_masks for s in sets if s.action_masks is not None]))
        masks = masks.to(device)
    actions = torch.as_tensor(np.concatenate([trajectories.actions for trajectories in sets]), device=device)
    chunks = torch.arange(len(actions), device=device).split(_CHUNK)
    return Tables(
        observations=observations,
        action_masks=masks,
        actions=likelihood.encode(actions),
        params_ref=torch.cat([likelihood.params(policy, inputs_at(observations, masks, rows)) for rows in chunks]),
        weights=on_device(preferences.per_transition("weights"), device),
        labels=on_device(preferences.per_transition("labels"), device),
        n_preferred=preferences.preferred.n_transitions,
    )


def join(tables: Sequence[Tables]) -> tuple[Columns, list[Tables]]:
    """
    Several tables as one, from which batches of all of them can be gathered at once.

    :param tables: of likelihoods of one kind
    :return: all rows, one table after the other; and the tables again, as parts of that memory
    """
    if len(tables) == 1:
        return tables[0], [tables[0]]

    sizes = [len(table.actions) for table in tables]

    def joined(name: str) -> Any:
        parts = [getattr(table, name) for table in tables]
        if isinstance(parts[0], dict):
            return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        given = next((part for part in parts if part is not None), None)
        if given is None:
            return None
        # Weights or labels that only some have: None is 1 for all.
        return torch.cat([given.new_ones(n) if part is None else part for part, n in zip(parts, sizes, strict=True)])

    names = [field.name for field in fields(Columns)]
    whole = {name: joined(name) for name in names}
    starts = np.cumsum([0, *sizes[:-1]])

    def part_of(table: Tables, start: int, size: int) -> Tables:
        given = {name: column for name, column in whole.items() if getattr(table, name) is not None}
        rows = {name: map_arrays(lambda column: column[start : start + size], given[name]) for name in given}
        return replace(table, **rows)

    return Columns(**whole), [part_of(*each) for each in zip(tables, starts.tolist(), sizes, strict=True)]


def normalized_observations(
    name: str, sets: Sequence[Trajectories], reference: Reference, policy: BasePolicy
) -> Observations:
    """
    The observations of some sets, one after the other, as the network sees them, on the policy's device.

    :param name: what to call them in errors
    :raises ValueError: one is not finite after normalisation
    """
    parts: list[Any] = [trajectories.observations for trajectories in sets]
    joined: Any
    if isinstance(parts[0], np.ndarray):
        joined = np.concatenate(parts)
    else:
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    observations = policy.obs_to_tensor(reference.normalize(joined))[0]
    for part in observations.values() if isinstance(observations, dict) else [observations]:
        if part.is_floating_point() and not torch.isfinite(part).all():
            raise ValueError(f"{name}: some observations are not finite once normalised. Is it the right normaliser?")
    return observations


def inputs_at(observations: Observations, action_masks: Tensor | None, rows: Tensor) -> Inputs:
    """What the likelihood needs, of some rows."""
    chosen = map_arrays(lambda part: _at(part, rows), observations)
    return chosen if action_masks is None else Masked(chosen, _at(action_masks, rows))


def on_device(values: np.ndarray | None, device: torch.device) -> Tensor | None:
    """A tensor of the values, if there are any."""
    return None if values is None else torch.as_tensor(values, device=device)


def _at(column: Tensor, rows: Tensor) -> Tensor:
    # ``column[rows]``, a third of its time on the CPU.
    return column.index_select(0, rows.flatten()).unflatten(0, rows.shape)
