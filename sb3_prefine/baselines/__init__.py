"""What PREFINE is compared with, each with its face: ``learn``, ``predict``, ``save``, ``load``, ``export``."""

from sb3_prefine.baselines.bc import BC

__all__ = ["BC"]
