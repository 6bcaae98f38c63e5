"""PPL: its loss and gradient by hand, what it learns, and what it must never do."""

import copy
import dataclasses
import json
import math
import zipfile
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, collect, load_reference
from sb3_prefine.baselines import BC, CPL, PPL
from sb3_prefine.baselines.segments import Pairs
from tests.baselines.by_hand import (
    along_gradient,
    buffer,
    episodes,
    gradient,
    gradient_of,
    log_probs,
    segments_of,
    shift,
)
from tests.families import FAMILIES
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    Anything,
    Recorder,
    assert_same_weights,
    model_of,
    preferences,
    trajectories,
    weights,
)


def ppl_of(source: Any = None, data: PreferenceBuffer | None = None, **kwargs: Any) -> PPL:
    """Small segments; a learning rate of 0 unless another one is given."""
    given = {"batch_size": 16, "segment_length": 4, "learning_rate": 0.0, "seed": 0, "device": "cpu"}
    return PPL(source or model_of(PPO), data or buffer(), **{**given, **kwargs})


def metrics_of(model: PPL, pairs: Pairs) -> dict[str, float]:
    model.train(pairs)
    return model.metrics.pop()


def rewards_by_hand(model: PPL, pairs: Pairs, data: PreferenceBuffer, reduction: str = "sum") -> np.ndarray:
    """β Σ log π/π_ref of every segment by SB3's own log-probs, (2, n)."""
    with torch.no_grad():
        log_ratio = (log_probs(model.policy, data) - log_probs(model.reference.policy, data)).double().numpy()
    reduce = {"sum": np.sum, "mean": np.mean}[reduction]
    return model.beta * np.array([[reduce(log_ratio[rows]) for rows in of_set] for of_set in segments_of(pairs, data)])


# The loss


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_eq_1_with_the_log_ratio_of_a_segment_as_its_reward(algorithm, reduction):
    model = ppl_of(model_of(algorithm), beta=0.3, reduction=reduction)
    shift(model.policy)
    pairs = next(model.batches())
    assert not pairs.is_real.all()
    rewards = rewards_by_hand(model, pairs, model.preferences, reduction)
    probability = np.exp(rewards[0]) / (np.exp(rewards[0]) + np.exp(rewards[1]))
    found = metrics_of(model, pairs)
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
def test_the_gradient_is_that_of_the_log_probs_weighted_by_the_probability_of_the_other_order(algorithm):
    """∇ℓ = -β σ(r⁻ - r⁺) (Σ ∇log π(τ⁺) - Σ ∇log π(τ⁻)), the mean over the pairs."""
    model = ppl_of(model_of(algorithm), beta=0.3)
    shift(model.policy)
    pairs = next(model.batches())
    rewards = rewards_by_hand(model, pairs, model.preferences)
    model.train(pairs)
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
    assert metrics_of(model, pairs)["train/grad_norm"] == pytest.approx(float(expected.norm()), rel=2e-3)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_changes_along_the_gradient_as_it_says(reduction):
    """By central differences."""
    model = ppl_of(beta=0.3, reduction=reduction)
    shift(model.policy)
    pairs = next(model.batches())
    slope = metrics_of(model, pairs)["train/grad_norm"]
    assert slope > 0.01
    assert along_gradient(model, lambda: metrics_of(model, pairs)["train/loss"]) == pytest.approx(slope, rel=1e-2)


