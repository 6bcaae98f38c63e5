"""Updates on one batch, and independent derivations: segments found in their data, log-probs by SB3 itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sb3_prefine import PreferenceBuffer, Trajectories
from sb3_prefine.baselines.segments import Pairs
from tests.worlds import ACTIONS, OBSERVATIONS, RandomEnv, recorded

# Lengths of the episodes of both sets: below, equal to and above the 4 steps of a segment.
LENGTHS = [7, 2, 4], [3, 9, 1]


def next_batch(model: Any) -> Any:
    """The first batch that ``learn`` would train on."""
    return next(model.batches())


def update(model: Any, batch: Any) -> dict[str, float]:
    """Make one gradient step, and return its metrics."""
    model.train(batch)
    return model.metrics.pop()


def episodes(lengths: list[int], seed: int = 0) -> Trajectories:
    """Episodes of these lengths, in which no observation occurs twice."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    low, high = RandomEnv.action_space.low, RandomEnv.action_space.high
    observations = rng.normal(size=(n, OBSERVATIONS)).astype(np.float32)
    return recorded(observations, rng.uniform(low, high, (n, ACTIONS)).astype(np.float32), timeouts=ends)


def buffer(**kwargs: Any) -> PreferenceBuffer:
    return PreferenceBuffer(episodes(LENGTHS[0]), episodes(LENGTHS[1], seed=1), **kwargs)


def rows_of(pairs: Pairs, data: PreferenceBuffer) -> np.ndarray:
    """The row of each step of the segments in the data, preferred segments first, (2, n, L)."""
    states = np.concatenate([data.preferred.observations, data.dispreferred.observations])
    same = (pairs.inputs.numpy()[:, None] == states[None]).all(-1)
    assert (same.sum(1) == 1).all()
    return same.argmax(1).reshape(pairs.is_real.shape)


def segments_of(pairs: Pairs, data: PreferenceBuffer) -> list[list[np.ndarray]]:
    """The rows of each segment without its padding: those of the preferred set, those of the dispreferred set."""
    ends = np.cumsum([*data.preferred.episode_lengths, *data.dispreferred.episode_lengths])
    return [
        [segment[segment[0] + np.arange(len(segment)) < ends[ends > segment[0]][0]] for segment in of_set]
        for of_set in rows_of(pairs, data)
    ]


def log_probs(policy: Any, data: PreferenceBuffer) -> torch.Tensor:
    """SB3's log-probs of the data's actions, with gradient, preferred transitions first, (N,)."""
    states, actions = (
        torch.as_tensor(np.concatenate([getattr(data.preferred, name), getattr(data.dispreferred, name)]))
        for name in ("observations", "actions")
    )
    if hasattr(policy, "evaluate_actions"):
        return policy.evaluate_actions(states, actions)[1]
    mean, log_std, _ = policy.actor.get_action_dist_params(states)
    scaled = torch.as_tensor(policy.scale_action(actions.numpy()))
    return policy.actor.action_dist.proba_distribution(mean, log_std).log_prob(scaled)


def shift(policy: torch.nn.Module, by: float = 0.1) -> None:
    """Add noise to all weights."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator))


def gradient(model: Any) -> torch.Tensor:
    """The gradient of the last update with respect to all trained weights."""
    return torch.cat([weight.grad.flatten() for weight in model.optimizer.param_groups[0]["params"]])


def gradient_of(value: torch.Tensor, model: Any) -> torch.Tensor:
    """The gradient of a number with respect to the same weights."""
    weights = model.optimizer.param_groups[0]["params"]
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, weights)])


def along_gradient(model: Any, loss: Callable[[], float], step: float = 1e-2) -> float:
    """The slope of a loss along the gradient of the last update, by central differences."""
    trained = model.optimizer.param_groups[0]["params"]
    norm = gradient(model).norm()
    directions = [weight.grad / norm for weight in trained]

    def moved(by: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(trained, directions, strict=True):
                weight.add_(direction, alpha=by)
        return loss()

    return (moved(step) - moved(-2.0 * step)) / (2.0 * step)
