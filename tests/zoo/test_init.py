import importlib
import sys

import gymnasium
import pytest
from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

import sb3_prefine.zoo
from sb3_prefine import PREFINE
from sb3_prefine.zoo.search import convert_prefine_params, sample_prefine_params


def test_import_registers_algorithm_search_and_environments():
    assert ALGOS["prefine"] is PREFINE
    assert HYPERPARAMS_SAMPLER["prefine"] is sample_prefine_params
    assert HYPERPARAMS_CONVERTER["prefine"] is convert_prefine_params
    assert "SafetyBallRun-v0" in gymnasium.registry


def test_missing_rl_zoo_is_named_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ImportError, match=r'RL Zoo .*pip install "sb3-prefine\[zoo\]"'):
        importlib.reload(sb3_prefine.zoo)
