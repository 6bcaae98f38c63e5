from . import baselines as baselines
from . import callbacks as callbacks
from . import data as data
from . import dsrl as dsrl
from . import envs as envs
from . import evaluation as evaluation
from . import objective as objective
from . import policies as policies
from . import population as population
from . import prefine as prefine
from . import reference as reference
from . import rollout as rollout
from .data import PreferenceBuffer as PreferenceBuffer
from .data import Trajectories as Trajectories
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate_policy as evaluate_policy
from .prefine import PREFINE as PREFINE
from .reference import Reference as Reference
from .reference import load_reference as load_reference
from .rollout import collect as collect

__version__: str
