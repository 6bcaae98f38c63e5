"""The two sets of episodes that PREFINE learns from."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from sb3_prefine.data.selection import Unsafe, select_by_cost
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories, check_same_layout
from sb3_prefine.utils.validation import require

# What may be given for each episode of a set.
_PER_EPISODE = ("ids", "weights", "labels")


@dataclass(frozen=True, eq=False)
class PreferenceBuffer:
    """
    The preferred episodes D_p and the dispreferred episodes D_np (paper, section 3).

    :param preferred: Episodes to imitate (safe ones).
    :param dispreferred: Episodes to avoid (unsafe ones), with the same observations and actions.
    :param preferred_ids: (n_preferred,), the indices of the preferred episodes in the set that :meth:`from_costs` chose
        them from.
    :param dispreferred_ids: (n_dispreferred,), the same for the dispreferred episodes.
    :param preferred_weights: (n_preferred,), not negative: the weight of each episode's transitions in the mean over
        their set. None means 1 for each.
    :param dispreferred_weights: (n_dispreferred,), the same for the dispreferred episodes.
    :param preferred_labels: (n_preferred,), in [0, 1]: the probability that the episode belongs in this set, for
        uncertain judgements (soft labels; 0.5 is a tie). Labels act on the preference term, not on the supervised one:
        lower the weight of an episode that should not be imitated. None means 1 for each.
    :param dispreferred_labels: (n_dispreferred,), the same for the dispreferred episodes.
    :raises TypeError: If a set is not ``Trajectories``.
    :raises ValueError: If the sets differ in the shape or dtype of observations or actions; if there is not one id,
        weight or label for each episode; or if one is out of range.
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
                    f"{name}: expected Trajectories, found {type(episodes).__name__}. Read a file with "
                    "Trajectories.from_hdf5(path), roll out a policy with collect(), or build one from arrays."
                )
            for what in _PER_EPISODE:
                values = getattr(self, f"{name}_{what}")
                if values is not None:
                    array = _per_episode_array(f"{name}_{what}", values, len(episodes))
                    object.__setattr__(self, f"{name}_{what}", array)
        check_same_layout("dispreferred", self.dispreferred, "preferred", self.preferred)

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

        Preferred: the better half by return (rounded up) of the episodes with cost < ``cost_limit``, sorted by return
        and cut into ``n_strata`` strata of equal size. The same number of episodes is drawn from each stratum, without
        replacement. If ``n_preferred`` or the half is not divisible by ``n_strata``, the strata with the highest
        returns have one more each. If ``n_preferred`` is below ``n_strata``, there are ``n_preferred`` strata. If the
        half has no more than ``n_preferred`` episodes, all are taken, with a warning if it has fewer.

        Dispreferred: ``n_dispreferred`` episodes, drawn without replacement from the ``dispreferred_pool`` costliest
        episodes with cost >= ``cost_limit``. If the pool has fewer, all are taken, with a warning. The paper says "the
        bottom 100 sorted by cost"; its Table 2 shows that these are the costliest.

        In a tie, the first episode of ``trajectories`` wins. No episode is in both sets. The two sets draw from
        separate random streams of ``seed``: another ``n_preferred`` does not change the dispreferred set (with
        ``unsafe="over_limit"``).

        :param trajectories: Episodes of known cost.
        :param cost_limit: The threshold τ on an episode's sum of costs. It is not the limit of the evaluation, κ.
        :param n_preferred: Number of preferred episodes, N_p in the paper.
        :param n_dispreferred: Number of dispreferred episodes, N_np in the paper.
        :param seed: Seed of the draws.
        :param n_strata: Number of return quantiles from which the preferred episodes are drawn.
        :param dispreferred_pool: Number of costliest episodes from which the dispreferred ones are drawn.
        :param unsafe: The source of the dispreferred episodes: ``"over_limit"``, those that cost ``cost_limit`` or
            more; ``"top_cost"``, all that were not chosen as preferred, for data in which no episode exceeds the limit
            (CarRun in DSRL). In both cases the pool contains the costliest of them.
        :return: The two sets, with the indices of their episodes.
        :raises TypeError: If ``trajectories`` is not ``Trajectories``.
        :raises ValueError: If an argument is out of range, an episode's cost is unknown, or no episode is safe or
            unsafe.
        """
        preferred, dispreferred = select_by_cost(
            trajectories, cost_limit, n_preferred, n_dispreferred, seed, n_strata, dispreferred_pool, unsafe
        )
        return cls(trajectories[preferred], trajectories[dispreferred], preferred, dispreferred)

    def split(self, fraction: float, seed: int = 0) -> tuple["PreferenceBuffer", "PreferenceBuffer"]:
        """
        Hold out whole episodes of both sets, for example to choose β and λ on them.

        :param fraction: Fraction of each set to hold out, above 0 and below 1. The number of episodes is rounded, with
            halves rounded up.
        :param seed: Seed of the draws.
        :return: The training part and the held-out part, each in the order of this buffer.
        :raises ValueError: If ``fraction`` is out of range, or a set would be empty in one of the parts.
        """
        require(0 < fraction < 1, "fraction", fraction, "the fraction to hold out, above 0 and below 1")
        preferred_rng, dispreferred_rng = np.random.default_rng(seed).spawn(2)
        preferred = _draw_held_out("preferred", len(self.preferred), fraction, preferred_rng)
        dispreferred = _draw_held_out("dispreferred", len(self.dispreferred), fraction, dispreferred_rng)
        return self._select(~preferred, ~dispreferred), self._select(preferred, dispreferred)

    def check_spaces(
        self, observation_space: spaces.Space, action_space: spaces.Space, takes_action_masks: bool = True
    ) -> None:
        """
        Check that a policy with these spaces can be trained on the data.

        :param observation_space: The observation space of the policy, behind all wrappers.
        :param action_space: The action space of the policy.
        :param takes_action_masks: Whether the policy uses the data's action masks.
        :raises TypeError: If a space is not Box, Discrete, MultiDiscrete or MultiBinary (or a Dict of these, for
            observations).
        :raises ValueError: If shapes differ, Box actions exceed their bounds by more than 1e-6, integers are not in the
            space, a mask forbids the action that was taken, or the policy does not use the data's masks.
        """
        for name, episodes in self._sets():
            check_against_spaces(name, episodes, observation_space, action_space, takes_action_masks)

    def per_transition(self, what: Literal["weights", "labels"], rows: np.ndarray | None = None) -> np.ndarray | None:
        """
        Expand the weights or labels of the episodes to their transitions.

        :param what: ``"weights"`` or ``"labels"``.
        :param rows: (N,), the indices of the transitions, those of the preferred set first. None means all.
        :return: (N,), float32. None if neither set has them.
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

    def _select(self, preferred: np.ndarray, dispreferred: np.ndarray) -> "PreferenceBuffer":
        """Select episodes of both sets by boolean masks."""
        given = {
            f"{name}_{what}": None if (values := getattr(self, f"{name}_{what}")) is None else values[mask]
            for name, mask in (("preferred", preferred), ("dispreferred", dispreferred))
            for what in _PER_EPISODE
        }
        return PreferenceBuffer(self.preferred[preferred], self.dispreferred[dispreferred], **given)


