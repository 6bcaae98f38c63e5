"""
Safety-Gymnasium 1.0.0 and Bullet-Safety-Gym 1.4.0 on current gymnasium.

Importing this module registers every environment of the catalogue with gymnasium: steps return the usual five values,
``info["cost"]`` is the cost (a float), and ``reset(seed=...)`` is honoured. It imports neither of the two packages.
``gymnasium.make`` imports them, and its error says what to install if one is missing.

Both packages register some of the same ids for their own classes. In any order of imports, an id of the catalogue
stands for the environment made here.
"""

import gymnasium

from sb3_prefine.envs.catalogue import CATALOGUE, EnvInfo
from sb3_prefine.envs.compat import watch_imports

__all__ = ["CATALOGUE", "EnvInfo", "env_ids"]


def env_ids() -> tuple[str, ...]:
    """The ids that this import has registered, in the order of the catalogue."""
    return tuple(info.id for info in CATALOGUE)


def _register() -> None:
    for info in CATALOGUE:
        # gymnasium would warn about a replaced id. Here the replacement is intended.
        gymnasium.registry.pop(info.id, None)
        gymnasium.register(
            info.id,
            entry_point=info.entry_point,
            max_episode_steps=info.max_episode_steps,
            kwargs=info.kwargs,
            additional_wrappers=info.wrappers,
        )


_register()
watch_imports(env_ids())
