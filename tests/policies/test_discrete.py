"""Discrete likelihoods: plain choices against SB3, masked ones and Q-values against softmaxes in NumPy."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import QRDQN, MaskablePPO
from stable_baselines3 import DQN, PPO

from sb3_prefine.policies.base import MaskedInputs
from sb3_prefine.policies.discrete import independent_choices
from sb3_prefine.policies.likelihood import Likelihood, likelihood_of
from tests.families import masked_env_with_actions
from tests.worlds import OBSERVATIONS, env_with_actions, make_model

SIZES = {
    "Discrete": (spaces.Discrete(4), [4]),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2, 4]), [3, 2, 4]),
    "MultiBinary": (spaces.MultiBinary(3), [2, 2, 2]),
}
EACH_SPACE = pytest.mark.parametrize(("space", "sizes"), SIZES.values(), ids=SIZES)
N = 9


@pytest.fixture
def observations() -> torch.Tensor:
    return states(7)


def states(n: int = N) -> torch.Tensor:
    return torch.randn((n, OBSERVATIONS), generator=torch.Generator().manual_seed(0))


def far_from_uniform(policy: Any) -> Any:
    """Scale the last layer of the policy, so that its actions are far from uniform."""
    policy.set_training_mode(False)
    with torch.no_grad():
        for weight in policy.action_net.parameters():
            weight.mul_(100.0)
    return policy


def maskable(space: spaces.Space) -> tuple[Any, Likelihood]:
    policy = far_from_uniform(make_model(MaskablePPO, masked_env_with_actions(space)()).policy)
    return policy, likelihood_of(policy, -5.0)


def random_masks(sizes: list[int], seed: int = 0, n: int = N) -> np.ndarray:
    """Random masks that allow at least one option of each choice."""
    rng = np.random.default_rng(seed)
    masks = []
    for size in sizes:
        mask = rng.random((n, size)) < 0.5
        mask[np.arange(n), rng.integers(size, size=n)] = True
        masks.append(mask)
    return np.concatenate(masks, axis=1)


def softmax_by_hand(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Probabilities of the options of one choice; 0 for those that are not allowed."""
    weights = np.where(allowed, np.exp(logits - logits.max()), 0.0)
    return weights / weights.sum()


# Plain choices

DISCRETE = {
    "categorical": spaces.Discrete(4),
    "multi-categorical": spaces.MultiDiscrete([3, 2, 4]),
    "Bernoulli": spaces.MultiBinary(3),
}


@pytest.mark.parametrize("space", DISCRETE.values(), ids=DISCRETE)
def test_discrete_policies_score_as_sb3_does(space, observations):
    policy = make_model(PPO, env_with_actions(space)()).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    actions = np.stack([space.sample() for _ in range(7)])
    given = torch.as_tensor(actions).to(torch.float if isinstance(space, spaces.MultiBinary) else torch.long)
    _, expected, _ = policy.evaluate_actions(observations, given)
    params = likelihood.params(policy, observations)
    torch.testing.assert_close(likelihood.log_prob(params, likelihood.encode(torch.as_tensor(actions))), expected)


@pytest.mark.parametrize("space", DISCRETE.values(), ids=DISCRETE)
def test_discrete_samples_occur_with_their_probability(space):
    policy = make_model(PPO, env_with_actions(space)()).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    with torch.no_grad():
        for parameter in policy.action_net.parameters():
            parameter.mul_(50)  # far from uniform
        params = likelihood.params(policy, torch.ones(40_000, OBSERVATIONS))
        samples = likelihood.sample(params, torch.Generator().manual_seed(0))
        kinds, counts = samples.unique(dim=0, return_counts=True)
        probabilities = likelihood.log_prob(params[: len(kinds)], kinds).exp()
    torch.testing.assert_close(counts / 40_000, probabilities, rtol=0, atol=0.01)
    assert probabilities.sum() > 0.99


