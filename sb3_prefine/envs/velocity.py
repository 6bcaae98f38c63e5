"""
The velocity tasks of Safety-Gymnasium: gymnasium's MuJoCo robots (v4), with a cost of 1 for each step above a speed.

Ji et al., *Safety-Gymnasium: A Unified Safe Reinforcement Learning Benchmark*, NeurIPS 2023. The threshold of version
1 in m/s: Ant 2.6222, HalfCheetah 3.2096, Hopper 0.7402, Humanoid 1.4149, Swimmer 0.2282, Walker2d 2.3415. The speed is
the one along x, or in the plane for Ant and Humanoid. Version 0 has other thresholds, and uses the plane for Swimmer
too.
"""

import importlib
from typing import Any

import gymnasium
import numpy as np

from sb3_prefine.envs.compat import require

require("safety-gymnasium")

from sb3_prefine.envs.quiet import without_deprecations  # noqa: E402 (its imports need the package that require found)


class _CostInInfo(gymnasium.utils.EzPickle):
    """Mixin for a class with Safety-Gymnasium's six-value steps: moves the cost into ``info``."""

    def __init__(self, **kwargs: Any):
        with without_deprecations():
            super().__init__(**kwargs)
        # The robots store their arguments by position, and the package's classes take them by name only.
        gymnasium.utils.EzPickle.__init__(self, **kwargs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, cost, terminated, truncated, info = super().step(action)  # type: ignore[misc]
        info["cost"] = float(cost)
        return observation, float(reward), bool(terminated), truncated, info


_ROBOTS = ("ant", "half_cheetah", "hopper", "humanoid", "swimmer", "walker2d")
# Name of a class here -> module that defines its original.
_MODULES = {
    f"Safety{''.join(part.capitalize() for part in robot.split('_'))}VelocityV{version}": (
        f"safety_gymnasium.tasks.safe_velocity.safety_{robot}_velocity_v{version}"
    )
    for robot in _ROBOTS
    for version in (0, 1)
}


def __getattr__(name: str) -> type[gymnasium.Env]:
    """
    Create the environment class of one robot and version on first access, for instance ``SafetyAntVelocityV1``.

    gymnasium's entry points and pickle find it as an attribute of this module.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    original = getattr(importlib.import_module(_MODULES[name]), f"{name[:-2]}Env")
    return globals().setdefault(name, type(name, (_CostInInfo, original), {"__module__": __name__}))
