"""Draw new noise for generalised state-dependent exploration (gSDE, Raffin et al. 2021)."""

from typing import Any

from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy


def renew_noise(policy: BasePolicy, n: int = 1) -> None:
    """
    Draw new gSDE noise from the policy's current standard deviation. A policy without gSDE draws nothing.

    The noise is a random linear map of the features. SB3 keeps it until ``reset_noise``, so equal states give equal
    samples, and draws the first one when it builds a policy, from the standard deviation of the untrained weights.

    :param policy: A policy of SB3 or sb3-contrib.
    :param n: Number of independent maps, one for each observation of a batch.
    """
    actor: Any = getattr(policy, "actor", policy)
    if isinstance(getattr(actor, "action_dist", None), StateDependentNoiseDistribution):
        policy.reset_noise(n)  # type: ignore[operator]