def test_the_mean_is_the_sum_at_another_temperature_where_no_segment_is_short():
    data = PreferenceBuffer(episodes([9, 4]), episodes([5], seed=1))

    def learnt(beta: float, reduction: str) -> dict[str, torch.Tensor]:
        model = ppl_of(data=data, beta=beta, reduction=reduction, learning_rate=1e-2)
        return weights(model.learn(5).policy)

    for name, weight in learnt(0.1, "sum").items():
        torch.testing.assert_close(learnt(0.4, "mean")[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_it_is_cpl_of_the_log_ratio_without_a_bias(algorithm):
    source, data = model_of(algorithm), buffer()
    model = ppl_of(source, data, beta=0.2, learning_rate=1e-2).learn(10)
    kwargs = {"batch_size": 16, "segment_length": 4, "learning_rate": 1e-2, "seed": 0, "device": "cpu"}
    cpl = CPL(source, data, advantage="log_ratio", alpha=0.2, bias=1.0, fixed_std=None, **kwargs).learn(10)
    for name, weight in model.policy.state_dict().items():
        torch.testing.assert_close(cpl.policy.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_at_the_first_step_nothing_is_preferred_yet():
    found = metrics_of(model := ppl_of(), next(model.batches()))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-5)
    assert found["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_what_fills_up_does_not_count():
    model = ppl_of()
    shift(model.policy)
    pairs = next(model.batches())
    unreal = ~pairs.is_real.flatten()
    assert 0 < unreal.sum() < len(unreal)
    actions = torch.where(unreal[:, None], torch.full_like(pairs.actions, 9.0), pairs.actions)
    inputs = torch.where(unreal[:, None], torch.full_like(pairs.inputs, -9.0), pairs.inputs)
    assert metrics_of(model, pairs) == pytest.approx(
        metrics_of(model, dataclasses.replace(pairs, actions=actions, inputs=inputs)), rel=1e-5
    )


# Weights and labels


def test_an_episode_that_counts_nothing_teaches_nothing():
    def learnt(seed_of_ignored: int) -> dict[str, torch.Tensor]:
        ignored = episodes([9], seed=seed_of_ignored)
        data = PreferenceBuffer(
            episodes([8, 6]), episodes([7], seed=1) + ignored, dispreferred_weights=np.array([2.0, 0.0])
        )
        return weights(ppl_of(data=data, learning_rate=1e-2).learn(10).policy)

    one, other = learnt(2), learnt(3)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(weight, one[name]) for name, weight in model_of(PPO).policy.state_dict().items())


@pytest.mark.parametrize(("preferred", "dispreferred", "q"), [(1.0, 0.0, 0.5), (0.0, 0.0, 0.0), (0.5, 1.0, 0.75)])
def test_labels_mix_the_loss_with_that_of_the_other_order(preferred, dispreferred, q):
    data = buffer(preferred_labels=np.full(3, preferred), dispreferred_labels=np.full(3, dispreferred))
    model = ppl_of(data=data, beta=0.3)
    shift(model.policy)
    pairs = next(model.batches())
    margins = np.subtract(*rewards_by_hand(model, pairs, data))
    expected = (q * np.log1p(np.exp(-margins)) + (1 - q) * np.log1p(np.exp(margins))).mean()
    assert metrics_of(model, pairs)["train/loss"] == pytest.approx(expected, rel=1e-3)


def test_a_tie_is_no_reason_to_leave_the_reference():
    data = buffer(preferred_labels=np.full(3, 0.5), dispreferred_labels=np.full(3, 0.5))
    found = metrics_of(model := ppl_of(data=data), next(model.batches()))
    assert found["train/grad_norm"] < 1e-6


# What it learns


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_learns_to_tell_good_segments_from_bad_ones(algorithm, reduction):
    """Also at states that it has not seen."""
    source = model_of(algorithm)
    model = ppl_of(source, preferences(), segment_length=5, learning_rate=3e-3, beta=0.2, reduction=reduction)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(200)
    last = recorder.rows[-1]
    assert last["rewards/accuracies"] > 0.95
    assert last["rewards/margins"] > 1.0
    held_out = PreferenceBuffer(trajectories(GOOD, seed=8), trajectories(BAD, seed=9))
    with torch.no_grad():
        log_ratio = log_probs(model.policy, held_out) - log_probs(source.policy, held_out)
    good, bad = log_ratio.chunk(2)
    assert float((good[:, None] > bad[None]).float().mean()) > 0.9
    actions, before = (policy.predict(STATES, deterministic=True)[0] for policy in (model, source))
    away = lambda found: np.abs(found - np.array(BAD)).mean() - np.abs(found - np.array(GOOD)).mean()  # noqa: E731
    assert away(actions) > away(before) + 0.3


@pytest.mark.parametrize(
    "name",
    [
        *("PPO, gSDE, squashed", "A2C, MultiDiscrete", "PPO, Dict", "CrossQ", "MaskablePPO, MultiDiscrete"),
        *("TD3", "QR-DQN", "CVAEPolicy", "your own nn.Module"),
    ],
)
def test_policies_of_every_kind_but_recurrent_ones_are_trained(name):
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
    found = metrics_of(model, next(model.batches()))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-4)
    assert found["train/grad_norm"] > 0
    # An update scores the reference as it scores the policy: the margin grows on the pairs that it was made for.
    model = PPL(reference, data, learning_rate=1e-3, seed=0, device="cpu", **family.options)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(20, log_interval=10)
    assert recorder.rows[1]["rewards/margins"] > max(recorder.rows[0]["rewards/margins"], 0)
    assert_same_weights(reference.policy.state_dict(), before)


def test_a_normaliser_of_the_reference_is_applied():
    env = VecNormalize(DummyVecEnv([Anything]))
    source = model_of(PPO, env, n_steps=16, batch_size=16).learn(16)
    data = preferences()
    pairs = next(ppl_of(source, data).batches())
    seen = env.normalize_obs(np.concatenate([data.preferred.observations, data.dispreferred.observations]))
    assert (pairs.inputs[:, None] == torch.as_tensor(seen)[None]).all(-1).any(1).all()


# Its face


def test_a_batch_holds_as_many_transitions_of_each_set_as_prefine_s():
    model = PPL(model_of(PPO), PreferenceBuffer(episodes([200]), episodes([300], seed=1)), device="cpu")
    assert next(model.batches()).is_real.shape == (2, 4, 64)
    assert model._states_per_update == PREFINE(model_of(PPO), device="cpu")._states_per_update == 512
    for batch_size, n_pairs in ((1, 1), (64, 1), (100, 2), (6144, 96)):
        model.batch_size = batch_size
        assert next(model.batches()).is_real.shape == (2, n_pairs, 64)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_reference_does_not_change_by_a_bit(algorithm):
    source = model_of(algorithm)
    given = weights(source.policy)
    model = ppl_of(source, learning_rate=1e-2).learn(30)
    assert_same_weights(weights(model.reference.policy), given)
    assert_same_weights(weights(source.policy), given)
    assert any(not torch.equal(tensor, given[name]) for name, tensor in model.policy.state_dict().items())
    unchanged = {name for name, tensor in model.policy.state_dict().items() if torch.equal(tensor, given[name])}
    assert {name for name in given if "value" in name or "critic" in name} <= unchanged


def test_equal_seeds_give_equal_bits_and_others_do_not():
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(ppl_of(seed=seed, learning_rate=1e-3).learn(20).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(tensor, first[name]) for name, tensor in run(4).items())


@cache
def one_pair() -> PreferenceBuffer:
    """Each set is one segment, so that all batches are the same, whatever was drawn before."""
    return PreferenceBuffer(episodes([4]), episodes([4], seed=1))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_saved_loaded_and_gone_on_with_it_is_as_if_it_had_run_through(algorithm, tmp_path, monkeypatch):
    through = ppl_of(model_of(algorithm), one_pair(), learning_rate=1e-2).learn(20)
    model = ppl_of(model_of(algorithm), one_pair(), learning_rate=1e-2, beta=0.05, reduction="sum").learn(12)
    model.save(tmp_path / "ppl")
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    loaded = PPL.load(tmp_path / "ppl", device="cpu")
    actions = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], actions)
    assert_same_weights(weights(loaded.policy), weights(model.policy))
    assert_same_weights(weights(loaded.reference.policy), weights(model.reference.policy))
    assert (loaded.batch_size, loaded.segment_length, loaded.reduction, loaded.preferences) == (16, 4, "sum", None)
    for resumed in (model, loaded):
        resumed.preferences = one_pair()
        assert resumed.learn(8, reset_num_timesteps=False).num_timesteps == 20
        assert_same_weights(weights(resumed.policy), weights(through.policy))


