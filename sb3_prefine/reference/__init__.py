"""Open a pretrained policy from anywhere, without running its code."""

from sb3_prefine.reference.load import Source, load_reference
from sb3_prefine.reference.reference import Reference

__all__ = ["Reference", "Source", "load_reference"]
