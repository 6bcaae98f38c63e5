"""Gaussian likelihoods against SB3's own distributions and SciPy."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from scipy.stats import norm
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3

from sb3_prefine.policies.gaussian import ACTION_MARGIN
from sb3_prefine.policies.likelihood import gaussian_around_mode, likelihood_of
from tests.worlds import ACTIONS, OBSERVATIONS, RandomEnv, make_model

DIAGONAL, SQUASHED = (PPO, A2C, TRPO), (SAC, TQC, CrossQ)


@pytest.fixture
def observations() -> torch.Tensor:
    return torch.randn((7, OBSERVATIONS), generator=torch.Generator().manual_seed(1))


# Log-probs


@pytest.mark.parametrize("algorithm", DIAGONAL)
def test_diagonal_gaussian_scores_as_sb3_does(algorithm, observations):
    policy = make_model(algorithm).policy.eval()
    actions = torch.randn((7, ACTIONS))
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    _, expected, _ = policy.evaluate_actions(observations, actions)
    params = likelihood.params(policy, observations)
    torch.testing.assert_close(likelihood.log_prob(params, likelihood.encode(actions)), expected)


@pytest.mark.parametrize("algorithm", SQUASHED)
def test_squashed_gaussian_scores_as_sb3_does(algorithm, observations):
    policy = make_model(algorithm).policy.eval()
    mean, log_std, _ = policy.actor.get_action_dist_params(observations)
    squashed, expected = policy.actor.action_dist.log_prob_from_params(mean, log_std)
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    # The data contain actions in the environment's units.
    actions = torch.as_tensor(policy.unscale_action(squashed.detach().numpy()))
    scores = likelihood.log_prob(likelihood.params(policy, observations), likelihood.encode(actions))
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use_expln", [False, True])
@pytest.mark.parametrize("full_std", [False, True])
@pytest.mark.parametrize("squash", [False, True])
def test_gsde_of_ppo_scores_as_sb3_does(observations, use_expln, full_std, squash):
    options = {"use_expln": use_expln, "full_std": full_std, "squash_output": squash}
    policy = make_model(PPO, use_sde=True, policy_kwargs={"net_arch": [16], **options}).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    dist = policy.get_distribution(observations)
    inside = 0.9 * torch.tanh(torch.randn((7, ACTIONS)))
    expected = dist.log_prob(inside)
    actions = torch.as_tensor(policy.unscale_action(inside.numpy())) if squash else inside
    scores = likelihood.log_prob(likelihood.params(policy, observations), likelihood.encode(actions))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_gsde_of_sac_scores_as_sb3_does(observations):
    policy = make_model(SAC, use_sde=True).policy.eval()
    mean, log_std, latent = policy.actor.get_action_dist_params(observations)
    squashed, expected = policy.actor.action_dist.log_prob_from_params(mean, log_std, **latent)
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    actions = torch.as_tensor(policy.unscale_action(squashed.detach().numpy()))
    scores = likelihood.log_prob(likelihood.params(policy, observations), likelihood.encode(actions))
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_deterministic_actor_scores_as_a_gaussian_around_its_action(algorithm, observations):
    """The density is SciPy's, in units of actions scaled to [-1, 1]."""
    policy = make_model(algorithm, buffer_size=10).policy.eval()
    likelihood = likelihood_of(policy, -5.0, fixed_std=0.2)
    with torch.no_grad():
        params = likelihood.params(policy, observations)
    actions = np.random.default_rng(0).uniform(policy.action_space.low, policy.action_space.high, (7, ACTIONS))
    mean = policy.scale_action(policy.predict(observations.numpy(), deterministic=True)[0])
    expected = norm.logpdf(policy.scale_action(actions), mean, 0.2).sum(axis=1)
    found = likelihood.log_prob(params, likelihood.encode(torch.as_tensor(actions.astype(np.float32))))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


# Samples


@pytest.mark.parametrize("algorithm", DIAGONAL + SQUASHED)
def test_samples_have_the_mean_and_std_of_the_policy(algorithm):
    policy = make_model(algorithm).policy.eval()
    observation = torch.randn(1, OBSERVATIONS).expand(20_000, -1)
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    with torch.no_grad():
        params = likelihood.params(policy, observation)
        samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    mean, log_std = params[0].chunk(2)
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(samples.std(0), log_std.exp(), rtol=0.03, atol=0)


@pytest.mark.parametrize("algorithm", DIAGONAL + SQUASHED)
def test_mean_gradient_of_the_log_prob_of_samples_is_zero(algorithm):
    """E[∇ log π(a')] = 0, which the gradient identity of the objective needs."""
    policy = make_model(algorithm).policy.eval()
    observation = torch.randn(1, OBSERVATIONS).expand(50_000, -1)
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    params = likelihood.params(policy, observation).detach().requires_grad_()
    samples = likelihood.sample(params.detach(), torch.Generator().manual_seed(0))
    [gradient] = torch.autograd.grad(likelihood.log_prob(params, samples).sum(), params)
    standard_error = gradient.std(0) / len(gradient) ** 0.5
    assert (gradient.mean(0).abs() < 5 * standard_error).all()


def test_equal_states_get_different_samples_with_gsde():
    policy = make_model(PPO, use_sde=True).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    with torch.no_grad():
        params = likelihood.params(policy, torch.ones(100, OBSERVATIONS))
        samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    assert len(samples.unique(dim=0)) == 100


