"""A cost for any environment that tells its speed."""

import math
from typing import Any, SupportsFloat

import gymnasium


class SpeedLimit(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """
    Adds ``info["cost"]``: 1.0 for a step faster than the limit, else 0.0.

    ``SpeedLimit(gymnasium.make("Ant-v5"), 2.6)`` is all that is needed to measure the safety of a policy for one of
    gymnasium's MuJoCo robots. The reward stays as it is. A speed that is not a number counts as too fast.

    :param env: an environment whose ``info`` has the speed at every step
    :param limit: in the unit of that speed, for MuJoCo m/s
    :param speed_key: where in ``info`` the speed is
    :raises ValueError: if the limit is not finite; at a step, if ``info`` has no such key or has a cost already
    """

    def __init__(self, env: gymnasium.Env, limit: float, speed_key: str = "x_velocity"):
        gymnasium.utils.RecordConstructorArgs.__init__(self, limit=limit, speed_key=speed_key)
        super().__init__(env)
        if not math.isfinite(limit):
            raise ValueError(f"limit: expected a finite speed, found {limit}.")
        self.limit = limit
        self.speed_key = speed_key

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and add the cost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.speed_key not in info:
            raise ValueError(
                f"speed_key: info has no {self.speed_key!r}, only {sorted(info)}. Name the key that holds the speed."
            )
        if "cost" in info:
            raise ValueError(
                "env: info has a 'cost' already, which SpeedLimit would hide. Take the environment without SpeedLimit."
            )
        info["cost"] = 0.0 if info[self.speed_key] <= self.limit else 1.0
        return observation, reward, terminated, truncated, info
