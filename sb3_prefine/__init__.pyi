from .data import PreferenceBuffer as PreferenceBuffer
from .data import Trajectories as Trajectories
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate_policy as evaluate_policy
from .prefine import PREFINE as PREFINE
from .reference import Reference as Reference
from .reference import load_reference as load_reference
from .rollout import collect as collect

__version__: str