def test_leading_dimensions_broadcast(observations):
    policy = make_model(PPO).policy
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    params, actions = likelihood.params(policy, observations), torch.randn((2, 7, ACTIONS))
    scores = likelihood.log_prob(params, actions)
    assert scores.shape == (2, 7)
    torch.testing.assert_close(scores[1], likelihood.log_prob(params, actions[1]))


# Limits, and encoded actions


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_log_std_has_a_floor(algorithm, observations):
    policy = make_model(algorithm).policy.eval()
    with torch.no_grad():
        if algorithm is PPO:
            policy.log_std.fill_(-30.0)
        else:
            policy.actor.log_std.bias.fill_(-30.0)
    params = likelihood_of(policy, log_std_min=-4.0).params(policy, observations)
    assert (params[:, ACTIONS:] == -4.0).all()


@pytest.mark.parametrize("algorithm", SQUASHED)
def test_actions_on_and_beyond_the_bound_have_a_finite_log_prob(algorithm, observations):
    policy = make_model(algorithm).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    low, high = (torch.as_tensor(bound).expand(7, -1) for bound in (policy.action_space.low, policy.action_space.high))
    params = likelihood.params(policy, observations)
    for actions in (low, high, high + 1e-6):
        encoded = likelihood.encode(actions)
        assert torch.isfinite(encoded).all()
        assert (encoded.abs() <= np.arctanh(1 - ACTION_MARGIN) + 1e-2).all()
        scores = likelihood.log_prob(params, encoded)
        gradients = torch.autograd.grad(scores.sum(), list(policy.actor.parameters()), retain_graph=True)
        assert torch.isfinite(scores).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_saturated_sample_keeps_its_log_prob():
    """Samples are kept before tanh: tanh followed by atanh would lose half of the log-prob."""
    policy = make_model(SAC).policy
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    params = torch.tensor([[9.0] * ACTIONS + [-2.0] * ACTIONS])
    sample = likelihood.sample(params, torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(params[:, :ACTIONS], params[:, ACTIONS:].exp())
    jacobian = torch.log(1 - torch.tanh(sample) ** 2 + 1e-6).sum(1)
    torch.testing.assert_close(likelihood.log_prob(params, sample), normal.log_prob(sample).sum(1) - jacobian)


class Matrix(RandomEnv):
    """The world with matrices as actions."""

    action_space = spaces.Box(
        np.array([[-1.5, -0.5], [0.0, 1.0]], np.float32), np.array([[1.5, 2.5], [3.0, 4.0]], np.float32)
    )


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
def test_actions_of_any_dtype_and_shape_are_encoded_as_rows(algorithm):
    """Integers are actions too: their dtype must not round the bounds."""
    options = {} if algorithm is PPO else {"buffer_size": 10}
    policy = make_model(algorithm, Matrix(), **options).policy.eval()
    likelihood = likelihood_of(policy, -5.0, fixed_std=0.1 if algorithm is TD3 else None)
    actions = np.array([[[1, 2], [1, 2]], [[-1, 0], [2, 3]]])
    scaled = actions if algorithm is PPO else policy.scale_action(actions)
    expected = (np.arctanh(scaled) if algorithm is SAC else scaled).reshape(2, 4)
    for given in (actions, actions.astype(np.float32), actions.astype(np.int32)):
        encoded = likelihood.encode(torch.as_tensor(given))
        assert encoded.dtype == torch.float32
        np.testing.assert_allclose(encoded.numpy(), expected, rtol=1e-5)
    with torch.no_grad():
        params = likelihood.params(policy, torch.randn(2, OBSERVATIONS))
        sample = likelihood.sample(params, torch.Generator().manual_seed(0))
    assert sample.shape == encoded.shape
    assert likelihood.log_prob(params, torch.stack((encoded, sample))).shape == (2, 2)


# A fixed standard deviation around the mode


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC, TQC, CrossQ, TD3, DDPG])
def test_log_prob_around_the_mode_is_a_squared_error(algorithm, observations):
    policy = make_model(algorithm).policy.eval()
    likelihood = gaussian_around_mode(policy, std=0.5)
    params = likelihood.params(policy, observations)
    predicted, _ = policy.predict(observations.numpy(), deterministic=True)
    low, high = RandomEnv.action_space.low, RandomEnv.action_space.high
    scaled = 2 * (predicted - low) / (high - low) - 1
    # PPO and A2C clip the predicted action.
    np.testing.assert_allclose(params.detach().numpy().clip(-1, 1), scaled, atol=1e-5)
    actions = RandomEnv.action_space.sample()[None]
    errors = (2 * (actions - low) / (high - low) - 1 - params.detach().numpy()) ** 2
    scores = likelihood.log_prob(params, likelihood.encode(torch.as_tensor(actions)))
    np.testing.assert_allclose(scores.detach(), -errors.sum(-1) / (2 * 0.5**2), rtol=1e-4, atol=1e-5)


def test_samples_around_the_mode_have_the_fixed_std():
    policy = make_model(SAC).policy.eval()
    likelihood = gaussian_around_mode(policy, std=0.5)
    with torch.no_grad():
        params = likelihood.params(policy, torch.zeros(1, OBSERVATIONS)).expand(20_000, -1)
        samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), params[0], rtol=0, atol=0.02)
    torch.testing.assert_close(samples.std(0), torch.full((ACTIONS,), 0.5), rtol=0.03, atol=0)
