"""
PREFINE inside RL Baselines3 Zoo: ``python -m sb3_prefine.zoo.train`` and ``python -m sb3_prefine.zoo.enjoy``.

Importing this package registers ``prefine`` with rl_zoo3, both as an algorithm and for Optuna's search, and the
``Safety*`` environments with gymnasium. RL Zoo needs these two commands because it checks ``--algo`` before it imports
the modules that ``--gym-packages`` names.
"""

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids)
from sb3_prefine.prefine import PREFINE

try:
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
except ModuleNotFoundError as error:
    raise ImportError(f'RL Zoo cannot be imported ({error}). Run: pip install "sb3-prefine[zoo]"') from error

from sb3_prefine.zoo.search import convert_prefine_params, sample_prefine_params

ALGOS["prefine"] = PREFINE
HYPERPARAMS_SAMPLER["prefine"] = sample_prefine_params
HYPERPARAMS_CONVERTER["prefine"] = convert_prefine_params
