"""PPL and CPL alike: padding, weights of episodes, the gradient, and what they learn."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3

from sb3_prefine import PreferenceBuffer
from sb3_prefine.baselines import CPL, PPL
from tests.baselines.by_hand import along_gradient, buffer, episodes, log_probs, next_batch, shift, update
from tests.worlds import BAD, GOOD, STATES, RecordingLogger, make_model, preferences, trajectories, weights

VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "PPL": (PPL, {"beta": 0.3}),
    "PPL, mean": (PPL, {"beta": 0.3, "reduction": "mean"}),
    "CPL": (CPL, {}),
    "CPL, discounted": (CPL, {"gamma": 0.8}),
    "CPL, own likelihood": (CPL, {"fixed_std": None}),
    "CPL, KL": (CPL, {"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75}),
    "CPL, BC": (CPL, {"bias": 1.0, "bc_coef": 1.0}),
    "CPL, BC of preferred segments": (CPL, {"bc_coef": 0.3, "bc_data": "preferred"}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(variant: str, data: PreferenceBuffer, source: Any = None, **kwargs: Any) -> Any:
    algorithm, options = VARIANTS[variant]
    given = {"batch_size": 16, "segment_length": 4, "learning_rate": 1e-2, "seed": 0, "device": "cpu"}
    return algorithm(source or make_model(PPO), data, **{**given, **options, **kwargs})


@every_variant
def test_the_loss_changes_along_its_gradient_by_the_norm(variant):
    """By central differences."""
    model = make(variant, buffer(), learning_rate=0.0)
    shift(model.policy)
    pairs = next_batch(model)
    slope = update(model, pairs)["train/grad_norm"]
    assert slope > 0.01
    assert along_gradient(model, lambda: update(model, pairs)["train/loss"]) == pytest.approx(slope, rel=1e-2)


@every_variant
def test_padding_does_not_count(variant):
    model = make(variant, buffer(), learning_rate=0.0)
    shift(model.policy)
    pairs = next_batch(model)
    padding = ~pairs.is_real.flatten()
    assert 0 < padding.sum() < len(padding)
    actions = torch.where(padding[:, None], torch.full_like(pairs.actions, 9.0), pairs.actions)
    inputs = torch.where(padding[:, None], torch.full_like(pairs.inputs, -9.0), pairs.inputs)
    other = dataclasses.replace(pairs, actions=actions, inputs=inputs)
    assert update(model, pairs) == pytest.approx(update(model, other), rel=1e-5)


@every_variant
@pytest.mark.parametrize("in_preferred", [True, False])
def test_an_episode_of_weight_zero_changes_nothing(variant, in_preferred):
    def learned(seed_of_ignored: int) -> dict[str, torch.Tensor]:
        ignored = episodes([9], seed=seed_of_ignored)
        one, other = episodes([8, 6]), episodes([7], seed=1)
        if in_preferred:
            data = PreferenceBuffer(one + ignored, other, preferred_weights=np.array([1.0, 2.0, 0.0]))
        else:
            data = PreferenceBuffer(one, other + ignored, dispreferred_weights=np.array([2.0, 0.0]))
        return weights(make(variant, data).learn(10).policy)

    first, second = learned(2), learned(3)
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(weight, first[name]) for name, weight in make_model(PPO).policy.state_dict().items())


@pytest.mark.parametrize(
    ("variant", "algorithm"),
    [
        *(("PPL", algorithm) for algorithm in (PPO, SAC)),
        *(("PPL, mean", algorithm) for algorithm in (PPO, SAC)),
        *(("CPL", algorithm) for algorithm in (PPO, SAC, TD3)),
        *(("CPL, KL", algorithm) for algorithm in (PPO, SAC, TD3)),
    ],
)
def test_it_learns_to_tell_good_segments_from_bad_ones(variant, algorithm):
    source, recorder = make_model(algorithm), RecordingLogger()
    model = make(variant, preferences(), source, segment_length=5, learning_rate=3e-3)
    model.set_logger(recorder)
    model.learn(200)
    assert recorder.rows[-1]["rewards/accuracies"] > 0.95
    assert recorder.rows[-1]["rewards/margins"] > 0.3
    # Also at other states.
    distance = lambda policy, action: np.abs(policy.predict(STATES, deterministic=True)[0] - action).mean()  # noqa: E731
    closer = [distance(policy, np.array(BAD)) - distance(policy, np.array(GOOD)) for policy in (source, model)]
    assert closer[1] > closer[0] + 0.3
    if not variant.startswith("PPL"):
        # The score of CPL is no log-ratio, or that of a Gaussian of fixed standard deviation.
        return
    held_out = PreferenceBuffer(trajectories(GOOD, seed=8), trajectories(BAD, seed=9))
    with torch.no_grad():
        good, bad = (log_probs(model.policy, held_out) - log_probs(source.policy, held_out)).chunk(2)
    assert float((good[:, None] > bad[None]).float().mean()) > 0.9
