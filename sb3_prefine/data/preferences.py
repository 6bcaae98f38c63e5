"""Preferences: the two sets of episodes that PREFINE learns from, and how to choose them by cost."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from sb3_prefine.data.selection import Unsafe, _better_half_of_safe, _check_arguments, _costliest, _draw_from_strata
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories, check_same_layout


@dataclass(frozen=True, eq=False)
class PreferenceBuffer:
    """
    The preferred episodes D_p and the dispreferred episodes D_np (paper, section 3).

    :param preferred: episodes to do more like (safe ones)
    :param dispreferred: episodes to do less like (unsafe ones), of the same observations and actions
    :param preferred_ids: (n_preferred,), the preferred episodes' numbers in the set that they were chosen from, if
        they were chosen by :meth:`from_costs`
    :param dispreferred_ids: (n_dispreferred,), the same for the dispreferred episodes
    :param preferred_weights: (n_preferred,), not negative: how much the transitions of each episode count in the mean
        over their set; None is 1 for each
    :param dispreferred_weights: (n_dispreferred,), the same for the dispreferred episodes
    :param preferred_labels: (n_preferred,), in [0, 1]: the probability that the episode belongs into this set, for
        judgements that are not certain (soft labels; 0.5 is a tie). It acts on the preference term, not on the
        supervised one: lower the weight of an episode that should not be imitated. None is 1 for each
    :param dispreferred_labels: (n_dispreferred,), the same for the dispreferred episodes
    :raises TypeError: if one of the sets is something else than ``Trajectories``
    :raises ValueError: if the sets differ in the shape or dtype of observations or actions, or there is not one id,
        weight or label for each episode, or one is out of its range
    """

    preferred: Trajectories
    dispreferred: Trajectories
    preferred_ids: np.ndarray | None = field(default=None, repr=False)
    dispreferred_ids: np.ndarray | None = field(default=None, repr=False)
    preferred_weights: np.ndarray | None = field(default=None, repr=False)
    dispreferred_weights: np.ndarray | None = field(default=None, repr=False)
    preferred_labels: np.ndarray | None = field(default=None, repr=False)
    dispreferred_labels: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, episodes in self._sets():
            if not isinstance(episodes, Trajectories):
                raise TypeError(
                    f"{name}: expected Trajectories, got {type(episodes).__name__}. Read a file with "
                    "Trajectories.from_hdf5(path), roll out a policy with collect(), or build one from arrays."
                )
            for what in _PER_EPISODE:
                values = getattr(self, f"{name}_{what}")
                if values is not None:
                    object.__setattr__(self, f"{name}_{what}", _one_for_each(f"{name}_{what}", values, len(episodes)))
        check_same_layout("preferred", self.preferred, "dispreferred", self.dispreferred)

    @classmethod
    def from_costs(
        cls,
        trajectories: Trajectories,
        cost_limit: float,
        n_preferred: int = 100,
        n_dispreferred: int = 20,
        seed: int = 0,
        *,
        n_strata: int = 10,
        dispreferred_pool: int = 100,
        unsafe: Unsafe = "over_limit",
    ) -> "PreferenceBuffer":
        """
        Choose both sets by episode cost and return, as the paper does ("Dataset construction", section 5.1).

        Preferred: of the episodes with cost < ``cost_limit``, the better half by return (rounded up), sorted by
        return and cut into ``n_strata`` strata of equal size. Each stratum gives the same number of episodes, drawn
        without replacement. Where ``n_preferred`` or the half is not divisible by ``n_strata``, the strata of the
        highest returns have one more each. If ``n_preferred`` is below ``n_strata`` there are ``n_preferred`` strata.
        If the half holds no more than ``n_preferred`` episodes, all of it is taken, with a warning if it holds fewer.

        Dispreferred: of the episodes with cost >= ``cost_limit``, the ``dispreferred_pool`` costliest, of which
        ``n_dispreferred`` are drawn without replacement; all of the pool, with a warning, if it holds fewer. The
        paper says "the bottom 100 sorted by cost"; its Table 2 shows that these are the costliest.

        Ties go to the episode that comes first in ``trajectories``. No episode is in both sets. The two sets draw
        from separate random streams of ``seed``: another ``n_preferred`` leaves the dispreferred set as it is
        (with ``unsafe="over_limit"``).

        :param trajectories: episodes of known cost
        :param cost_limit: the threshold τ on the sum of costs of an episode; not the limit of the evaluation, κ
        :param n_preferred: the paper's N_p
        :param n_dispreferred: the paper's N_np
        :param seed: the same seed chooses the same episodes
        :param n_strata: the number of return quantiles to draw the preferred episodes from
        :param dispreferred_pool: how many of the costliest episodes to draw the dispreferred ones from
        :param unsafe: where the dispreferred episodes come from: ``"over_limit"``, those that cost ``cost_limit`` or
            more; ``"top_cost"``, all that were not chosen as preferred, for data in which no episode breaks the
            limit (CarRun in DSRL). The pool is the costliest of them in both cases
        :raises TypeError: if ``trajectories`` is something else than ``Trajectories``
        :raises ValueError: if an argument is out of range, an episode's cost is unknown, or no episode is safe or
            unsafe
        """
        _check_arguments(trajectories, cost_limit, n_preferred, n_dispreferred, n_strata, dispreferred_pool, unsafe)
        returns, costs = trajectories.episode_returns, trajectories.episode_costs
        preferred_rng, dispreferred_rng = np.random.default_rng(seed).spawn(2)
        better_half = _better_half_of_safe(returns, costs, cost_limit)
        preferred = _draw_from_strata(better_half, n_preferred, n_strata, preferred_rng)
        pool = _costliest(costs, cost_limit, preferred, dispreferred_pool, unsafe)
        dispreferred = np.sort(dispreferred_rng.permutation(pool)[:n_dispreferred])

        if len(preferred) < n_preferred:
            warnings.warn(
                f"n_preferred={n_preferred}: only {len(preferred)} episodes are in the better half of those that cost "
                f"less than {cost_limit:g}; all of them are taken.",
                stacklevel=2,
            )
        if len(dispreferred) < n_dispreferred:
            warnings.warn(
                f"n_dispreferred={n_dispreferred}: only {len(dispreferred)} episodes can be dispreferred "
                f"(unsafe={unsafe!r}); all of them are taken.",
                stacklevel=2,
            )
        mean_costs = costs[preferred].mean(), costs[dispreferred].mean()
        if mean_costs[1] <= mean_costs[0]:  # only possible with "top_cost"
            warnings.warn(
                f"unsafe={unsafe!r}: the dispreferred episodes cost no more (mean {mean_costs[1]:g}) than the "
                f"preferred ones (mean {mean_costs[0]:g}), so they do not show what is unsafe. Lower cost_limit.",
                stacklevel=2,
            )
        return cls(trajectories[preferred], trajectories[dispreferred], preferred, dispreferred)

    def split(self, fraction: float, seed: int = 0) -> tuple["PreferenceBuffer", "PreferenceBuffer"]:
        """
        Hold out whole episodes of both sets, for example to choose β and λ on.

        :param fraction: the part of each set to hold out, between 0 and 1; rounded to whole episodes, halves up
        :param seed: the same seed holds out the same episodes
        :return: what to train on, and what is held out; each in the order of this buffer
        :raises ValueError: if ``fraction`` is out of range, or a set would be empty on either side
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction}: give the part to hold out, above 0 and below 1.")
        preferred_rng, dispreferred_rng = np.random.default_rng(seed).spawn(2)
        preferred = _draw_held_out("preferred", len(self.preferred), fraction, preferred_rng)
        dispreferred = _draw_held_out("dispreferred", len(self.dispreferred), fraction, dispreferred_rng)
        return self._choose(~preferred, ~dispreferred), self._choose(preferred, dispreferred)

    def check_spaces(
        self, observation_space: spaces.Space, action_space: spaces.Space, takes_action_masks: bool = True
    ) -> None:
        """
        Refuse data that do not fit a policy, before it trains on them.

        :param observation_space: the policy's own, behind all wrappers
        :param action_space: the policy's own
        :param takes_action_masks: whether the policy would read the data's action masks
        :raises TypeError: for spaces other than Box, Discrete, MultiDiscrete and MultiBinary, and Dict of them for
            observations
        :raises ValueError: if shapes differ, Box actions are out of bounds by more than 1e-6, integers are not of the
            space, an action was taken that its mask forbids, or there are masks that the policy would not read
        """
        for name, episodes in self._sets():
            check_against_spaces(name, episodes, observation_space, action_space, takes_action_masks)

    def per_transition(self, what: Literal["weights", "labels"], rows: np.ndarray | None = None) -> np.ndarray | None:
        """
        The episodes' weights or labels, for each of their transitions.

        :param rows: (N,), the transitions' numbers, those of the preferred set first; None: all
        :return: (N,), float32; None if no set has them
        """
        given = [getattr(self, f"{name}_{what}") for name, _ in self._sets()]
        if all(values is None for values in given):
            return None
        each = [
            np.ones(len(episodes)) if values is None else values
            for (_, episodes), values in zip(self._sets(), given, strict=True)
        ]
        starts = [self.preferred.episode_starts, self.preferred.n_transitions + self.dispreferred.episode_starts]
        if rows is None:
            rows = np.arange(self.preferred.n_transitions + self.dispreferred.n_transitions)
        episodes = np.searchsorted(np.concatenate(starts), rows, side="right") - 1
        return np.concatenate(each)[episodes].astype(np.float32)

    def _sets(self) -> tuple[tuple[str, Trajectories], ...]:
        return ("preferred", self.preferred), ("dispreferred", self.dispreferred)

    def _choose(self, preferred: np.ndarray, dispreferred: np.ndarray) -> "PreferenceBuffer":
        """The episodes under two masks."""
        given = {
            f"{name}_{what}": None if (values := getattr(self, f"{name}_{what}")) is None else values[mask]
            for name, mask in (("preferred", preferred), ("dispreferred", dispreferred))
            for what in _PER_EPISODE
        }
        return PreferenceBuffer(self.preferred[preferred], self.dispreferred[dispreferred], **given)


