"""The paper's choice of preferred and dispreferred episodes, by cost and return."""

from typing import Literal, get_args

import numpy as np

from sb3_prefine.data.trajectories import Trajectories

Unsafe = Literal["over_limit", "top_cost"]


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
        raise TypeError(f"trajectories: expected Trajectories, got {type(trajectories).__name__}.")
    counts = {
        "n_preferred": n_preferred,
        "n_dispreferred": n_dispreferred,
        "n_strata": n_strata,
        "dispreferred_pool": dispreferred_pool,
    }
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count}: give a whole number of at least 1.")
    if n_dispreferred > dispreferred_pool:
        raise ValueError(
            f"n_dispreferred={n_dispreferred}: more than dispreferred_pool={dispreferred_pool}, which they are drawn "
            "from. Raise dispreferred_pool."
        )
    if unsafe not in get_args(Unsafe):
        raise ValueError(f"unsafe={unsafe!r}: give one of {', '.join(map(repr, get_args(Unsafe)))}.")
    if not cost_limit >= 0:  # NaN, too
        raise ValueError(f"cost_limit={cost_limit}: give a sum of costs, 0 or more.")
    unknown = np.flatnonzero(np.isnan(trajectories.episode_costs))
    if len(unknown):
        raise ValueError(
            f"trajectories: the cost of {len(unknown)} of {len(trajectories)} episodes is unknown (first: episode "
            f"{unknown[0]}). Leave them out: trajectories[~np.isnan(trajectories.episode_costs)]."
        )


def _better_half_of_safe(returns: np.ndarray, costs: np.ndarray, cost_limit: float) -> np.ndarray:
    """The better half by return of the episodes below the limit; best first, ties by number."""
    safe = np.flatnonzero(costs < cost_limit)
    if not len(safe):
        raise ValueError(
            f"cost_limit={cost_limit:g}: none of the {len(costs)} episodes costs less; they cost {costs.min():g} to "
            f"{costs.max():g}. Raise cost_limit, or add safer episodes."
        )
    return safe[np.argsort(-returns[safe], kind="stable")][: (len(safe) + 1) // 2]


def _draw_from_strata(ranked: np.ndarray, n: int, n_strata: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` of the episodes, as equal a number as possible from each of ``n_strata`` slices of the ranking."""
    n = min(n, len(ranked))
    n_strata = min(n_strata, n)
    # np.array_split makes the first strata one longer, and the first quotas are one larger: a quota always fits.
    strata = np.array_split(ranked, n_strata)
    quotas = [len(quota) for quota in np.array_split(np.arange(n), n_strata)]
    drawn = [rng.choice(stratum, quota, replace=False) for stratum, quota in zip(strata, quotas, strict=True)]
    return np.sort(np.concatenate(drawn))


def _costliest(costs: np.ndarray, cost_limit: float, preferred: np.ndarray, n: int, unsafe: Unsafe) -> np.ndarray:
    """The ``n`` costliest of the episodes that may be dispreferred; ties by number."""
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
            f"cost_limit={cost_limit:g}: none of the {len(costs)} episodes, which cost {costs.min():g} to "
            f"{costs.max():g}, can be dispreferred (unsafe={unsafe!r}). {advice}"
        )
    return candidates[np.argsort(-costs[candidates], kind="stable")][:n]
