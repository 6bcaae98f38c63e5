"""CPL and its variants: their losses and gradients by hand, what they learn, and what is refused."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3

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
from tests.families import cvae, masked
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    Anything,
    Recorder,
    assert_same_weights,
    choosing,
    model_of,
    preferences,
    trajectories,
    weights,
)

KL = {"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75}


def cpl_of(source: Any = None, data: PreferenceBuffer | None = None, shifted: bool = True, **kwargs: Any) -> CPL:
    """Small segments; a learning rate of 0 and weights other than the reference's, unless something else is said."""
    given = {"batch_size": 16, "segment_length": 4, "learning_rate": 0.0, "seed": 0, "device": "cpu"}
    model = CPL(source or model_of(PPO), data or buffer(), **{**given, **kwargs})
    if shifted:
        shift(model.policy)
    return model


def metrics_of(model: CPL, pairs: Pairs) -> dict[str, float]:
    model.train(pairs)
    return model.metrics.pop()


def squared_errors(policy: Any, data: PreferenceBuffer) -> torch.Tensor:
    """Of the mean action, which the world's box may not hold, in units of actions scaled to [-1, 1]; (N,)."""
    states, actions = (
        torch.as_tensor(np.concatenate([getattr(data.preferred, name), getattr(data.dispreferred, name)]))
        for name in ("observations", "actions")
    )
    low, high = (torch.as_tensor(bound) for bound in (Anything.action_space.low, Anything.action_space.high))
    centre, half_range = (high + low) / 2, (high - low) / 2
    if hasattr(policy, "get_distribution"):
        mean = (policy.get_distribution(states).distribution.mean - centre) / half_range
    else:
        mean = policy.actor(states, deterministic=True)
    return (((actions - centre) / half_range - mean) ** 2).sum(-1)


def scores_by_hand(model: CPL, pairs: Pairs, data: PreferenceBuffer) -> tuple[np.ndarray, list]:
    """Σ γ^t A of every segment (2, n), and the log-probs of their steps."""

    def log_prob(policy: Any) -> torch.Tensor:
        if model.fixed_std is None:
            return log_probs(policy, data)
        return -squared_errors(policy, data) / (2 * model.fixed_std**2)

    with torch.no_grad():
        logp, logp_ref = (log_prob(policy).double().numpy() for policy in (model.policy, model.reference.policy))
    advantages = model.alpha * (logp if model.advantage == "log_prob" else logp - logp_ref)
    segments = segments_of(pairs, data)
    scores = [[(model.gamma ** np.arange(len(rows)) * advantages[rows]).sum() for rows in part] for part in segments]
    return np.array(scores), [[logp[rows] for rows in part] for part in segments]


# The loss

VARIANTS = {
    "CPL": {},
    "CPL, the published code's": {"fixed_std": 0.5**0.5},
    "CPL, discounted": {"gamma": 0.8},
    "CPL, own likelihood": {"fixed_std": None},
    "KL variant": KL,
    "KL variant, own likelihood": {**KL, "fixed_std": None},
    "BC variant": {"bias": 1.0, "bc_coef": 1.0},
    "BC of the preferred": {"bc_coef": 0.3, "bc_data": "preferred"},
}


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_the_formula(algorithm, variant):
    model = cpl_of(model_of(algorithm), **VARIANTS[variant])
    pairs = next(model.batches())
    assert not pairs.is_real.all()
    scores, logp = scores_by_hand(model, pairs, model.preferences)
    chosen, rejected = scores
    preference = -np.log(np.exp(chosen) / (np.exp(chosen) + np.exp(model.bias * rejected))).mean()
    cloned = logp[0] if model.bc_data == "preferred" else logp[0] + logp[1]
    bc = -np.concatenate(cloned).mean()
    found = metrics_of(model, pairs)
    assert found["train/preference_loss"] == pytest.approx(preference, rel=1e-3)
    assert found["train/bc_loss"] == pytest.approx(bc, rel=1e-3)
    assert found["train/loss"] == pytest.approx(preference + model.bc_coef * bc, rel=1e-3)
    assert found["rewards/chosen"] == pytest.approx(chosen.mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/rejected"] == pytest.approx(rejected.mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/margins"] == pytest.approx((chosen - rejected).mean(), rel=1e-2, abs=1e-3)
    assert found["rewards/accuracies"] == (chosen > rejected).mean()
    assert found["logps/chosen"] == pytest.approx(np.mean([part.mean() for part in logp[0]]), rel=1e-3, abs=1e-3)