# What may be given for each episode of a set.
_PER_EPISODE = ("ids", "weights", "labels")


def _one_for_each(name: str, values: Any, n_episodes: int) -> np.ndarray:
    """A read-only copy of ids, weights or labels."""
    try:
        values = np.array(values)
    except ValueError as error:
        raise ValueError(f"{name}: not one array ({error}). Give one for each episode.") from error
    if values.shape != (n_episodes,):
        raise ValueError(f"{name}: shape {values.shape} for {n_episodes} episodes. Give one for each.")
    if not name.endswith("_ids"):
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{name}: the dtype is {values.dtype}. Give an array of numbers.")
        values = values.astype(np.float64)
        highest = 1.0 if name.endswith("_labels") else np.inf
        wrong = np.flatnonzero(~((values >= 0) & (values <= highest) & np.isfinite(values)))
        if len(wrong):
            wanted = "a probability in [0, 1]" if name.endswith("_labels") else "a finite number of 0 or more"
            raise ValueError(f"{name}: {values[wrong[0]]:g} for episode {wrong[0]}. Give {wanted} for each.")
        if not values.any() and name.endswith("_weights"):
            raise ValueError(f"{name}: all are 0, so nothing of the set would count. Give at least one above 0.")
    values.flags.writeable = False
    return values


def _draw_held_out(name: str, n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(n,), bool: which of ``n`` episodes to hold out."""
    n_held_out = int(fraction * n + 0.5)
    if not 0 < n_held_out < n:
        raise ValueError(
            f"fraction={fraction}: would hold out {n_held_out} of the {n} {name} episodes. At least one has to be held "
            "out and one has to stay: choose another fraction, or add episodes."
        )
    return np.isin(np.arange(n), rng.permutation(n)[:n_held_out])
