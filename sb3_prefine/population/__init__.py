"""Many PREFINE runs as one computation."""

from sb3_prefine.population.population import Population

__all__ = ["Population"]
