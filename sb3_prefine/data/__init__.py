"""Episodes in columns, and the two sets that PREFINE learns from."""

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories

__all__ = ["PreferenceBuffer", "Trajectories"]
