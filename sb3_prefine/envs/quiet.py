"""Loading gymnasium's robots without MuJoCo 4's word on each of them."""

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
def deprecations_left_out() -> Iterator[None]:
    """
    While it is entered, MuJoCo does not print, nor write into MUJOCO_LOG.TXT, what is deprecated in a robot's file.

    The files are gymnasium's and nobody here can mend them. Any other warning of MuJoCo becomes one of Python's.
    """
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_warn)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def make_half_cheetah(**kwargs: Any) -> gymnasium.Env:
    """
    gymnasium's HalfCheetah-v5.

    :param kwargs: its own arguments
    """
    with deprecations_left_out():
        return HalfCheetahEnv(**kwargs)


def _warn(message: str) -> None:
    if "is deprecated" not in message:
        warnings.warn(message, stacklevel=2)
