"""The CVAE's bound against numerical integration, its gradient, its actions and its files."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import kstest
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.policies.cvae import CVAEPolicy
from tests.families import DictEnv, ImageEnv
from tests.worlds import STATES, RandomEnv, assert_same_weights, preferences, weights

STATE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
LEVER = spaces.Box(-1.0, 3.0, (1,), np.float32)


def cvae(action_space: spaces.Space = LEVER, observation_space: spaces.Space = STATE, **kwargs: object) -> CVAEPolicy:
    torch.manual_seed(0)
    return CVAEPolicy(observation_space, action_space, **{"net_arch": [16, 16], **kwargs})


def far_from_gaussian() -> CVAEPolicy:
    """A CVAE far from a Gaussian: one latent dimension, and a decoder that depends on it strongly."""
    policy = cvae(latent_dim=1)
    with torch.no_grad():
        for parameter in policy.decoder.parameters():
            parameter.mul_(2.5)
        policy.decoder.rest[-1].bias[1] = -1.0
    return policy


def states(n: int) -> Tensor:
    return torch.randn((n, 3), generator=torch.Generator().manual_seed(1))


def decode(policy: CVAEPolicy, features: Tensor, latents: Tensor) -> torch.distributions.Normal:
    """p(a|s, z) for actions scaled to [-1, 1]."""
    mean, raw = policy.decoder(features, latents).chunk(2, dim=-1)
    log_std = policy.log_std_min + torch.log1p(torch.exp(raw - policy.log_std_min))
    return torch.distributions.Normal(mean, log_std.clamp(max=2.0).exp())


@torch.no_grad()
def density(policy: CVAEPolicy, features: Tensor, actions: Tensor) -> Tensor:
    """p(a|s) for a latent and an action of one dimension, by the trapezoidal rule."""
    z = torch.linspace(-8, 8, 8001)
    scaled = decode(policy, features, z.view(-1, 1, 1))
    # From [-1, 1] to the bounds -1 and 3.
    of_action = torch.distributions.Normal(1.0 + 2.0 * scaled.mean[..., 0], 2.0 * scaled.stddev[..., 0])
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).unsqueeze(1)
    return torch.trapezoid((of_action.log_prob(actions[..., 0]) + prior).double().exp(), z.double(), dim=0)


def noise_of(k: int, n: int, dim: int = 1, seed: int = 0) -> Tensor:
    return torch.randn((k, n, dim), generator=torch.Generator().manual_seed(seed))


# The bound


def test_bound_with_many_latents_is_the_integral():
    policy, features = far_from_gaussian(), states(50)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = density(policy, features, actions).log()
    found = policy.bound(features, actions, noise_of(20_000, 50)).detach().double()
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_bound_is_below_the_log_prob_and_grows_with_k():
    policy, features = far_from_gaussian(), states(400)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = float(density(policy, features, actions).log().mean())
    gaps = []
    for k in (2, 8, 32, 128):
        bounds = [policy.bound(features, actions, noise_of(k, 400, seed=seed)).detach().mean() for seed in range(20)]
        gaps.append(exact - float(torch.stack(bounds).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > 0


def test_sobol_points_are_unbiased_and_closer_than_independent_ones():
    policy, features = far_from_gaussian(), states(4000)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = density(policy, features, actions).log().float()
    sobol = policy.log_prob(features, actions).detach() - exact
    independent = policy.bound(features, actions, noise_of(16, 4000)).detach() - exact
    assert float(sobol.exp().mean()) == pytest.approx(1.0, abs=0.03)
    assert independent.mean() < sobol.mean() < 0
    assert sobol.abs().median() < 0.7 * independent.abs().median()


def test_decoder_that_ignores_the_latent_scores_as_a_gaussian():
    policy, features = cvae(RandomEnv.action_space), states(20)
    with torch.no_grad():
        policy.decoder.of_others.weight.zero_()
        for module in policy.encoder.rest[-1:]:
            module.weight.zero_()
            module.bias.copy_(torch.cat((torch.zeros(6), torch.full((6,), math.log(math.expm1(5.0)) - 5.0))))
    actions = policy.sample(features, None).detach()
    low, high = (torch.tensor(bound) for bound in (RandomEnv.action_space.low, RandomEnv.action_space.high))
    scaled = decode(policy, features, torch.zeros(20, 6))
    affine = torch.distributions.AffineTransform((high + low) / 2, (high - low) / 2)
    expected = torch.distributions.TransformedDistribution(scaled, affine).log_prob(actions).sum(-1)
    torch.testing.assert_close(policy.log_prob(features, actions), expected, rtol=1e-5, atol=1e-5)


def test_samples_have_the_density_of_the_log_prob():
    policy = far_from_gaussian()
    features = states(1).expand(20_000, 3)
    samples = policy.sample(features, torch.Generator().manual_seed(3)).detach().double()[:, 0]
    grid = torch.linspace(-30, 30, 3001)
    parts = [density(policy, features[:1], chunk.view(-1, 1)) for chunk in grid.split(500)]
    cumulative = np.cumsum(torch.cat(parts).numpy()) * 0.02
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-3)
    assert kstest(samples.numpy(), lambda x: np.interp(x, grid.numpy() + 0.01, cumulative)).pvalue > 1e-3


def test_evidence_lower_bound_is_below_the_log_prob():
    policy, observations = far_from_gaussian(), states(200)
    actions = policy.sample(observations, None).detach()
    terms = [policy.elbo(observations, actions, torch.Generator().manual_seed(seed)) for seed in range(100)]
    elbo = torch.stack([reconstruction - kl for reconstruction, kl in terms]).detach().mean(0)
    assert (elbo < density(policy, observations, actions).log() + 0.1).all()
    # The encoder sees actions scaled from the bounds -1 and 3.
    mean, raw = policy.encoder(observations, (actions - 1.0) / 2.0).chunk(2, dim=-1)
    q = torch.distributions.Normal(mean, (torch.log1p(torch.exp(raw + 5.0)) - 5.0).clamp(max=2.0).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(terms[0][1], torch.distributions.kl_divergence(q, prior).sum(-1))


# The noise behind a log-prob


def test_copy_uses_the_same_latents_and_another_batch_different_ones():
    policy, copy, features = far_from_gaussian(), far_from_gaussian(), states(8)
    actions = policy.sample(features, None).detach()
    scores = policy.log_prob(features, actions)
    assert torch.equal(scores, copy.log_prob(features, actions))
    changed = actions.clone()
    changed[0] += 1e-3
    assert (policy.log_prob(features, changed)[1:] != scores[1:]).all()


def test_leading_dimensions_broadcast():
    policy, features = far_from_gaussian(), states(7)
    actions = torch.randn(2, 3, 7, 1)
    assert policy.log_prob(features, actions).shape == (2, 3, 7)
    noise = noise_of(16, 7)
    for i in range(2):
        found = policy.bound(features, actions, noise.view(16, 1, 1, 7, 1))[i, 2]
        torch.testing.assert_close(found, policy.bound(features, actions[i, 2], noise))


# The gradient


def networks_with_gradient(policy: CVAEPolicy, value: Tensor) -> set[str]:
    named = dict(policy.named_parameters())
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name.partition(".")[0] for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def test_elbo_trains_all_networks_and_log_prob_only_the_decoder():
    images = torch.as_tensor(ImageEnv.observation_space.sample()).unsqueeze(0)
    policy = cvae(observation_space=ImageEnv.observation_space, features_extractor_kwargs={"features_dim": 8})
    actions = torch.zeros(1, 1)
    reconstruction, kl = policy.elbo(images, actions)
    assert networks_with_gradient(policy, (reconstruction - kl).sum()) == {"features_extractor", "encoder", "decoder"}
    assert networks_with_gradient(policy, policy.log_prob(policy.params(images), actions).sum()) == {"decoder"}


def test_fine_tuning_starts_at_equal_log_probs_and_keeps_the_encoder():
    source = cvae(RandomEnv.action_space, RandomEnv.observation_space)
    data = preferences()
    model = PREFINE(source, data, learning_rate=1e-2, batch_size=16, seed=0, device="cpu")
    first = model.score(data, 16)
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["rewards/accuracies"] == 0.0
    before = weights(source)
    model.learn(20)
    assert model.score(data, 16)["rewards/margins"] > 0.0
    assert_same_weights(weights(model.reference.policy), before)
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("decoder")), name


@pytest.mark.parametrize("source", ["policy", "reference"])
def test_counterfactuals_are_samples_of_the_chosen_network(source, monkeypatch):
    sampled, sample = [], CVAEPolicy.sample

    def record(policy: CVAEPolicy, *args: object) -> Tensor:
        sampled.append(policy)
        return sample(policy, *args)

    monkeypatch.setattr(CVAEPolicy, "sample", record)
    model = PREFINE(
        cvae(RandomEnv.action_space, RandomEnv.observation_space),
        preferences(),
        counterfactuals=source,
        batch_size=16,
        device="cpu",
    )
    sampled.clear()
    model.learn(1)
    assert [policy is model.policy for policy in sampled] == [source == "policy"]


# Actions and files


def test_deterministic_action_lies_in_the_denser_of_two_modes():
    """The decoder jumps from -0.5 to 0.5 where the latent passes 0.3, so the mode on the left has more weight."""
    policy = cvae(spaces.Box(-1, 1, (1,)), net_arch=[1], activation_fn=torch.nn.Tanh, latent_dim=1)
    with torch.no_grad():
        for parameter in policy.decoder.parameters():
            parameter.zero_()
        policy.decoder.of_others.weight.fill_(5.0)
        policy.decoder.of_features.bias.fill_(-1.5)
        policy.decoder.rest[-1].weight[0] = 0.5
        policy.decoder.rest[-1].bias[1] = -3.0
    actions, _ = policy.predict(np.zeros((2, 3), np.float32), deterministic=True)
    np.testing.assert_allclose(actions, -0.5, atol=0.01)


def test_actions_have_the_shape_of_the_space_and_respect_its_bounds():
    space = spaces.Box(-0.1, 0.1, (2, 2), np.float32)
    policy = cvae(space)
    assert policy.predict(np.zeros(3, np.float32))[0].shape == (2, 2)
    actions, _ = policy.predict(np.zeros((100, 3), np.float32))
    assert actions.shape == (100, 2, 2)
    assert np.abs(actions).max() == np.float32(0.1)


@pytest.mark.parametrize(
    ("world", "extractor"), [(RandomEnv, FlattenExtractor), (ImageEnv, NatureCNN), (DictEnv, CombinedExtractor)]
)
def test_policy_for_any_observation_is_saved_and_loaded(world, extractor, tmp_path):
    policy = cvae(RandomEnv.action_space, world.observation_space, log_std_min=-3.0, activation_fn=torch.nn.Tanh)
    assert isinstance(policy, HasLikelihood)
    assert type(policy.features_extractor) is extractor
    observation = world.observation_space.sample()
    policy.save(tmp_path / "policy.zip")
    loaded = CVAEPolicy.load(str(tmp_path / "policy.zip"), device="cpu")
    assert (loaded.log_std_min, loaded.activation_fn) == (-3.0, torch.nn.Tanh)
    expected = policy.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    np.testing.assert_array_equal(load_reference(loaded).predict(observation, deterministic=True)[0], expected)


def test_fine_tuned_cvae_is_loaded_without_unpickling(tmp_path, monkeypatch):
    source = cvae(RandomEnv.action_space, RandomEnv.observation_space, activation_fn=torch.nn.Tanh, latent_dim=3)
    model = PREFINE(source, preferences(), batch_size=16, seed=0, device="cpu").learn(3)
    model.save(tmp_path / "model.zip")
    exported = CVAEPolicy.load(str(model.export(tmp_path / "policy")), device="cpu")
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    expected = model.predict(STATES, deterministic=True)[0]
    for policy in (PREFINE.load(tmp_path / "model.zip", device="cpu"), exported):
        np.testing.assert_array_equal(policy.predict(STATES, deterministic=True)[0], expected)


@pytest.mark.parametrize(
    ("space", "kwargs", "error", "message"),
    [
        (spaces.Discrete(3), {}, TypeError, r"^action_space: .*Discrete\(3\)"),
        (spaces.Box(-np.inf, np.inf, (2,)), {}, ValueError, r"^action_space: Box\(-inf"),
        (LEVER, {"latent_dim": 0}, ValueError, r"^latent_dim: .*found 0"),
        (LEVER, {"n_importance_samples": 5}, ValueError, r"^n_importance_samples: .*found 5"),
        (LEVER, {"kl_coef": -1.0}, ValueError, r"^kl_coef: .*found -1\.0"),
        (LEVER, {"log_std_min": 3.0}, ValueError, r"^log_std_min: .*found 3\.0"),
    ],
)
def test_invalid_argument_is_refused(space, kwargs, error, message):
    with pytest.raises(error, match=message):
        cvae(space, **kwargs)
