"""What training reads: the states and actions of the data, and the reference's distribution at each state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
class Tables:
    """
    N transitions, those of the preferred set first.

    :param observations: normalised, as the network sees them, (N, …) or a dict of such tensors
    :param action_masks: (N, n_options), bool, for a policy that takes them
    :param actions: encoded, as the likelihood scores them, (N, A)
    :param params_ref: parameters of the reference's distribution, (N, P)
    :param weights: (N,), or None
    :param labels: (N,), or None
    :param n_preferred: how many rows come from D_p
    """

    observations: Observations
    action_masks: Tensor | None
    actions: Tensor
    params_ref: Tensor
    weights: Tensor | None
    labels: Tensor | None
    n_preferred: int

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """
        One batch after another, without end, drawn with replacement.

        :param batch_size: rows of each set; those of the preferred set come first
        """
        n, device = len(self.actions), self.actions.device
        is_preferred = torch.arange(2 * batch_size, device=device) < batch_size
        while True:
            size = (BLOCK, batch_size)
            preferred = torch.randint(0, self.n_preferred, size, generator=generator, device=device)
            dispreferred = torch.randint(self.n_preferred, n, size, generator=generator, device=device)
            for rows in torch.cat((preferred, dispreferred), dim=1):
                yield Batch(
                    inputs=inputs_at(self.observations, self.action_masks, rows),
                    actions=self.actions[rows],
                    params_ref=self.params_ref[rows],
                    is_preferred=is_preferred,
                    weights=None if self.weights is None else self.weights[rows],
                    labels=None if self.labels is None else self.labels[rows],
                )


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
    chosen = map_arrays(lambda part: part[rows], observations)
    return chosen if action_masks is None else Masked(chosen, action_masks[rows])


def on_device(values: np.ndarray | None, device: torch.device) -> Tensor | None:
    """A tensor of the values, if there are any."""
    return None if values is None else torch.as_tensor(values, device=device)