def test_data_are_not_saved(tmp_path):
    ppl_of().learn(1).save(tmp_path / "ppl.zip")
    with zipfile.ZipFile(tmp_path / "ppl.zip") as archive:
        fields = json.loads(archive.read("data"))
    assert not {"preferences", "reference", "_likelihood", "_likelihood_ref"} & set(fields)
    assert fields["beta"] == 0.05


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_export_is_a_plain_zip_of_the_class_it_came_from(algorithm, tmp_path):
    model = ppl_of(model_of(algorithm), learning_rate=1e-2).learn(5)
    exported = algorithm.load(model.export(tmp_path / "safe"), device="cpu")
    np.testing.assert_array_equal(
        exported.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )


def test_a_file_of_another_algorithm_is_where_to_start_from(tmp_path):
    bc = BC("GaussianPolicy", trajectories(GOOD), Anything(), policy_kwargs={"net_arch": [8]}, device="cpu").learn(3)
    bc.save(tmp_path / "bc")
    for source in (bc, tmp_path / "bc.zip"):
        assert_same_weights(weights(ppl_of(source).policy), weights(bc.policy))
    model = PPL.load(tmp_path / "bc", device="cpu", preferences=preferences(), segment_length=4).learn(2)
    model.save(tmp_path / "ppl")
    for other in (CPL, PREFINE):
        opened = other.load(tmp_path / "ppl", device="cpu")
        assert (type(opened), opened.num_timesteps) == (other, 0)
        assert_same_weights(weights(opened.reference.policy), weights(model.policy))