def test_column_of_discrete_actions_does_not_broadcast(observations):
    policy = make_model(PPO, env_with_actions(spaces.Discrete(4))()).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    params = likelihood.params(policy, observations)
    assert likelihood.log_prob(params, likelihood.encode(torch.zeros(7, 1))).shape == (7,)
    both = torch.stack((likelihood.encode(torch.zeros(7)), likelihood.encode(torch.ones(7))))
    assert likelihood.log_prob(params, both).shape == (2, 7)


# Masks


@EACH_SPACE
def test_masked_policy_is_a_softmax_over_the_allowed_options(space, sizes):
    policy, likelihood = maskable(space)
    masks = random_masks(sizes)
    with torch.no_grad():
        features = policy.mlp_extractor.forward_actor(policy.extract_features(states(), policy.pi_features_extractor))
        logits = policy.action_net(features).double().numpy()
        params = likelihood.params(policy, MaskedInputs(states(), torch.as_tensor(masks)))
    assert params.shape == (N, sum(sizes))
    starts = np.cumsum([0, *sizes])
    rng = np.random.default_rng(1)
    for row in range(N):
        expected, action = 0.0, []
        for low, high in itertools.pairwise(starts):
            p = softmax_by_hand(logits[row, low:high], masks[row, low:high])
            np.testing.assert_allclose(params[row, low:high].exp().numpy(), p, rtol=1e-4, atol=1e-6)
            action.append(int(rng.choice(np.flatnonzero(masks[row, low:high]))))
            expected += np.log(p[action[-1]])
        given_action = np.array([action]).reshape(1, *space.shape)
        encoded = likelihood.encode(torch.as_tensor(given_action))
        assert likelihood.log_prob(params[row : row + 1], encoded).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@EACH_SPACE
def test_counterfactual_is_never_a_forbidden_action(space, sizes):
    policy, likelihood = maskable(space)
    masks = random_masks(sizes, n=20).repeat(500, axis=0)
    with torch.no_grad():
        params = likelihood.params(policy, MaskedInputs(states(20).repeat_interleave(500, 0), torch.as_tensor(masks)))
        samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    options = samples.numpy() + np.cumsum([0, *sizes[:-1]])
    assert np.take_along_axis(masks, options, axis=1).all()
    # Allowed options are drawn with their probability: the first choice at the first state.
    counts = np.bincount(samples[:500, 0].numpy(), minlength=sizes[0]) / 500
    np.testing.assert_allclose(counts, params[0, : sizes[0]].exp().numpy(), atol=0.12)


@EACH_SPACE
def test_forbidden_options_get_no_gradient_and_no_nan(space, sizes):
    policy, likelihood = maskable(space)
    masks = torch.as_tensor(random_masks(sizes))
    masks[:, : sizes[0]] = False
    masks[:, 1] = True  # the first choice has a single option
    params = likelihood.params(policy, MaskedInputs(states(), masks))
    samples = likelihood.sample(params.detach(), torch.Generator().manual_seed(0))
    scores = likelihood.log_prob(params, samples)
    bias = policy.action_net.bias
    [gradient] = torch.autograd.grad(scores.sum(), bias)
    assert torch.isfinite(scores).all()
    assert torch.isfinite(gradient).all()
    assert (samples[:, 0] == 1).all()
    assert (gradient[: sizes[0]] == 0).all()


@EACH_SPACE
def test_log_prob_does_not_depend_on_forbidden_logits(space, sizes):
    """Two policies differ in these logits; at -1e8 the difference would dominate the log-ratio."""
    policy, likelihood = maskable(space)
    masks = torch.as_tensor(random_masks(sizes))
    with torch.no_grad():
        before = likelihood.params(policy, MaskedInputs(states(), masks))
        samples = likelihood.sample(before, torch.Generator().manual_seed(0))
        scores = likelihood.log_prob(before, samples)
        for row in range(N):
            policy.action_net.bias[~masks[row]] += 50.0
            params = likelihood.params(policy, MaskedInputs(states()[row : row + 1], masks[row : row + 1]))
            assert likelihood.log_prob(params, samples[row : row + 1]).item() == pytest.approx(
                float(scores[row]), abs=1e-5
            )
            policy.action_net.bias[~masks[row]] -= 50.0


