"""What training reads: the states and actions of the data, and the reference's distribution at each state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_prefine.data.columns import flatten, unflatten
from sb3_prefine.data.memory_map import copy_rows, prefetch
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.objective import Sets
from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs
from sb3_prefine.reference.reference import Reference
from sb3_prefine.utils.observations import map_arrays

# Rows of the reference's forward pass while its table is made, and updates whose rows are drawn at once.
_CHUNK = 8192
UPDATES_PER_DRAW = 100


@dataclass(frozen=True, eq=False)
class Batch:
    """
    B transitions of both sets, for one update.

    :param inputs: what the likelihood needs, of B states
    :param actions: encoded, as the likelihood scores them, (B, A)
    :param params_ref: parameters of the reference's distribution, (B, P)
    :param sets: which come from D_p, and how much each counts
    :param labels: (B,), the probability that each is of the set it is in; None is 1 for all
    """

    inputs: Inputs
    actions: Tensor
    params_ref: Tensor
    sets: Sets
    labels: Tensor | None


class Batches(Protocol):
    """A source of batches, such as :class:`TransitionTables`."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True, eq=False)
class ScoredTransitions:
    """
    N transitions.

    :param observations: normalised, as the network sees them, (N, …) or a dict of such tensors
    :param action_masks: (N, n_options), bool, for a policy that takes them
    :param actions: encoded, as the likelihood scores them, (N, A)
    :param params_ref: parameters of the reference's distribution, (N, P)
    :param weights: (N,), or None
    :param labels: (N,), or None
    """

    observations: PyTorchObs
    action_masks: Tensor | None
    actions: Tensor
    params_ref: Tensor
    weights: Tensor | None
    labels: Tensor | None

    def at(self, rows: Tensor, sets: Sets) -> Batch:
        """
        Some rows as a batch.

        :param rows: (…, B); every tensor of the batch gets its leading dimensions
        :param sets: which come from D_p; how much each counts is looked up
        """
        return Batch(
            inputs=inputs_at(self.observations, self.action_masks, rows),
            actions=_at(self.actions, rows),
            params_ref=_at(self.params_ref, rows),
            sets=sets if self.weights is None else Sets(sets.is_preferred, _at(self.weights, rows)),
            labels=None if self.labels is None else _at(self.labels, rows),
        )


@dataclass(frozen=True, eq=False)
class TransitionTables(ScoredTransitions):
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
        sets = preferred_first(batch_size, self.actions.device)
        while True:
            for rows in self.draw(batch_size, generator):
                yield self.at(rows, sets)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """
        The rows of the next 100 batches, drawn with replacement.

        :return: (100, 2 · batch_size), those of the preferred set first
        """
        size, device = (UPDATES_PER_DRAW, batch_size), self.actions.device
        preferred = torch.randint(0, self.n_preferred, size, generator=generator, device=device)
        dispreferred = torch.randint(self.n_preferred, len(self.actions), size, generator=generator, device=device)
        return torch.cat((preferred, dispreferred), dim=1)


def preferred_first(batch_size: int, device: torch.device) -> Sets:
    """A batch of as many rows of both sets, those of D_p first, which all count the same."""
    return Sets(torch.arange(2 * batch_size, device=device) < batch_size)