def test_metrics_are_means_over_the_interval():
    recorders = []
    for interval in (5, 1):
        recorders.append(Recorder())
        model = ppl_of(learning_rate=1e-3, batch_size=8)
        model.set_logger(recorders[-1])
        model.learn(10, log_interval=interval)
    every_fifth, every = (recorder.rows for recorder in recorders)
    assert [row["time/total_timesteps"] for row in every_fifth] == [5, 10]
    names = {name for name in every[0] if name.partition("/")[0] in ("train", "rewards", "logps")}
    assert names == {
        *("train/loss", "train/grad_norm", "train/learning_rate", "train/n_updates"),
        *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("logps/chosen", "logps/rejected"),
    }
    for name in names - {"train/n_updates"}:
        assert every_fifth[1][name] == pytest.approx(np.mean([row[name] for row in every[5:]]), rel=1e-4, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_weights():
    model = ppl_of(learning_rate=1e25)
    with pytest.raises(FloatingPointError, match=r"in update \d+ of this call"):
        model.learn(200)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


def test_gradient_clipping_bounds_the_step():
    model = ppl_of(learning_rate=1e-3, max_grad_norm=1e-12)
    before = weights(model.policy)
    assert metrics_of(model, next(model.batches()))["train/grad_norm"] > 0.01
    assert all((tensor - before[name]).abs().max() < 1e-6 for name, tensor in model.policy.state_dict().items())


# What is refused


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"segment_length": 0}, "segment_length: expected a whole number > 0, found 0"),
        ({"segment_length": 6.4}, r"segment_length: expected a whole number > 0, found 6\.4"),
        ({"batch_size": 0}, "batch_size: expected a whole number > 0, found 0"),
        ({"beta": 0.0}, r"beta: expected a finite number > 0, found 0\.0"),
        ({"beta": math.nan}, "beta: expected a finite number > 0, found nan"),
        ({"reduction": "median"}, "reduction: 'median' is not known. Choose one of sum, mean"),
        ({"fixed_std": -1.0}, "fixed_std: expected a finite number > 0 or None"),
        ({"fixed_std": 0.1}, r"fixed_std: 0\.1 was given for ActorCriticPolicy"),
        ({"temperature": 0.0}, "temperature: expected a finite number > 0 or None"),
        ({"learning_rate": -1.0}, r"learning_rate: expected a finite number >= 0, found -1\.0"),
        ({"env": "Pendulum-v1"}, "env: its observation_space is "),
    ],
)
def test_what_it_cannot_learn_with_is_refused_at_once_and_when_loading(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ppl_of(**kwargs)
    if "env" not in kwargs:
        ppl_of().save(tmp_path / "ppl")
        with pytest.raises(ValueError, match=message):
            PPL.load(tmp_path / "ppl", device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: model_of(TD3), "TD3Policy .* is deterministic"),
        (
            lambda: RecurrentPPO("MlpLstmPolicy", Anything(), device="cpu"),
            "RecurrentActorCriticPolicy is recurrent: .* before a segment, which PPL does not read",
        ),
        (lambda: 3, r"policy: expected an SB3 model or policy.*found int"),
    ],
)
def test_policies_that_it_cannot_train_are_refused(source, message):
    with pytest.raises(TypeError, match=message):
        PPL(source(), device="cpu")


def test_learning_without_data_or_from_those_of_other_spaces_is_refused():
    with pytest.raises(ValueError, match=r"^preferences: .*PPL"):
        PPL(model_of(PPO), device="cpu").learn(1)
    pendulum = PPL(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), device="cpu")
    pendulum.preferences = buffer()
    with pytest.raises(ValueError, match="preferred: observations have shape"):
        pendulum.learn(1)
    with pytest.raises(ValueError, match="preferred: observations have shape"):
        PPL(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), buffer(), device="cpu")
