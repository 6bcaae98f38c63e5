"""Generalised state-dependent exploration (gSDE, Raffin et al. 2021), whose noise is drawn apart from the actions."""

from typing import Any

from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy


def renew_noise(policy: BasePolicy, n: int = 1) -> None:
    """
    Draw the noise of a policy with gSDE, from the standard deviation that it has now. Without gSDE nothing is drawn.

    gSDE's noise is a random linear map of the features, which SB3 keeps until it is told to draw another one: equal
    states have equal samples until then. The first is drawn where a policy is made, of an untrained standard deviation.

    :param policy: any of SB3's
    :param n: so many observations in a batch have a map of their own each
    """
    actor: Any = getattr(policy, "actor", policy)
    if isinstance(getattr(actor, "action_dist", None), StateDependentNoiseDistribution):
        policy.reset_noise(n)  # type: ignore[operator]