def _per_episode_array(name: str, values: Any, n_episodes: int) -> np.ndarray:
    """Check ids, weights or labels, and return a read-only copy."""
    try:
        values = np.array(values)
    except ValueError as error:
        raise ValueError(f"{name}: not one array ({error}). Give one value for each episode.") from error
    if values.shape != (n_episodes,):
        raise ValueError(f"{name}: shape {values.shape} for {n_episodes} episodes. Give one value for each.")
    if not name.endswith("_ids"):
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{name}: the dtype is {values.dtype}. Give an array of numbers.")
        values = values.astype(np.float64)
        highest = 1.0 if name.endswith("_labels") else np.inf
        wrong = np.flatnonzero(~((values >= 0) & (values <= highest) & np.isfinite(values)))
        if len(wrong):
            expected = "a probability in [0, 1]" if name.endswith("_labels") else "a finite number of 0 or more"
            raise ValueError(f"{name}: {values[wrong[0]]:g} for episode {wrong[0]}. Give {expected} for each.")
        if not values.any() and name.endswith("_weights"):
            raise ValueError(f"{name}: all are 0, so the set would have no effect. Give at least one above 0.")
    values.flags.writeable = False
    return values


def _draw_held_out(name: str, n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the episodes to hold out: (n,), bool."""
    n_held_out = int(fraction * n + 0.5)
    if not 0 < n_held_out < n:
        raise ValueError(
            f"fraction: {fraction} would hold out {n_held_out} of the {n} {name} episodes, and each part needs at "
            "least one. Choose another fraction, or add episodes."
        )
    return np.isin(np.arange(n), rng.permutation(n)[:n_held_out])