# Several choices


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000), st.integers(1, 3))
def test_log_probs_of_independent_choices_add_up(sizes, seed, n_leading):
    rng = np.random.default_rng(seed)
    likelihood = independent_choices("any", sizes, "observations")
    tables = [np.log(rng.dirichlet(np.ones(size), 6)) for size in sizes]
    params = torch.as_tensor(np.concatenate(tables, axis=1))
    actions = np.stack([rng.integers(size, size=(n_leading, 6)) for size in sizes], axis=-1)
    scores = likelihood.log_prob(params, torch.as_tensor(actions))
    for k in range(n_leading):
        for row in range(6):
            expected = sum(table[row, a] for table, a in zip(tables, actions[k, row], strict=True))
            assert scores[k, row].item() == pytest.approx(expected)
    samples = likelihood.sample(params, torch.Generator().manual_seed(seed))
    assert samples.shape == (6, len(sizes))
    assert (samples < torch.as_tensor(sizes)).all()


def test_log_prob_of_a_bit_is_its_logistic_function():
    policy = far_from_uniform(make_model(PPO, env_with_actions(spaces.MultiBinary(3))()).policy)
    likelihood = likelihood_of(policy, -5.0)
    with torch.no_grad():
        params = likelihood.params(policy, states())
    p = 1.0 / (1.0 + np.exp(-params.double().numpy()))
    bits = np.random.default_rng(0).integers(2, size=(N, 3))
    expected = np.log(np.where(bits == 1, p, 1.0 - p)).sum(axis=1)
    found = likelihood.log_prob(params, likelihood.encode(torch.as_tensor(bits)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


# Q-values


@pytest.mark.parametrize("algorithm", [DQN, QRDQN])
@pytest.mark.parametrize("temperature", [0.02, 1.0])
def test_q_values_become_a_softmax(algorithm, temperature):
    policy: Any = make_model(algorithm, env_with_actions(spaces.Discrete(4))(), buffer_size=10).policy
    policy.set_training_mode(False)
    likelihood = likelihood_of(policy, -5.0, temperature=temperature)
    with torch.no_grad():
        if algorithm is DQN:
            q_values = policy.q_net(states()).double().numpy()
        else:
            quantiles = policy.quantile_net(states()).double().numpy()
            assert quantiles.shape == (N, 200, 4)
            q_values = quantiles.mean(axis=1)
        params = likelihood.params(policy, states())
    for row in range(N):
        expected = softmax_by_hand(q_values[row] / temperature, np.ones(4, bool))
        found = [likelihood.log_prob(params[row : row + 1], torch.tensor([[a]])).exp().item() for a in range(4)]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    # The most likely action is the policy's deterministic one.
    greedy, _ = policy.predict(states().numpy(), deterministic=True)
    np.testing.assert_array_equal(params.argmax(1).numpy(), greedy)


def test_lower_temperature_gives_lower_entropy():
    policy: Any = make_model(DQN, env_with_actions(spaces.Discrete(4))(), buffer_size=10).policy
    with torch.no_grad():
        entropies = [
            -(p.exp() * p).sum(1).mean().item()
            for p in (
                likelihood_of(policy, -5.0, temperature=t).params(policy, states()) for t in (0.01, 0.1, 1.0, 1e4)
            )
        ]
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(np.log(4), abs=1e-4)


@pytest.mark.parametrize("algorithm", [DQN, QRDQN])
def test_q_values_of_actions_that_start_at_two_are_refused(algorithm):
    policy = make_model(algorithm, env_with_actions(spaces.Discrete(4, start=2))(), buffer_size=10).policy
    with pytest.raises(TypeError, match=r"^policy: .*2"):
        likelihood_of(policy, -5.0, temperature=1.0)
