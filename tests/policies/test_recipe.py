"""Building a policy from its class, its spaces and its arguments."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, PPO, SAC, TD3

import sb3_prefine
from sb3_prefine import load_reference
from tests.worlds import make_model


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, SAC, TQC, CrossQ, TD3])
def test_built_policy_names_the_original_optimizer(algorithm, tmp_path):
    """So SB3 gives a copy of the policy, or a saved one, the optimizer of the original."""

    def rebuilt(model):
        model.save(tmp_path / "model.zip")
        return load_reference(tmp_path / "model.zip").recipe.build()

    model = make_model(algorithm)
    policy, own = rebuilt(model), model.policy
    copy = type(policy)(**policy._get_constructor_parameters())
    assert policy.optimizer_class is own.optimizer_class
    assert (copy.optimizer_class, copy.optimizer_kwargs) == (own.optimizer_class, own.optimizer_kwargs)
    optimizer = {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-4}}
    policy = rebuilt(make_model(algorithm, policy_kwargs=optimizer))
    assert (policy.optimizer_class, policy.optimizer_kwargs) == (torch.optim.RMSprop, {"eps": 1e-4})


def test_opening_a_checkpoint_does_not_import_the_compiler_of_torch():
    """The import takes more than a second, in a process that may never train."""
    program = "import sys, sb3_prefine as s; s.load_reference(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    path = Path(sb3_prefine.__file__).parent / "cli" / "demo_data" / "reference.zip"
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
