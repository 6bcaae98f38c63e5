"""Algorithms to compare PREFINE with, each with ``learn``, ``predict``, ``save``, ``load`` and ``export``."""

from sb3_prefine.baselines.bc import BC
from sb3_prefine.baselines.cpl import CPL
from sb3_prefine.baselines.cpq import CPQ
from sb3_prefine.baselines.ppl import PPL
from sb3_prefine.baselines.safedice import SafeDICE

__all__ = ["BC", "CPL", "CPQ", "PPL", "SafeDICE"]
