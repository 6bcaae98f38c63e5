"""
Every policy family from end to end, compared with SB3.

``python -m tests.test_families`` updates the table in ``docs/policies.md``.
"""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference
from sb3_prefine.policies.base import MaskedInputs, SequenceInputs
from sb3_prefine.utils.observations import map_arrays
from tests.families import FAMILIES, Family

PAGE = Path(__file__).parent.parent / "docs" / "policies.md"
STEPS = 150


@dataclass(frozen=True)
class Result:
    """
    What was measured of one family.

    :param likelihood: Name of its likelihood.
    :param log_prob: Largest difference to SB3's log-prob of the data, in nats. None if SB3 defines no log-prob.
    :param score: Mean of ∇ log π over samples, along a random direction, in standard errors: E[∇ log π(a')] = 0.
    :param log_ratio: Largest log-ratio before the first step, in nats.
    :param loss_decrease: Decrease of the SFT loss, in nats.
    :param is_reference_unchanged: Whether all weights of the reference are equal to the last bit.
    :param saved: Largest difference of deterministic actions after save and load.
    :param opened: Whether the class of the source opens the export as one of its own.
    :param exported: Largest difference of deterministic actions after export and load.
    """

    likelihood: str
    log_prob: float | None
    score: float
    log_ratio: float
    loss_decrease: float
    is_reference_unchanged: bool
    saved: float
    opened: bool
    exported: float


@cache
def result_of(name: str) -> Result:
    family = next(family for family in FAMILIES if family.name == name)
    source = family.make()
    reference = load_reference(source)
    # The preferred actions are smaller: a deterministic policy has nothing to learn from its own actions.
    data = PreferenceBuffer(_record(family, reference, 0, 0.7), _record(family, reference, 1, 1.0))
    model = PREFINE(reference, data, batch_size=64, learning_rate=1e-3, seed=0, device="cpu", **family.options)
    before = copy.deepcopy(reference.policy.state_dict())

    batch = next(model.current_tables().batches(64, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        params = model.likelihood.params(model.policy, batch.inputs)
        logp = model.likelihood.log_prob(params, batch.actions)
        logp_ref = model.likelihood_ref.log_prob(batch.params_ref, batch.actions)
        expected = _log_prob_of_sb3(model, batch.inputs, batch.actions, family)
    real = torch.ones_like(logp, dtype=torch.bool) if batch.sets.weights is None else batch.sets.weights > 0
    log_ratio = float((logp - logp_ref)[real].abs().max())
    log_prob = None if expected is None else float((logp - expected)[real].abs().max())

    score = _mean_score(model, batch.inputs)

    first = _sft_loss(model)
    model.learn(STEPS)
    loss_decrease = first - _sft_loss(model)
    unchanged = all(torch.equal(value, before[key]) for key, value in reference.policy.state_dict().items())

    observations, masks = data.preferred[0].observations, data.preferred[0].action_masks
    extra = {} if masks is None else {"action_masks": masks}
    actions, _ = model.predict(observations, deterministic=True, **extra)
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        own = {} if isinstance(source, BaseAlgorithm | BasePolicy) else {"policy": source}
        loaded = PREFINE.load(f"{folder}/model", device="cpu", preferences=data, **own)
        saved = _difference(loaded.predict(observations, deterministic=True, **extra)[0], actions)
        path = model.export(f"{folder}/exported")
        again: Any
        if isinstance(source, BaseAlgorithm):
            again = type(source).load(path, device="cpu")
            found = again.predict(observations, deterministic=True, **extra)[0]
        elif isinstance(source, BasePolicy):
            again = type(source).load(str(path), device="cpu")
            found = again.predict(observations, deterministic=True)[0]
        else:
            again = type(source)()
            again.load_state_dict(torch.load(path, weights_only=True))
            found = load_reference(again).predict(observations, deterministic=True)[0]
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == STEPS + 5
    return Result(
        model.likelihood.family,
        log_prob,
        score,
        log_ratio,
        loss_decrease,
        unchanged,
        saved,
        type(again) is type(source),
        _difference(found, actions),
    )


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_a_family_from_end_to_end(name):
    result = result_of(name)
    assert result.log_prob is None or result.log_prob < 1e-3
    assert abs(result.score) < 5
    assert result.log_ratio < 1e-4  # At first, π_θ = π_ref.
    assert result.loss_decrease > 1e-3
    assert result.is_reference_unchanged
    assert result.saved == 0.0
    assert result.opened
    assert result.exported == 0.0


def test_the_table_in_the_docs_is_up_to_date():
    assert table() in PAGE.read_text(), "run python -m tests.test_families"


def table() -> str:
    """The table in Markdown: verdicts instead of numbers, because numbers differ between machines."""
    lines = [
        "| policy | likelihood | log-prob as SB3's | sample | learn | save and load | export | predict after export |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        result = result_of(family.name)
        options = ", ".join(f"`{key}={value}`" for key, value in family.options.items())
        score = "its own" if result.log_prob is None else _yes(result.log_prob < 1e-3)
        cells = (
            f"{family.name}{f' ({options})' if options else ''}",
            result.likelihood,
            score,
            _yes(abs(result.score) < 5 and result.log_ratio < 1e-4),
            _yes(result.loss_decrease > 0 and result.is_reference_unchanged),
            _yes(result.saved == 0),
            _yes(result.opened),
            _yes(result.exported == 0),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _record(family: Family, reference: Any, seed: int, scale: float) -> Trajectories:
    continuous = isinstance(reference.action_space, spaces.Box)
    return collect(
        reference,
        family.env,
        6,
        n_envs=3,
        seed=seed,
        action_transform=(lambda actions: scale * actions) if continuous else None,
        progress_bar=False,
    )


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max())


def _sft_loss(model: PREFINE) -> float:
    """Mean of -log π_θ over the preferred data."""
    batch = next(model.current_tables().batches(256, torch.Generator().manual_seed(1)))
    with torch.no_grad():
        params = model.likelihood.params(model.policy, batch.inputs)
        logp = model.likelihood.log_prob(params, batch.actions)
    weights = batch.sets.is_preferred * (1.0 if batch.sets.weights is None else batch.sets.weights)
    return -float((logp * weights).sum() / weights.sum())


def _mean_score(model: PREFINE, inputs: Any) -> float:
    weights = model.optimizer.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(weight.shape, generator=generator) for weight in weights]
    projections = []
    for _ in range(30):
        params = model.likelihood.params(model.policy, inputs)
        with torch.no_grad():
            samples = torch.stack([model.likelihood.sample(params, generator) for _ in range(10)])
        gradients = torch.autograd.grad(model.likelihood.log_prob(params, samples).mean(), weights)
        projections.append(sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True)))
    return float(np.mean(projections) / (np.std(projections, ddof=1) / len(projections) ** 0.5))


