"""Settings and fixtures of all tests."""

import os
from pathlib import Path

import pytest
import torch

# Two test workers share two cores: more threads than cores make every forward pass slower, not faster.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Folder of a clone of rl-trained-agents. Tests that need it are skipped unless ``RL_TRAINED_AGENTS`` names it."""
    folder = os.environ.get("RL_TRAINED_AGENTS")
    if not folder:
        pytest.skip("RL_TRAINED_AGENTS is not set")
    return Path(folder)
