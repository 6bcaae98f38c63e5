"""CPL and its variants: their losses and gradients, derived independently, and the policies that they train."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO, SAC, TD3

from sb3_prefine import PREFINE, PreferenceBuffer, collect, load_reference
from sb3_prefine.baselines import CPL, PPL
from sb3_prefine.baselines.segments import Pairs
from tests.baselines.by_hand import (
    buffer,
    gradient,
    gradient_of,
    log_probs,
    next_batch,
    segments_of,
    shift,
    update,
)
from tests.families import make_cvae, masked_env_with_actions
from tests.worlds import (
    GOOD,
    STATES,
    RandomEnv,
    RecordingLogger,
    assert_same_weights,
    env_with_actions,
    make_model,
    preferences,
    weights,
)

KL = {"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75}


def cpl_of(source: Any = None, data: PreferenceBuffer | None = None, shifted: bool = True, **kwargs: Any) -> CPL:
    """CPL with segments of 4 steps, a learning rate of 0 and, if ``shifted``, other weights than the reference's."""
    given = {"batch_size": 16, "segment_length": 4, "learning_rate": 0.0, "seed": 0, "device": "cpu"}
    model = CPL(source or make_model(PPO), data or buffer(), **{**given, **kwargs})
    if shifted:
        shift(model.policy)
    return model


def squared_errors(policy: Any, data: PreferenceBuffer) -> torch.Tensor:
    """Squared errors of the unclipped mean actions, in units of actions scaled to [-1, 1], (N,)."""
    states, actions = (
        torch.as_tensor(np.concatenate([getattr(data.preferred, name), getattr(data.dispreferred, name)]))
        for name in ("observations", "actions")
    )
    low, high = (torch.as_tensor(bound) for bound in (RandomEnv.action_space.low, RandomEnv.action_space.high))
    centre, half_range = (high + low) / 2, (high - low) / 2
    if hasattr(policy, "get_distribution"):
        mean = (policy.get_distribution(states).distribution.mean - centre) / half_range
    else:
        mean = policy.actor(states, deterministic=True)
    return (((actions - centre) / half_range - mean) ** 2).sum(-1)


def scores_by_hand(model: CPL, pairs: Pairs, data: PreferenceBuffer) -> tuple[np.ndarray, list]:
    """Σ γ^t A of every segment, (2, n), and the log-probs of their steps."""

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


