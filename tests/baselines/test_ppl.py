"""PPL: its loss and gradient, derived independently, and the policies that it trains."""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, collect, load_reference
from sb3_prefine.baselines import CPL, PPL
from sb3_prefine.baselines.segments import Pairs
from tests.baselines.by_hand import (
    buffer,
    episodes,
    gradient,
    gradient_of,
    log_probs,
    next_batch,
    segments_of,
    shift,
    update,
)
from tests.families import FAMILIES
from tests.worlds import RandomEnv, RecordingLogger, assert_same_weights, make_model, preferences, weights


def ppl_of(source: Any = None, data: PreferenceBuffer | None = None, **kwargs: Any) -> PPL:
    """PPL with segments of 4 steps, and a learning rate of 0 unless another one is given."""
    given = {"batch_size": 16, "segment_length": 4, "learning_rate": 0.0, "seed": 0, "device": "cpu"}
    return PPL(source or make_model(PPO), data or buffer(), **{**given, **kwargs})


def rewards_by_hand(model: PPL, pairs: Pairs, data: PreferenceBuffer, reduction: str = "sum") -> np.ndarray:
    """β Σ log π/π_ref of every segment, from SB3's log-probs, (2, n)."""
    with torch.no_grad():
        log_ratio = (log_probs(model.policy, data) - log_probs(model.reference.policy, data)).double().numpy()
    reduce = {"sum": np.sum, "mean": np.mean}[reduction]
    return model.beta * np.array([[reduce(log_ratio[rows]) for rows in of_set] for of_set in segments_of(pairs, data)])


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_eq_1_with_log_ratios_as_rewards(algorithm, reduction):
    model = ppl_of(make_model(algorithm), beta=0.3, reduction=reduction)
    shift(model.policy)
    pairs = next_batch(model)
    assert not pairs.is_real.all()
    rewards = rewards_by_hand(model, pairs, model.preferences, reduction)
    probability = np.exp(rewards[0]) / (np.exp(rewards[0]) + np.exp(rewards[1]))
    found = update(model, pairs)
    assert found["train/loss"] == pytest.approx(-np.log(probability).mean(), rel=1e-3)
    assert found["rewards/chosen"] == pytest.approx(rewards[0].mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/rejected"] == pytest.approx(rewards[1].mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/margins"] == pytest.approx((rewards[0] - rewards[1]).mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/accuracies"] == pytest.approx((rewards[0] > rewards[1]).mean())
    with torch.no_grad():
        logp = log_probs(model.policy, model.preferences).numpy()
    means = [np.mean([logp[rows].mean() for rows in of_set]) for of_set in segments_of(pairs, model.preferences)]
    assert (found["logps/chosen"], found["logps/rejected"]) == pytest.approx(tuple(means), rel=1e-3)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_gradient_is_that_of_bradley_terry(algorithm):
    """∇ℓ = -β σ(r⁻ - r⁺) (Σ ∇log π(τ⁺) - Σ ∇log π(τ⁻)), the mean over the pairs."""
    model = ppl_of(make_model(algorithm), beta=0.3)
    shift(model.policy)
    pairs = next_batch(model)
    rewards = rewards_by_hand(model, pairs, model.preferences)
    found = update(model, pairs)
    other_order = 1 / (1 + np.exp(rewards[0] - rewards[1]))
    logp, (preferred, dispreferred) = (
        log_probs(model.policy, model.preferences),
        segments_of(pairs, model.preferences),
    )
    value = sum(
        -0.3 * wrong * (logp[torch.as_tensor(good)].sum() - logp[torch.as_tensor(bad)].sum()) / len(other_order)
        for wrong, good, bad in zip(other_order.tolist(), preferred, dispreferred, strict=True)
    )
    expected = gradient_of(value, model)
    assert expected.norm() > 0.01
    assert (gradient(model) - expected).norm() < 2e-3 * expected.norm()
    assert found["train/grad_norm"] == pytest.approx(float(expected.norm()), rel=2e-3)


def test_without_short_segments_mean_and_sum_differ_by_the_temperature():
    data = PreferenceBuffer(episodes([9, 4]), episodes([5], seed=1))

    def learned(beta: float, reduction: str) -> dict[str, torch.Tensor]:
        model = ppl_of(data=data, beta=beta, reduction=reduction, learning_rate=1e-2)
        return weights(model.learn(5).policy)

    for name, weight in learned(0.1, "sum").items():
        torch.testing.assert_close(learned(0.4, "mean")[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_it_equals_cpl_with_log_ratios_and_without_bias(algorithm):
    source, data = make_model(algorithm), buffer()
    model = ppl_of(source, data, beta=0.2, learning_rate=1e-2).learn(10)
    kwargs = {"batch_size": 16, "segment_length": 4, "learning_rate": 1e-2, "seed": 0, "device": "cpu"}
    cpl = CPL(source, data, advantage="log_ratio", alpha=0.2, bias=1.0, fixed_std=None, **kwargs).learn(10)
    for name, weight in model.policy.state_dict().items():
        torch.testing.assert_close(cpl.policy.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_at_the_first_step_both_orders_are_equally_likely():
    found = update(model := ppl_of(), next_batch(model))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-5)
    assert found["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("preferred", "dispreferred", "q"), [(1.0, 0.0, 0.5), (0.0, 0.0, 0.0), (0.5, 1.0, 0.75)])
def test_labels_mix_the_losses_of_both_orders(preferred, dispreferred, q):
    data = buffer(preferred_labels=np.full(3, preferred), dispreferred_labels=np.full(3, dispreferred))
    model = ppl_of(data=data, beta=0.3)
    shift(model.policy)
    pairs = next_batch(model)
    margins = np.subtract(*rewards_by_hand(model, pairs, data))
    expected = (q * np.log1p(np.exp(-margins)) + (1 - q) * np.log1p(np.exp(margins))).mean()
    assert update(model, pairs)["train/loss"] == pytest.approx(expected, rel=1e-3)


def test_a_tie_gives_no_gradient_at_the_reference():
    data = buffer(preferred_labels=np.full(3, 0.5), dispreferred_labels=np.full(3, 0.5))
    found = update(model := ppl_of(data=data), next_batch(model))
    assert found["train/grad_norm"] < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        *("PPO, gSDE, squashed", "A2C, MultiDiscrete", "PPO, Dict", "CrossQ", "MaskablePPO, MultiDiscrete"),
        *("TD3", "QR-DQN", "CVAEPolicy", "your own nn.Module"),
    ],
)
def test_all_but_recurrent_policies_are_trained(name):
    [family] = [each for each in FAMILIES if each.name == name]
    source = family.make()
    reference = load_reference(source)
    recorded = [collect(reference, family.env, 4, seed=seed, progress_bar=False) for seed in range(2)]
    if recorded[0].actions.dtype.kind == "f":
        # A deterministic policy has nothing to learn from its own actions.
        recorded[0] = dataclasses.replace(recorded[0], actions=0.7 * recorded[0].actions)
    before = copy.deepcopy(reference.policy.state_dict())
    data = PreferenceBuffer(*recorded)
    model = PPL(reference, data, segment_length=6, batch_size=24, seed=0, device="cpu", **family.options)
    found = update(model, next_batch(model))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-4)
    assert found["train/grad_norm"] > 0
    # The reference is scored as the policy is, so the margin grows from zero.
    model = PPL(reference, data, learning_rate=1e-3, seed=0, device="cpu", **family.options)
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(20, log_interval=10)
    assert recorder.rows[1]["rewards/margins"] > max(recorder.rows[0]["rewards/margins"], 0)
    assert_same_weights(reference.policy.state_dict(), before)


def test_training_reads_normalized_observations():
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    source = make_model(PPO, env, n_steps=16, batch_size=16).learn(16)
    data = preferences()
    pairs = next_batch(ppl_of(source, data))
    seen = env.normalize_obs(np.concatenate([data.preferred.observations, data.dispreferred.observations]))
    assert (pairs.inputs[:, None] == torch.as_tensor(seen)[None]).all(-1).any(1).all()


def test_a_batch_has_as_many_transitions_as_one_of_prefine():
    """Rounded to whole segments, but at least one."""
    model = PPL(make_model(PPO), PreferenceBuffer(episodes([200]), episodes([300], seed=1)), device="cpu")
    assert next_batch(model).is_real.shape == (2, 4, 64)
    assert model._states_per_update == PREFINE(make_model(PPO), device="cpu")._states_per_update == 512
    for batch_size, n_pairs in ((1, 1), (64, 1), (100, 2), (6144, 96)):
        model.batch_size = batch_size
        assert next_batch(model).is_real.shape == (2, n_pairs, 64)


def test_the_defaults_are_those_of_prefine_and_of_cpl():
    """The paper gives neither, so PPL takes PREFINE's optimisation and weight, and the segments of CPL's authors."""
    model, prefine, cpl = (algorithm(make_model(PPO), device="cpu") for algorithm in (PPL, PREFINE, CPL))
    assert (model.learning_rate, model.batch_size, model.beta) == (3e-4, 256, 0.05)
    assert (model.learning_rate, model.batch_size, model.beta) == (
        prefine.learning_rate,
        prefine.batch_size,
        prefine.beta,
    )
    assert model.segment_length == cpl.segment_length == 64
