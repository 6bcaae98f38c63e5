"""Make a policy you already trained safe: PREFINE for Stable-Baselines3."""

from sb3_prefine.collect import collect
from sb3_prefine.evaluation import Evaluation, evaluate_policy
from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference import Reference, load_reference
from sb3_prefine.trajectories import Trajectories

__version__ = "0.1.0"

__all__ = [
    "PREFINE",
    "Evaluation",
    "PreferenceBuffer",
    "Reference",
    "Trajectories",
    "collect",
    "evaluate_policy",
    "load_reference",
]
