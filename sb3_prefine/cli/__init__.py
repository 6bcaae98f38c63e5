"""
The command ``sb3-prefine``: each command is a function in a module of its own.

``--help`` must not wait for torch, gymnasium, h5py, matplotlib or rich. The modules that it needs (``main``,
``options``, ``outputs`` and those of the commands) therefore do not import them at the top. The function of a command
imports what it runs with in one block, after the checks that need no such import. The modules that only these blocks
import (``inputs``, ``evaluated_training``, ``describe_checkpoint`` and ``describe_data``) have all imports at the top.
"""

from sb3_prefine.cli.main import main

__all__ = ["main"]