def test_the_published_code_s_score_is_minus_the_squared_error():
    """α 0.1: -0.1 Σ |a - μ|², without half and without a constant."""
    model = cpl_of(fixed_std=0.5**0.5)
    pairs = next(model.batches())
    with torch.no_grad():
        errors = squared_errors(model.policy, model.preferences).numpy()
    expected = np.mean([-0.1 * errors[rows].sum() for rows in segments_of(pairs, model.preferences)[0]])
    assert metrics_of(model, pairs)["rewards/chosen"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_gradient_is_that_of_the_log_probs_weighted_by_the_probability_of_the_other_order(algorithm):
    """∇ℓ = -α σ(λ s⁻ - s⁺) (Σ γ^t ∇log π(τ⁺) - λ Σ γ^t ∇log π(τ⁻)), the mean over the pairs."""
    model = cpl_of(model_of(algorithm), gamma=0.9, fixed_std=None)
    pairs, data = next(model.batches()), model.preferences
    scores, _ = scores_by_hand(model, pairs, data)
    model.train(pairs)
    other_order = 1 / (1 + np.exp(scores[0] - 0.5 * scores[1]))
    logp = log_probs(model.policy, data)
    sums = [[(0.9 ** torch.arange(len(rows)) * logp[rows]).sum() for rows in part] for part in segments_of(pairs, data)]
    value = sum(
        -0.1 * wrong * (good - 0.5 * bad) / len(other_order)
        for wrong, good, bad in zip(other_order.tolist(), *sums, strict=True)
    )
    expected = gradient_of(value, model)
    assert expected.norm() > 0.01
    assert (gradient(model) - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_changes_along_the_gradient_as_it_says(variant):
    """By central differences."""
    model = cpl_of(**VARIANTS[variant])
    pairs = next(model.batches())
    slope = metrics_of(model, pairs)["train/grad_norm"]
    assert slope > 0.01
    assert along_gradient(model, lambda: metrics_of(model, pairs)["train/loss"]) == pytest.approx(slope, rel=1e-2)


def test_the_kl_variant_prefers_nothing_at_the_first_step():
    model = cpl_of(shifted=False, **KL)
    found = metrics_of(model, next(model.batches()))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-6)
    assert found["rewards/chosen"] == found["rewards/rejected"] == 0.0


def test_the_kl_variant_is_ppl_of_the_same_temperature_but_for_its_bias():
    """Of a deterministic actor, which both take for the same Gaussian."""
    source = model_of(TD3, buffer_size=1)
    kwargs = {"fixed_std": 0.5, "batch_size": 16, "segment_length": 4, "learning_rate": 1e-2, "seed": 0}
    ppl = PPL(source, buffer(), beta=0.2, device="cpu", **kwargs).learn(10)
    cpl = CPL(source, buffer(), advantage="log_ratio", alpha=0.2, bias=1.0, device="cpu", **kwargs).learn(10)
    for name, weight in ppl.policy.state_dict().items():
        torch.testing.assert_close(cpl.policy.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_what_fills_up_does_not_count():
    model = cpl_of(bc_coef=0.5, fixed_std=None)
    pairs = next(model.batches())
    unreal = ~pairs.is_real.flatten()
    assert 0 < unreal.sum() < len(unreal)
    actions = torch.where(unreal[:, None], torch.full_like(pairs.actions, 9.0), pairs.actions)
    inputs = torch.where(unreal[:, None], torch.full_like(pairs.inputs, -9.0), pairs.inputs)
    assert metrics_of(model, pairs) == pytest.approx(
        metrics_of(model, dataclasses.replace(pairs, actions=actions, inputs=inputs)), rel=1e-5
    )


# Weights and labels


def test_an_episode_that_counts_nothing_teaches_nothing_nor_is_it_cloned():
    def learnt(seed_of_ignored: int) -> dict[str, torch.Tensor]:
        ignored = episodes([9], seed=seed_of_ignored)
        data = PreferenceBuffer(
            episodes([8, 6]) + ignored, episodes([7], seed=1), preferred_weights=np.array([1.0, 2.0, 0.0])
        )
        return weights(cpl_of(data=data, learning_rate=1e-2, bc_coef=1.0, shifted=False).learn(10).policy)

    one, other = learnt(2), learnt(3)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(weight, one[name]) for name, weight in model_of(PPO).policy.state_dict().items())


def test_a_label_of_one_half_is_the_mean_of_both_orders_each_with_the_bias_on_the_worse_one():
    data = buffer(preferred_labels=np.full(3, 0.75), dispreferred_labels=np.full(3, 0.25))
    model = cpl_of(data=data)
    pairs = next(model.batches())
    (chosen, rejected), _ = scores_by_hand(model, pairs, data)
    orders = np.log1p(np.exp(0.5 * rejected - chosen)), np.log1p(np.exp(0.5 * chosen - rejected))
    assert metrics_of(model, pairs)["train/loss"] == pytest.approx(np.mean(orders), rel=1e-4)


# The Gaussian of fixed standard deviation


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_policy_s_own_standard_deviation_is_not_trained_by_a_fixed_one(algorithm):
    source = model_of(algorithm)
    own = "log_std"
    for fixed_std, is_trained in ((1.0, False), (None, True)):
        model = cpl_of(source, preferences(), fixed_std=fixed_std, learning_rate=1e-2, shifted=False).learn(5)
        changed = [
            name
            for name, weight in source.policy.state_dict().items()
            if own in name and not torch.equal(weight, model.policy.state_dict()[name])
        ]
        assert bool(changed) == is_trained


# What it learns


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
@pytest.mark.parametrize("variant", [{}, KL], ids=["CPL", "KL"])
def test_it_learns_to_tell_good_segments_from_bad_ones(algorithm, variant):
    """Also at states that it has not seen."""
    source = model_of(algorithm)
    model = cpl_of(source, preferences(), segment_length=5, learning_rate=3e-3, shifted=False, **variant)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(200)
    assert recorder.rows[-1]["rewards/accuracies"] > 0.95
    actions, before = (policy.predict(STATES, deterministic=True)[0] for policy in (model, source))
    closer = lambda found: np.abs(found - np.array(BAD)).mean() - np.abs(found - np.array(GOOD)).mean()  # noqa: E731
    assert closer(actions) > closer(before) + 0.3


def test_the_behaviour_cloning_term_keeps_the_policy_with_the_data():
    """Without it, the policy goes past what is preferred, away from what is not."""
    found = {}
    for bc_coef in (0.0, 10.0):
        model = cpl_of(data=preferences(), learning_rate=3e-3, bc_coef=bc_coef, bc_data="preferred", shifted=False)
        actions, _ = model.learn(300).predict(STATES, deterministic=True)
        found[bc_coef] = np.abs(actions - np.array(GOOD)).mean()
    assert found[10.0] < 0.25 < found[0.0]


def test_it_starts_where_cloning_of_all_segments_ended():
    data = preferences()
    cloned = BC("GaussianPolicy", data.preferred + data.dispreferred, Anything(), seed=0, device="cpu").learn(20)
    model = cpl_of(cloned, data, shifted=False, **KL)
    assert_same_weights(weights(model.policy), weights(cloned.policy))
    assert_same_weights(weights(model.reference.policy), weights(cloned.policy))
    assert not model.optimizer.state
    found = metrics_of(model, next(model.batches()))
    assert found["train/preference_loss"] == pytest.approx(math.log(2.0), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "env", "options"),
    [
        (lambda env: model_of(PPO, env()), choosing(spaces.Discrete(4)), {}),
        (lambda env: model_of(MaskablePPO, env()), masked(spaces.MultiDiscrete([3, 2])), {}),
        (lambda env: model_of(DQN, env(), buffer_size=1), choosing(spaces.Discrete(4)), {"temperature": 0.5}),
        (lambda env: cvae(), Anything, {}),
    ],
    ids=["Discrete", "masks", "DQN", "CVAEPolicy"],
)
@pytest.mark.parametrize("variant", [{}, KL], ids=["CPL", "KL"])
def test_other_policies_are_scored_by_their_own_likelihood(make, env, options, variant):
    reference = load_reference(make(env))
    before = weights(reference.policy)
    data = PreferenceBuffer(*(collect(reference, env, 3, seed=seed, progress_bar=False) for seed in range(2)))
    kwargs = {"fixed_std": None, "learning_rate": 1e-3, "seed": 0, "device": "cpu", **options, **variant}
    model = CPL(reference, data, **kwargs)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(20, log_interval=10)
    first, last = (row["train/preference_loss"] for row in recorder.rows)
    assert last < first
    assert_same_weights(weights(reference.policy), before)


