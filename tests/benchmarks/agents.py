"""Fast agents for BallRun that push forwards with different strengths."""

from pathlib import Path

import numpy as np

from benchmarks.datasets.behaviors import Behavior, Behaviors

# A push of 0.1 respects the speed limit; 0.2 breaks it in about 36 of 100 steps, 0.4 in 74, and 1.0 in 91, which is
# more than the highest cost in DSRL's data.
PUSHES = (0.1, 0.2, 0.4, 1.0)


def pushing(push: float, log_std: float = -3.0) -> Behavior:
    """Make an agent that ignores its observation."""
    sizes = ((7, 4), (4, 4), (4, 2))
    first, second, last = (np.zeros((n_out, n_in), np.float16) for n_in, n_out in sizes)
    biases = (np.zeros(4, np.float16), np.zeros(4, np.float16), np.array([push, 0.0], np.float16))
    return Behavior(np.zeros(7), np.ones(7), (first, second, last), biases, np.full(2, log_std))


def save(folder: Path) -> Path:
    """Save the weights of all agents where `generate` expects them in a folder."""
    folder.mkdir(exist_ok=True)
    Behaviors.stack([pushing(push) for push in PUSHES]).save(folder / "BallRun.npz")
    return folder
