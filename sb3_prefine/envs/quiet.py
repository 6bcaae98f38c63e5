"""Load gymnasium's robots without MuJoCo 4's deprecation messages."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium

try:
    import mujoco
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
except ImportError as error:
    raise ImportError(f'This environment needs MuJoCo ({error}). Run: pip install "sb3-prefine[demo]"') from error


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """
    Inside this context, MuJoCo neither prints nor logs (to MUJOCO_LOG.TXT) what is deprecated in a robot's file.

    The files belong to gymnasium, so users cannot change them. Other MuJoCo warnings become Python warnings.
    """
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_warn)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def make_half_cheetah(**kwargs: Any) -> gymnasium.Env:
    """
    Make gymnasium's HalfCheetah-v5.

    :param kwargs: Keyword arguments of ``HalfCheetahEnv``.
    """
    with without_deprecations():
        return HalfCheetahEnv(**kwargs)


def _warn(message: str) -> None:
    if "is deprecated" not in message:
        warnings.warn(message, stacklevel=2)
