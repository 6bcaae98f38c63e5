"""What training reads: the states and actions of the data, and the reference's distribution at each state."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sb3_prefine.likelihood import Likelihood
from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.reference import Reference

# Rows of the reference's forward pass while its table is made, and updates whose rows are drawn at once.
_CHUNK = 8192
_BLOCK = 100


@dataclass(frozen=True, eq=False)
class Tables:
    """
    N transitions, those of the preferred set first.

    :param observations: normalised, as the network sees them, (N, …)
    :param actions: encoded, as the likelihood scores them, (N, A)
    :param params_ref: parameters of the reference's distribution, (N, P)
    :param n_preferred: how many rows come from D_p
    """

    observations: Tensor
    actions: Tensor
    params_ref: Tensor
    n_preferred: int

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """
        Rows for one update after another, without end, drawn with replacement.

        :param batch_size: rows of each set
        :return: row numbers (2 · batch_size,), those of the preferred set first
        """
        n, device = len(self.actions), self.actions.device
        while True:
            size = (_BLOCK, batch_size)
            preferred = torch.randint(0, self.n_preferred, size, generator=generator, device=device)
            dispreferred = torch.randint(self.n_preferred, n, size, generator=generator, device=device)
            yield from torch.cat((preferred, dispreferred), dim=1)


@torch.no_grad()
def build_tables(
    preferences: PreferenceBuffer, reference: Reference, likelihood: Likelihood, device: torch.device
) -> Tables:
    """
    Normalise, encode and score the data once, so that training never runs the reference's network again.

    :raises ValueError: an observation is not finite after normalisation
    """
    sets = (preferences.preferred, preferences.dispreferred)
    normalized = reference.normalize(np.concatenate([trajectories.observations for trajectories in sets]))
    policy = reference.trainable_copy().to(device)
    observations = policy.obs_to_tensor(normalized)[0]
    assert isinstance(observations, Tensor)
    if observations.is_floating_point() and not torch.isfinite(observations).all():
        raise ValueError("preferences: some observations are not finite once normalised. Is it the right normaliser?")
    actions = torch.as_tensor(np.concatenate([trajectories.actions for trajectories in sets]), device=device)
    return Tables(
        observations=observations,
        actions=likelihood.encode(actions),
        params_ref=torch.cat([likelihood.params(policy, chunk) for chunk in observations.split(_CHUNK)]),
        n_preferred=preferences.preferred.n_transitions,
    )
