"""The command ``sb3-prefine``."""

from sb3_prefine.cli.main import main

__all__ = ["main"]