def build_tables(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> TransitionTables:
    """
    Normalise, encode and score the data once, so that training never runs the reference's network again.

    :raises ValueError: an observation is not finite after normalisation, or the policy takes action masks and the data
        have none
    """
    scorer = TableBuilder(preferences, reference, likelihood, device)
    n = preferences.preferred.n_transitions + preferences.dispreferred.n_transitions
    tables = scorer.empty_tables(n, preferences.preferred.n_transitions)
    scorer.write(tables, 0, range(n))
    return tables


class TableBuilder:
    """
    Reads rows of the data, normalises, encodes and scores them.

    Rows have the numbers 0 to N - 1, those of the preferred set first.

    :param device: of the tables
    :raises ValueError: the policy takes action masks and the data have none
    """

    def __init__(
        self, preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
    ) -> None:
        sets = (preferences.preferred, preferences.dispreferred)
        takes_masks = likelihood.needs == "masks"
        if takes_masks and any(trajectories.action_masks is None for trajectories in sets):
            raise ValueError(
                "preferences: they have no action_masks, and the policy takes them. Record the data with collect, or "
                "give Trajectories(…, action_masks=…); np.ones if every action was allowed."
            )
        self._preferences = preferences
        self._reference = reference
        self._likelihood = likelihood
        self._policy = reference.trainable_copy().to(device)
        self._device = device
        parts = ("observations", "actions", *(["action_masks"] if takes_masks else []))
        # Of each set, by their path.
        self._columns = [flatten({part: getattr(trajectories, part) for part in parts}) for trajectories in sets]

    @torch.no_grad()
    def score(self, rows: np.ndarray) -> TransitionTables:
        """
        :param rows: (B,), those of the preferred set first
        :return: B rows
        :raises ValueError: an observation is not finite after normalisation
        """
        rows_of_sets = self._of_sets(rows)
        parts = [
            {name: copy_rows(column, rows_of_set) for name, column in columns.items()}
            for columns, rows_of_set in zip(self._columns, rows_of_sets, strict=True)
        ]
        values = unflatten({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        observations = normalized("preferences", values["observations"], self._reference, self._policy)
        masks = on_device(values.get("action_masks"), self._device)
        inputs = observations if masks is None else MaskedInputs(observations, masks)
        return TransitionTables(
            observations=observations,
            action_masks=masks,
            actions=self._likelihood.encode(torch.as_tensor(values["actions"], device=self._device)),
            params_ref=self._likelihood.params(self._policy, inputs),
            weights=on_device(self._preferences.per_transition("weights", rows), self._device),
            labels=on_device(self._preferences.per_transition("labels", rows), self._device),
            n_preferred=len(rows_of_sets[0]),
        )

    def write(self, tables: TransitionTables, place: int, rows: range) -> None:
        """
        Put rows into tables, from row ``place`` on.

        Some after the others: what normalising and scoring need on the way takes little room beside the tables.
        """
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            write_rows(tables, place + start, self.score(np.arange(chunk.start, chunk.stop)))

    def prefetch(self, rows: np.ndarray) -> None:
        """
        Let the system begin to read rows that lie on disk.

        :param rows: (B,), those of the preferred set first
        """
        for columns, rows_of_set in zip(self._columns, self._of_sets(rows), strict=True):
            for column in columns.values():
                prefetch(column, rows_of_set)

    def empty_tables(self, n: int, n_preferred: int) -> TransitionTables:
        """
        Tables of ``n`` rows, to be written.

        :param n_preferred: how many of them are of the preferred set
        """
        row = self.score(np.arange(1))

        def empty(column: Any) -> Any:
            return None if column is None else column.new_empty((n, *column.shape[1:]))

        return TransitionTables(
            observations=map_arrays(empty, row.observations),
            action_masks=empty(row.action_masks),
            actions=empty(row.actions),
            params_ref=empty(row.params_ref),
            weights=empty(row.weights),
            labels=empty(row.labels),
            n_preferred=n_preferred,
        )

    def _of_sets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of each set, by their numbers there."""
        n_preferred = self._preferences.preferred.n_transitions
        return rows[rows < n_preferred], rows[rows >= n_preferred] - n_preferred


def write_rows(tables: TransitionTables, start: int, part: TransitionTables) -> None:
    """Put rows into tables, from row ``start`` on."""
    for column, rows in zip(_tensors(tables), _tensors(part), strict=True):
        column[start : start + len(rows)] = rows


def _tensors(tables: TransitionTables) -> list[Tensor]:
    observations = tables.observations
    columns = (
        *(observations.values() if isinstance(observations, dict) else [observations]),
        tables.action_masks,
        tables.actions,
        tables.params_ref,
        tables.weights,
        tables.labels,
    )
    return [column for column in columns if column is not None]


def join_tables(tables: Sequence[TransitionTables]) -> tuple[ScoredTransitions, list[TransitionTables]]:
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

    names = [field.name for field in fields(ScoredTransitions)]
    whole = {name: joined(name) for name in names}
    starts = np.cumsum([0, *sizes[:-1]])

    def part_of(table: TransitionTables, start: int, size: int) -> TransitionTables:
        given = {name: column for name, column in whole.items() if getattr(table, name) is not None}
        rows = {name: map_arrays(lambda column: column[start : start + size], given[name]) for name in given}
        return replace(table, **rows)

    return ScoredTransitions(**whole), [part_of(*each) for each in zip(tables, starts.tolist(), sizes, strict=True)]


def normalized_observations(
    name: str, sets: Sequence[Trajectories], reference: Reference, policy: BasePolicy
) -> PyTorchObs:
    """
    The observations of some sets, one after the other, as the network sees them, on the policy's device.

    :param name: what to call them in errors
    :raises ValueError: one is not finite after normalisation
    """
    parts: list[Any] = [trajectories.observations for trajectories in sets]
    if isinstance(parts[0], np.ndarray):
        return normalized(name, np.concatenate(parts), reference, policy)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return normalized(name, joined, reference, policy)


def normalized(name: str, raw: Any, reference: Reference, policy: BasePolicy) -> PyTorchObs:
    """
    Raw observations as the network sees them, on the policy's device.

    :param raw: (N, …), or a dict of such arrays
    :param name: what to call them in errors
    :raises ValueError: one is not finite after normalisation
    """
    observations = policy.obs_to_tensor(reference.normalize(raw))[0]
    for part in observations.values() if isinstance(observations, dict) else [observations]:
        if part.is_floating_point() and not torch.isfinite(part).all():
            raise ValueError(f"{name}: some observations are not finite once normalised. Is it the right normaliser?")
    return observations


def inputs_at(observations: PyTorchObs, action_masks: Tensor | None, rows: Tensor) -> Inputs:
    """What the likelihood needs, of some rows."""
    chosen = map_arrays(lambda part: _at(part, rows), observations)
    return chosen if action_masks is None else MaskedInputs(chosen, _at(action_masks, rows))


def on_device(values: np.ndarray | None, device: torch.device) -> Tensor | None:
    """A tensor of the values, if there are any."""
    return None if values is None else torch.as_tensor(values, device=device)


def _at(column: Tensor, rows: Tensor) -> Tensor:
    # ``column[rows]``, a third of its time on the CPU.
    if rows.dim() == 1:
        return column.index_select(0, rows)
    return column.index_select(0, rows.flatten()).unflatten(0, rows.shape)
