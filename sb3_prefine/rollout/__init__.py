"""A policy acts, and whole episodes come out."""

from sb3_prefine.rollout.collect import collect
from sb3_prefine.rollout.generate import generate_episodes

__all__ = ["collect", "generate_episodes"]