# Its face


def test_the_defaults_are_the_original_s():
    model = CPL(model_of(PPO), device="cpu")
    found = (model.alpha, model.bias, model.gamma, model.fixed_std, model.learning_rate, model.segment_length)
    assert found == (0.1, 0.5, 1.0, 1.0, 1e-4, 64)
    assert model._states_per_update == PREFINE(model_of(PPO), device="cpu")._states_per_update


@pytest.mark.parametrize("variant", [{}, KL], ids=["CPL", "KL"])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_reference_does_not_change_by_a_bit(algorithm, variant):
    source = model_of(algorithm)
    given = weights(source.policy)
    model = cpl_of(source, learning_rate=1e-2, shifted=False, **variant).learn(30)
    assert_same_weights(weights(model.reference.policy), given)
    assert_same_weights(weights(source.policy), given)
    assert any(not torch.equal(tensor, given[name]) for name, tensor in model.policy.state_dict().items())


def test_equal_seeds_give_equal_bits_and_others_do_not():
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(cpl_of(seed=seed, learning_rate=1e-3).learn(20).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(tensor, first[name]) for name, tensor in run(4).items())


@pytest.mark.parametrize("variant", [{}, {**KL, "fixed_std": None}], ids=["CPL", "KL"])
def test_saved_loaded_and_gone_on_with_it_is_as_if_it_had_run_through(variant, tmp_path, monkeypatch):
    # Each set is one segment, so that all batches are the same, whatever was drawn before.
    data = PreferenceBuffer(episodes([4]), episodes([4], seed=1))
    kwargs = {"learning_rate": 1e-2, "bc_coef": 0.1, "shifted": False, **variant}
    through = cpl_of(data=data, **kwargs).learn(20)
    model = cpl_of(data=data, **kwargs).learn(12)
    model.save(tmp_path / "cpl")
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    loaded = CPL.load(tmp_path / "cpl", device="cpu")
    for name in ("advantage", "alpha", "bias", "gamma", "bc_coef", "bc_data", "fixed_std", "segment_length"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.preferences is None
    assert_same_weights(weights(loaded.reference.policy), weights(model.reference.policy))
    for resumed in (model, loaded):
        resumed.preferences = data
        assert resumed.learn(8, reset_num_timesteps=False).num_timesteps == 20
        assert_same_weights(weights(resumed.policy), weights(through.policy))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_export_is_a_plain_zip_of_the_class_it_came_from(algorithm, tmp_path):
    model = cpl_of(model_of(algorithm), learning_rate=1e-2).learn(5)
    exported = algorithm.load(model.export(tmp_path / "safe"), device="cpu")
    np.testing.assert_array_equal(
        exported.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )


def test_a_file_of_ppl_is_where_to_start_from(tmp_path):
    ppl = PPL(model_of(PPO), preferences(), learning_rate=1e-2, device="cpu").learn(2)
    ppl.save(tmp_path / "ppl")
    opened = CPL.load(tmp_path / "ppl", device="cpu")
    assert opened.num_timesteps == 0
    assert_same_weights(weights(opened.policy), weights(ppl.policy))


def test_its_terms_are_logged():
    model = cpl_of(learning_rate=1e-3, bc_coef=0.5, shifted=False)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(4, log_interval=2)
    for row in recorder.rows:
        assert row["train/loss"] == pytest.approx(row["train/preference_loss"] + 0.5 * row["train/bc_loss"], rel=1e-5)
        assert {"rewards/margins", "rewards/accuracies", "train/grad_norm", "logps/rejected"} <= set(row)


def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_weights():
    model = cpl_of(learning_rate=1e25, shifted=False)
    with pytest.raises(FloatingPointError, match=r"in update \d+ of this call"):
        model.learn(200)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


# What is refused


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"advantage": "q_value"}, "advantage: 'q_value' is not known. Choose one of log_prob, log_ratio"),
        ({"alpha": 0.0}, r"alpha: expected a finite number > 0, found 0\.0"),
        ({"bias": 0.0}, r"bias: expected a fraction in \(0, 1\], found 0\.0"),
        ({"bias": 1.5}, r"bias: expected a fraction in \(0, 1\], found 1\.5"),
        ({"gamma": 1.01}, r"gamma: expected a fraction in \(0, 1\], found 1\.01"),
        ({"bc_coef": -1.0}, r"bc_coef: expected a finite number >= 0, found -1\.0"),
        ({"bc_data": "rejected"}, "bc_data: 'rejected' is not known. Choose one of all, preferred"),
        ({"fixed_std": 0.0}, r"fixed_std: expected a finite number > 0 or None, found 0\.0"),
        ({"temperature": 1.0}, r"temperature: 1\.0 is for the policy's own likelihood\. Pass fixed_std=None with it"),
        ({"segment_length": -1}, "segment_length: expected a whole number > 0, found -1"),
        ({"learning_rate": math.nan}, "learning_rate: expected a finite number >= 0, found nan"),
    ],
)
def test_what_it_cannot_learn_with_is_refused_at_once_and_when_loading(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cpl_of(**kwargs)
    cpl_of().save(tmp_path / "cpl")
    with pytest.raises(ValueError, match=message):
        CPL.load(tmp_path / "cpl", device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("source", "kwargs", "message"),
    [
        (
            lambda: model_of(PPO, choosing(spaces.Discrete(4))()),
            {},
            "whose likelihood is categorical: .*fixed_std=None",
        ),
        (cvae, {}, r"fixed_std: 1\.0 was given for CVAEPolicy.* Pass fixed_std=None"),
        (lambda: model_of(TD3, buffer_size=1), {"fixed_std": None}, "TD3Policy .* is deterministic"),
        (
            lambda: RecurrentPPO("MlpLstmPolicy", Anything(), device="cpu"),
            {},
            "RecurrentActorCriticPolicy is recurrent: .* before a segment, which CPL does not read",
        ),
    ],
)
def test_policies_that_it_cannot_score_are_refused(source, kwargs, message):
    with pytest.raises(TypeError, match=message):
        CPL(source(), device="cpu", **kwargs)


def test_learning_without_data_or_from_those_of_other_spaces_is_refused():
    with pytest.raises(ValueError, match=r"^preferences: .*CPL"):
        CPL(model_of(PPO), device="cpu").learn(1)
    with pytest.raises(ValueError, match="preferred: observations have shape"):
        CPL(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), preferences(), device="cpu")
    other = CPL(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), device="cpu")
    other.preferences = PreferenceBuffer(trajectories(GOOD), trajectories(BAD))
    with pytest.raises(ValueError, match="preferred: observations have shape"):
        other.learn(1)