def _log_prob_of_sb3(model: PREFINE, inputs: Any, encoded: torch.Tensor, family: Family) -> torch.Tensor | None:
    """SB3's log-prob of the same actions. None if it defines none."""
    policy = model.policy
    if isinstance(inputs, MaskedInputs):
        _, expected, _ = policy.evaluate_actions(
            inputs.observations, _as_sb3_action(policy, encoded), inputs.action_masks
        )
        return expected
    if isinstance(inputs, SequenceInputs):
        return _log_prob_of_recurrent(policy, inputs, encoded)
    if hasattr(policy, "evaluate_actions"):
        dist = policy.get_distribution(inputs)
        return dist.log_prob(torch.tanh(encoded) if policy.squash_output else _as_sb3_action(policy, encoded))
    if hasattr(getattr(policy, "actor", None), "get_action_dist_params"):
        mean, log_std, latent = policy.actor.get_action_dist_params(inputs)
        dist = policy.actor.action_dist.proba_distribution(mean, log_std, **latent)
        if hasattr(dist, "bijector") and dist.bijector is not None:
            return dist.log_prob(torch.tanh(encoded))
        return dist.log_prob(torch.tanh(encoded), encoded)
    return None


def _log_prob_of_recurrent(policy: Any, inputs: SequenceInputs, encoded: torch.Tensor) -> torch.Tensor:
    """Log-probs step by step, as the policy acts, from the hidden states before each sequence."""
    n = inputs.states[0].shape[1]
    steps = map_arrays(lambda part: part.unflatten(0, (n, -1)).transpose(0, 1), inputs.observations)
    actions = encoded.unflatten(0, (n, -1)).transpose(0, 1)
    states, scores = inputs.states, []
    for observations, action in zip(steps, actions, strict=True):
        dist, states = policy.get_distribution(observations, states, torch.zeros(n))
        scores.append(dist.log_prob(_as_sb3_action(policy, action)))
    return torch.stack(scores).T.flatten()


def _as_sb3_action(policy: Any, encoded: torch.Tensor) -> torch.Tensor:
    """An encoded action in the shape that SB3's distributions expect."""
    return encoded[:, 0] if policy.action_space.shape == () else encoded


if __name__ == "__main__":
    text = PAGE.read_text()
    start, end = text.index("| policy |"), text.index("\n\n", text.index("| policy |"))
    PAGE.write_text(text[:start] + table() + text[end:])