VARIANTS = {
    "CPL": {},
    "CPL, published code": {"fixed_std": 0.5**0.5},
    "CPL, discounted": {"gamma": 0.8},
    "CPL, own likelihood": {"fixed_std": None},
    "KL variant": KL,
    "KL variant, own likelihood": {**KL, "fixed_std": None},
    "BC variant": {"bias": 1.0, "bc_coef": 1.0},
    "BC of preferred segments": {"bc_coef": 0.3, "bc_data": "preferred"},
}


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_follows_its_formula(algorithm, variant):
    model = cpl_of(make_model(algorithm), **VARIANTS[variant])
    pairs = next_batch(model)
    assert not pairs.is_real.all()
    scores, logp = scores_by_hand(model, pairs, model.preferences)
    chosen, rejected = scores
    preference = -np.log(np.exp(chosen) / (np.exp(chosen) + np.exp(model.bias * rejected))).mean()
    cloned = logp[0] if model.bc_data == "preferred" else logp[0] + logp[1]
    bc = -np.concatenate(cloned).mean()
    found = update(model, pairs)
    assert found["train/preference_loss"] == pytest.approx(preference, rel=1e-3)
    assert found["train/bc_loss"] == pytest.approx(bc, rel=1e-3)
    assert found["train/loss"] == pytest.approx(preference + model.bc_coef * bc, rel=1e-3)
    assert found["rewards/chosen"] == pytest.approx(chosen.mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/rejected"] == pytest.approx(rejected.mean(), rel=1e-3, abs=1e-3)
    assert found["rewards/margins"] == pytest.approx((chosen - rejected).mean(), rel=1e-2, abs=1e-3)
    assert found["rewards/accuracies"] == (chosen > rejected).mean()
    assert found["logps/chosen"] == pytest.approx(np.mean([part.mean() for part in logp[0]]), rel=1e-3, abs=1e-3)


def test_the_score_of_the_published_code_is_the_squared_error():
    """-α Σ |a - μ|², without a factor 1/2 and without a constant."""
    model = cpl_of(fixed_std=0.5**0.5)
    pairs = next_batch(model)
    with torch.no_grad():
        errors = squared_errors(model.policy, model.preferences).numpy()
    expected = np.mean([-0.1 * errors[rows].sum() for rows in segments_of(pairs, model.preferences)[0]])
    assert update(model, pairs)["rewards/chosen"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_gradient_is_that_of_biased_bradley_terry(algorithm):
    """∇ℓ = -α σ(λ s⁻ - s⁺) (Σ γ^t ∇log π(τ⁺) - λ Σ γ^t ∇log π(τ⁻)), the mean over the pairs."""
    model = cpl_of(make_model(algorithm), gamma=0.9, fixed_std=None)
    pairs, data = next_batch(model), model.preferences
    scores, _ = scores_by_hand(model, pairs, data)
    update(model, pairs)
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


def test_the_kl_variant_starts_from_equal_scores():
    model = cpl_of(shifted=False, **KL)
    found = update(model, next_batch(model))
    assert found["train/loss"] == pytest.approx(math.log(2.0), abs=1e-6)
    assert found["rewards/chosen"] == found["rewards/rejected"] == 0.0


def test_the_kl_variant_without_bias_equals_ppl():
    """Both take a deterministic actor for the same Gaussian."""
    source = make_model(TD3, buffer_size=1)
    kwargs = {"fixed_std": 0.5, "batch_size": 16, "segment_length": 4, "learning_rate": 1e-2, "seed": 0}
    ppl = PPL(source, buffer(), beta=0.2, device="cpu", **kwargs).learn(10)
    cpl = CPL(source, buffer(), advantage="log_ratio", alpha=0.2, bias=1.0, device="cpu", **kwargs).learn(10)
    for name, weight in ppl.policy.state_dict().items():
        torch.testing.assert_close(cpl.policy.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_labels_mix_both_orders_with_the_bias_on_the_worse_segment():
    data = buffer(preferred_labels=np.full(3, 0.75), dispreferred_labels=np.full(3, 0.25))
    model = cpl_of(data=data)
    pairs = next_batch(model)
    (chosen, rejected), _ = scores_by_hand(model, pairs, data)
    orders = np.log1p(np.exp(0.5 * rejected - chosen)), np.log1p(np.exp(0.5 * chosen - rejected))
    assert update(model, pairs)["train/loss"] == pytest.approx(np.mean(orders), rel=1e-4)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_with_a_fixed_std_the_policy_keeps_its_own_std(algorithm):
    source = make_model(algorithm)
    for fixed_std, is_trained in ((1.0, False), (None, True)):
        model = cpl_of(source, preferences(), fixed_std=fixed_std, learning_rate=1e-2, shifted=False).learn(5)
        changed = [
            name
            for name, weight in source.policy.state_dict().items()
            if "log_std" in name and not torch.equal(weight, model.policy.state_dict()[name])
        ]
        assert bool(changed) == is_trained


def test_the_bc_term_keeps_the_policy_at_the_data():
    """Without this term, the policy overshoots the preferred actions, away from the dispreferred ones."""
    found = {}
    for bc_coef in (0.0, 10.0):
        model = cpl_of(data=preferences(), learning_rate=3e-3, bc_coef=bc_coef, bc_data="preferred", shifted=False)
        actions, _ = model.learn(300).predict(STATES, deterministic=True)
        found[bc_coef] = np.abs(actions - np.array(GOOD)).mean()
    assert found[10.0] < 0.25 < found[0.0]


@pytest.mark.parametrize(
    ("make", "env", "options"),
    [
        (lambda env: make_model(PPO, env()), env_with_actions(spaces.Discrete(4)), {}),
        (lambda env: make_model(MaskablePPO, env()), masked_env_with_actions(spaces.MultiDiscrete([3, 2])), {}),
        (lambda env: make_model(DQN, env(), buffer_size=1), env_with_actions(spaces.Discrete(4)), {"temperature": 0.5}),
        (lambda env: make_cvae(), RandomEnv, {}),
    ],
    ids=["Discrete", "masks", "DQN", "CVAEPolicy"],
)
@pytest.mark.parametrize("variant", [{}, KL], ids=["CPL", "KL"])
def test_without_a_fixed_std_all_policies_use_their_likelihood(make, env, options, variant):
    reference = load_reference(make(env))
    before = weights(reference.policy)
    data = PreferenceBuffer(*(collect(reference, env, 3, seed=seed, progress_bar=False) for seed in range(2)))
    kwargs = {"fixed_std": None, "learning_rate": 1e-3, "seed": 0, "device": "cpu", **options, **variant}
    model = CPL(reference, data, **kwargs)
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(20, log_interval=10)
    first, last = (row["train/preference_loss"] for row in recorder.rows)
    assert last < first
    assert_same_weights(weights(reference.policy), before)


def test_the_defaults_are_those_of_the_paper():
    model = CPL(make_model(PPO), device="cpu")
    found = (model.alpha, model.bias, model.gamma, model.fixed_std, model.learning_rate, model.segment_length)
    assert found == (0.1, 0.5, 1.0, 1.0, 1e-4, 64)
    assert model._states_per_update == PREFINE(make_model(PPO), device="cpu")._states_per_update


def test_the_logged_terms_add_up_to_the_loss():
    model = cpl_of(learning_rate=1e-3, bc_coef=0.5, shifted=False)
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(4, log_interval=2)
    for row in recorder.rows:
        assert row["train/loss"] == pytest.approx(row["train/preference_loss"] + 0.5 * row["train/bc_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("source", "kwargs", "error"),
    [
        (lambda: make_model(PPO, env_with_actions(spaces.Discrete(4))()), {}, r"fixed_std: 1\.0 .*categorical"),
        (make_cvae, {}, r"fixed_std: 1\.0 .*CVAEPolicy"),
        (lambda: make_model(TD3, buffer_size=1), {"fixed_std": None}, "policy: TD3Policy"),
    ],
)
def test_a_policy_without_the_likelihood_is_refused(source, kwargs, error):
    with pytest.raises(TypeError, match=f"^{error}"):
        CPL(source(), device="cpu", **kwargs)
