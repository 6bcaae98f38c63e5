"""The paper's selection of preferred and dispreferred episodes, by cost and return."""

import warnings
from typing import Literal, get_args

import numpy as np

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.utils.validation import check_choice, check_count, require

Unsafe = Literal["over_limit", "top_cost"]


def select_by_cost(
    trajectories: Trajectories,
    cost_limit: float,
    n_preferred: int,
    n_dispreferred: int,
    seed: int,
    n_strata: int,
    dispreferred_pool: int,
    unsafe: Unsafe,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Select episodes as :meth:`~sb3_prefine.PreferenceBuffer.from_costs` describes, with the same parameters and errors.

    :return: (n_preferred,) and (n_dispreferred,), the indices of the episodes, each in ascending order.
    """
    _check_arguments(trajectories, cost_limit, n_preferred, n_dispreferred, n_strata, dispreferred_pool, unsafe)
    returns, costs = trajectories.episode_returns, known_costs(trajectories)
    preferred_rng, dispreferred_rng = np.random.default_rng(seed).spawn(2)
    ranked = _better_half_of_safe(returns, costs, cost_limit)
    preferred = _draw_from_strata(ranked, n_preferred, n_strata, preferred_rng)
    pool = _costliest(costs, cost_limit, preferred, dispreferred_pool, unsafe)
    dispreferred = np.sort(dispreferred_rng.permutation(pool)[:n_dispreferred])

    if len(preferred) < n_preferred:
        _warn(
            f"n_preferred={n_preferred}: only {len(preferred)} episodes are in the better half of those that cost less "
            f"than {cost_limit:g}; all of them are taken."
        )
    if len(dispreferred) < n_dispreferred:
        _warn(
            f"n_dispreferred={n_dispreferred}: only {len(dispreferred)} episodes can be dispreferred "
            f"(unsafe={unsafe!r}); all of them are taken."
        )
    mean_costs = costs[preferred].mean(), costs[dispreferred].mean()
    if mean_costs[1] <= mean_costs[0]:  # only possible with "top_cost"
        _warn(
            f"unsafe={unsafe!r}: the dispreferred episodes cost no more (mean {mean_costs[1]:g}) than the preferred "
            f"ones (mean {mean_costs[0]:g}), so they do not show what is unsafe. Lower cost_limit."
        )
    return preferred, dispreferred


def known_costs(trajectories: Trajectories) -> np.ndarray:
    """
    Return the episode costs, which must all be known.

    :param trajectories: The episodes.
    :return: (n_episodes,), float64.
    :raises ValueError: If the cost of an episode is unknown.
    """
    costs = trajectories.episode_costs
    unknown = np.flatnonzero(np.isnan(costs))
    if len(unknown):
        raise ValueError(
            f"trajectories: the cost of {len(unknown)} of {len(costs)} episodes is unknown (first: episode "
            f"{unknown[0]}). Leave them out: trajectories[~np.isnan(trajectories.episode_costs)]."
        )
    return costs


def _check_arguments(
    trajectories: Trajectories,
    cost_limit: float,
    n_preferred: int,
    n_dispreferred: int,
    n_strata: int,
    dispreferred_pool: int,
    unsafe: str,
) -> None:
    if not isinstance(trajectories, Trajectories):
        raise TypeError(f"trajectories: expected Trajectories, found {type(trajectories).__name__}.")
    check_count("n_preferred", n_preferred)
    check_count("n_dispreferred", n_dispreferred)
    check_count("n_strata", n_strata)
    check_count("dispreferred_pool", dispreferred_pool)
    if n_dispreferred > dispreferred_pool:
        raise ValueError(
            f"n_dispreferred: {n_dispreferred} cannot be drawn from dispreferred_pool={dispreferred_pool}. Raise "
            "dispreferred_pool."
        )
    check_choice("unsafe", unsafe, get_args(Unsafe))
    require(cost_limit >= 0, "cost_limit", cost_limit, "a sum of costs >= 0")  # refuses NaN, too


def _better_half_of_safe(returns: np.ndarray, costs: np.ndarray, cost_limit: float) -> np.ndarray:
    """Rank the episodes below the limit by return, best first, and return the better half (rounded up)."""
    safe = np.flatnonzero(costs < cost_limit)
    if not len(safe):
        raise ValueError(
            f"cost_limit: none of the {len(costs)} episodes costs less than {cost_limit:g}; they cost {costs.min():g} "
            f"to {costs.max():g}. Raise cost_limit, or add safer episodes."
        )
    return safe[np.argsort(-returns[safe], kind="stable")][: (len(safe) + 1) // 2]


def _draw_from_strata(ranked: np.ndarray, n: int, n_strata: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``n`` episodes, the same number (or one more) from each of ``n_strata`` slices of the ranking."""
    n = min(n, len(ranked))
    n_strata = min(n_strata, n)
    # np.array_split makes the first strata one longer, and the first quotas are one larger: a quota always fits.
    strata = np.array_split(ranked, n_strata)
    quotas = [len(quota) for quota in np.array_split(np.arange(n), n_strata)]
    drawn = [rng.choice(stratum, quota, replace=False) for stratum, quota in zip(strata, quotas, strict=True)]
    return np.sort(np.concatenate(drawn))


def _costliest(costs: np.ndarray, cost_limit: float, preferred: np.ndarray, n: int, unsafe: Unsafe) -> np.ndarray:
    """Return the ``n`` costliest of the episodes that may be dispreferred, costliest first."""
    if unsafe == "over_limit":
        candidates = np.flatnonzero(costs >= cost_limit)
        advice = (
            "Lower cost_limit, or pass unsafe='top_cost' to take the costliest of the episodes that were not chosen "
            "as preferred."
        )
    else:
        candidates = np.setdiff1d(np.arange(len(costs)), preferred)
        advice = "Every episode was chosen as preferred: add episodes."
    if not len(candidates):
        raise ValueError(
            f"cost_limit: with {cost_limit:g} and unsafe={unsafe!r}, none of the {len(costs)} episodes, which cost "
            f"{costs.min():g} to {costs.max():g}, can be dispreferred. {advice}"
        )
    return candidates[np.argsort(-costs[candidates], kind="stable")][:n]


def _warn(message: str) -> None:
    # Points to the caller of from_costs, which calls select_by_cost, which calls this.
    warnings.warn(message, stacklevel=4)
