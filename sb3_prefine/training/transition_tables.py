"""Tables that training reads: states and actions of the data, and the reference's distribution at each state."""

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
from sb3_prefine.training.draw_rows import draw_rows, draw_rows_forever
from sb3_prefine.utils.observations import map_arrays

# States in one forward pass over all data: the result of the pass takes little memory beside the tables.
STATES_PER_FORWARD_PASS = 8192


@dataclass(frozen=True, eq=False)
class Batch:
    """
    One batch: B transitions from both sets.

    :param inputs: Inputs of the likelihood for B states.
    :param actions: Actions in the encoding that the likelihood scores, (B, A).
    :param params_ref: Parameters of the reference's distribution, (B, P).
    :param sets: Set and weight of each transition.
    :param labels: Probability that each transition belongs to its set, (B,); None stands for 1.
    """

    inputs: Inputs
    actions: Tensor
    params_ref: Tensor
    sets: Sets
    labels: Tensor | None


class Tables(Protocol):
    """Data in the form that training reads, from which batches are drawn."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True, eq=False)
class ScoredTransitions:
    """
    N transitions on the device, encoded for the likelihood, with the reference's distribution at each state.

    :param observations: Normalised observations, as the network reads them, (N, …) or a dict of such tensors.
    :param action_masks: Flags of the allowed options, (N, n_options), for a policy that takes action masks.
    :param actions: Actions in the encoding that the likelihood scores, (N, A).
    :param params_ref: Parameters of the reference's distribution, (N, P).
    :param weights: Weights, (N,), or None.
    :param labels: Probability that each transition belongs to its set, (N,), or None.
    """

    observations: PyTorchObs
    action_masks: Tensor | None
    actions: Tensor
    params_ref: Tensor
    weights: Tensor | None
    labels: Tensor | None

    def at(self, rows: Tensor, sets: Sets) -> Batch:
        """
        Gather some rows as a batch.

        :param rows: Row numbers, (…, B). Every tensor of the batch gets these leading dimensions.
        :param sets: Set of each row. Its weights are replaced by those of these transitions.
        :return: The batch.
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
    All transitions of a :class:`~sb3_prefine.PreferenceBuffer`, those of the preferred set first.

    :param n_preferred: Number of transitions of the preferred set.
    """

    n_preferred: int

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        Draw one batch after another, with replacement and without end.

        :param batch_size: Number of transitions from each set. Those of the preferred set come first.
        :param generator: Random generator of the rows.
        """
        sets = preferred_first(batch_size, self.actions.device)
        for rows in draw_rows_forever(self._set_sizes, batch_size, generator):
            yield self.at(rows, sets)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """
        Draw the rows of the next 100 batches, with replacement.

        :param batch_size: Number of transitions from each set.
        :param generator: Random generator of the rows.
        :return: Row numbers, (100, 2 · batch_size), those of the preferred set first.
        """
        return draw_rows(self._set_sizes, batch_size, generator)

    @property
    def _set_sizes(self) -> tuple[int, int]:
        return self.n_preferred, len(self.actions) - self.n_preferred


def preferred_first(batch_size: int, device: torch.device) -> Sets:
    """
    Describe a batch with the same number of rows from both sets, those of the preferred set first, without weights.

    :param batch_size: Number of rows from each set.
    :param device: Device of the batch.
    :return: Set of each row.
    """
    return Sets(torch.arange(2 * batch_size, device=device) < batch_size)


