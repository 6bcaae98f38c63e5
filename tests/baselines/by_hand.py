"""Segments found again in the data they are of, and scored by SB3 itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sb3_prefine import PreferenceBuffer, Trajectories
from sb3_prefine.baselines.segments import Pairs
from tests.worlds import ACTIONS, OBSERVATIONS, Anything

# Of the episodes of both sets: shorter than a segment of 4 steps, as long, and longer.
LENGTHS = [7, 2, 4], [3, 9, 1]


def episodes(lengths: list[int], seed: int = 0) -> Trajectories:
    """No two observations are the same."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    low, high = Anything.action_space.low, Anything.action_space.high
    return Trajectories(
        observations=rng.normal(size=(n, OBSERVATIONS)).astype(np.float32),
        next_observations=np.zeros((n, OBSERVATIONS), np.float32),
        actions=rng.uniform(low, high, (n, ACTIONS)).astype(np.float32),
        rewards=np.ones(n),
        costs=np.zeros(n),
        terminals=np.zeros(n, bool),
        timeouts=ends,
    )


def buffer(**kwargs: Any) -> PreferenceBuffer:
    return PreferenceBuffer(episodes(LENGTHS[0]), episodes(LENGTHS[1], seed=1), **kwargs)


def rows_of(pairs: Pairs, data: PreferenceBuffer) -> np.ndarray:
    """The row of each step of the segments, those of the preferred set first, (2, n, L)."""
    states = np.concatenate([data.preferred.observations, data.dispreferred.observations])
    same = (pairs.inputs.numpy()[:, None] == states[None]).all(-1)
    assert (same.sum(1) == 1).all()
    return same.argmax(1).reshape(pairs.is_real.shape)


def segments_of(pairs: Pairs, data: PreferenceBuffer) -> list[list[np.ndarray]]:
    """The rows of each segment, without what fills up: those of the preferred set, those of the dispreferred set."""
    ends = np.cumsum([*data.preferred.episode_lengths, *data.dispreferred.episode_lengths])
    return [
        [segment[segment[0] + np.arange(len(segment)) < ends[ends > segment[0]][0]] for segment in of_set]
        for of_set in rows_of(pairs, data)
    ]


def log_probs(policy: Any, data: PreferenceBuffer) -> torch.Tensor:
    """SB3's own log-probs of the data's actions, those of the preferred set first, (N,), with gradient."""
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
    """Other weights."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator))


def gradient(model: Any) -> torch.Tensor:
    """Of the last update, of all weights that are trained."""
    return torch.cat([weight.grad.flatten() for weight in model.optimizer.param_groups[0]["params"]])


def along_gradient(model: Any, loss: Callable[[], float], step: float = 1e-2) -> float:
    """How fast a loss grows along the gradient of the last update, by central differences."""
    trained = model.optimizer.param_groups[0]["params"]
    norm = gradient(model).norm()
    directions = [weight.grad / norm for weight in trained]

    def moved(by: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(trained, directions, strict=True):
                weight.add_(direction, alpha=by)
        return loss()

    return (moved(step) - moved(-2.0 * step)) / (2.0 * step)


def gradient_of(value: torch.Tensor, model: Any) -> torch.Tensor:
    """Of a number, of the same weights."""
    weights = model.optimizer.param_groups[0]["params"]
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, weights)])
