"""
Safety-Gymnasium 1.0.0 and Bullet-Safety-Gym 1.4.0 on current gymnasium.

Importing this module registers every environment of the catalogue with gymnasium: steps return the usual five values,
the cost is ``info["cost"]`` (a float), ``reset(seed=...)`` is honoured. It imports neither of the two packages;
``gymnasium.make`` does, and says what to install where one is missing.

Both packages register some of the same ids for classes of their own. Whatever is imported first, an id of the
catalogue means the environment made here.
"""

import gymnasium

from sb3_prefine.envs.catalogue import CATALOGUE, EnvInfo
from sb3_prefine.envs.compat import watch_imports

__all__ = ["CATALOGUE", "EnvInfo", "env_ids"]


def env_ids() -> tuple[str, ...]:
    """The ids that ``gymnasium.make`` takes after this import, in the catalogue's order."""
    return tuple(info.id for info in CATALOGUE)


def _register() -> None:
    for info in CATALOGUE:
        # gymnasium warns where an id is taken. Here it is meant.
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