def build_tables(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> TransitionTables:
    """
    Normalise, encode and score all data once, so that training never runs the reference's network again.

    :param preferences: The data.
    :param reference: The reference.
    :param likelihood: Likelihood of the policy.
    :param device: Device of the tables.
    :return: The tables.
    :raises ValueError: If an observation is not finite after normalisation, or if the policy takes action masks and
        the data have none.
    """
    builder = TableBuilder(preferences, reference, likelihood, device)
    n_preferred = preferences.preferred.n_transitions
    n = n_preferred + preferences.dispreferred.n_transitions
    tables = builder.empty_tables(n, n_preferred)
    builder.write(tables, 0, range(n))
    return tables


class TableBuilder:
    """
    Reads transitions of the data, normalises, encodes and scores them.

    Rows have the numbers 0 to N - 1, those of the preferred set first.

    :param preferences: The data.
    :param reference: The reference.
    :param likelihood: Likelihood of the policy.
    :param device: Device of the tables.
    :raises ValueError: If the policy takes action masks and the data have none.
    """

    def __init__(
        self, preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
    ) -> None:
        sets = (preferences.preferred, preferences.dispreferred)
        takes_masks = likelihood.needs == "masks"
        if takes_masks and any(trajectories.action_masks is None for trajectories in sets):
            raise ValueError(
                "preferences: they have no action_masks, and the policy takes them. Record the data with collect, or "
                "pass Trajectories(…, action_masks=…); np.ones if every action was allowed."
            )
        self._preferences = preferences
        self._reference = reference
        self._likelihood = likelihood
        self._policy = reference.trainable_copy().to(device)
        self._device = device
        parts = ("observations", "actions", *(["action_masks"] if takes_masks else []))
        # The columns of each set by their paths.
        self._columns = [flatten({part: getattr(trajectories, part) for part in parts}) for trajectories in sets]

    @torch.no_grad()
    def score(self, rows: np.ndarray) -> TransitionTables:
        """
        Read, normalise, encode and score some rows.

        :param rows: Row numbers, (B,), those of the preferred set first.
        :return: Tables of these rows.
        :raises ValueError: If an observation is not finite after normalisation.
        """
        rows_of_sets = self._split_by_set(rows)
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
        Score rows and write them into tables.

        :param tables: Tables to write into.
        :param place: First row of the tables to write.
        :param rows: Row numbers in the data.
        """
        for start in range(0, len(rows), STATES_PER_FORWARD_PASS):
            part = rows[start : start + STATES_PER_FORWARD_PASS]
            write_rows(tables, place + start, self.score(np.arange(part.start, part.stop)))

    def prefetch(self, rows: np.ndarray) -> None:
        """
        Ask the system to start reading rows from disk.

        :param rows: Row numbers, (B,), those of the preferred set first.
        """
        for columns, rows_of_set in zip(self._columns, self._split_by_set(rows), strict=True):
            for column in columns.values():
                prefetch(column, rows_of_set)

    def empty_tables(self, n: int, n_preferred: int) -> TransitionTables:
        """
        Allocate tables.

        :param n: Number of rows.
        :param n_preferred: Number of rows for the preferred set.
        :return: Tables without values.
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

    def _split_by_set(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split rows into those of each set, numbered within the set."""
        n_preferred = self._preferences.preferred.n_transitions
        return rows[rows < n_preferred], rows[rows >= n_preferred] - n_preferred


def write_rows(tables: TransitionTables, start: int, part: TransitionTables) -> None:
    """
    Copy all rows of one table into another.

    :param tables: Tables to write into.
    :param start: First row of the tables to write.
    :param part: The rows.
    """
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
    Join tables, so that one call gathers a batch from all of them.

    :param tables: Tables of likelihoods of the same kind.
    :return: All rows, one table after the other; and the tables again, as views of that memory.
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
        # If only some tables have weights or labels, those of the others are 1.
        return torch.cat([given.new_ones(n) if part is None else part for part, n in zip(parts, sizes, strict=True)])

    whole = {field.name: joined(field.name) for field in fields(ScoredTransitions)}
    starts = np.cumsum([0, *sizes[:-1]])

    def view_of(table: TransitionTables, start: int, size: int) -> TransitionTables:
        given = {name: column for name, column in whole.items() if getattr(table, name) is not None}
        rows = {name: map_arrays(lambda column: column[start : start + size], given[name]) for name in given}
        return replace(table, **rows)

    return ScoredTransitions(**whole), [view_of(*each) for each in zip(tables, starts.tolist(), sizes, strict=True)]


def normalized_observations(
    name: str, sets: Sequence[Trajectories], reference: Reference, policy: BasePolicy
) -> PyTorchObs:
    """
    Normalise the observations of several sets and join them, one set after the other.

    :param name: Name of the data in errors.
    :param sets: The sets.
    :param reference: The reference, with the normaliser.
    :param policy: The policy, whose device is used.
    :return: Observations as the network reads them.
    :raises ValueError: If an observation is not finite after normalisation.
    """
    parts: list[Any] = [trajectories.observations for trajectories in sets]
    if isinstance(parts[0], np.ndarray):
        return normalized(name, np.concatenate(parts), reference, policy)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return normalized(name, joined, reference, policy)


def normalized(name: str, raw: Any, reference: Reference, policy: BasePolicy) -> PyTorchObs:
    """
    Normalise raw observations.

    :param name: Name of the data in errors.
    :param raw: Raw observations, (N, …) or a dict of such arrays.
    :param reference: The reference, with the normaliser.
    :param policy: The policy, whose device is used.
    :return: Observations as the network reads them.
    :raises ValueError: If an observation is not finite after normalisation.
    """
    observations = policy.obs_to_tensor(reference.normalize(raw))[0]
    for part in observations.values() if isinstance(observations, dict) else [observations]:
        if part.is_floating_point() and not torch.isfinite(part).all():
            raise ValueError(f"{name}: some observations are not finite once normalised. Is it the right normaliser?")
    return observations


def inputs_at(observations: PyTorchObs, action_masks: Tensor | None, rows: Tensor) -> Inputs:
    """
    Gather the likelihood's inputs of some rows.

    :param observations: Normalised observations, (N, …) or a dict of such tensors.
    :param action_masks: Flags of the allowed options, (N, n_options), or None.
    :param rows: Row numbers, (…, B).
    :return: The inputs, (…, B, …).
    """
    chosen = map_arrays(lambda part: _at(part, rows), observations)
    return chosen if action_masks is None else MaskedInputs(chosen, _at(action_masks, rows))


def on_device(values: np.ndarray | None, device: torch.device) -> Tensor | None:
    """Copy an array to the device, unless it is None."""
    return None if values is None else torch.as_tensor(values, device=device)


def _at(column: Tensor, rows: Tensor) -> Tensor:
    # This takes a third of the time of ``column[rows]`` on the CPU.
    if rows.dim() == 1:
        return column.index_select(0, rows)
    return column.index_select(0, rows.flatten()).unflatten(0, rows.shape)
