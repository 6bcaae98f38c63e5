"""A cost for any environment that reports its speed."""

import math
from typing import Any, SupportsFloat

import gymnasium


class SpeedLimit(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """
    Adds ``info["cost"]``: 1.0 for a step above the speed limit, otherwise 0.0.

    ``SpeedLimit(gymnasium.make("Ant-v5"), 2.6)`` is enough to measure the safety of a policy for one of gymnasium's
    MuJoCo robots. The reward does not change. A NaN speed counts as too fast.

    :param env: Environment whose ``info`` holds the speed at each step.
    :param limit: Speed limit, in the unit of that speed (m/s for MuJoCo).
    :param speed_key: Key of the speed in ``info``.
    :raises ValueError: If the limit is not finite; in a step, if ``info`` has no such key, or has a cost already.
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
                "env: info has a 'cost' already, which SpeedLimit would hide. Use the environment without SpeedLimit."
            )
        info["cost"] = 0.0 if info[self.speed_key] <= self.limit else 1.0
        return observation, reward, terminated, truncated, info
