"""The CVAE's bound against numerical integration, what its gradient reaches, and the aliases."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import kstest
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.policies.aliases import make_policy
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.policies.cvae import CVAEPolicy, _pseudo_random
from tests.families import Images, Parts
from tests.worlds import STATES, Anything, assert_same_weights, preferences, weights

STATE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
LEVER = spaces.Box(-1.0, 3.0, (1,), np.float32)


def cvae(action_space: spaces.Space = LEVER, observation_space: spaces.Space = STATE, **kwargs: object) -> CVAEPolicy:
    torch.manual_seed(0)
    return CVAEPolicy(observation_space, action_space, **{"net_arch": [16, 16], **kwargs})


def bent() -> CVAEPolicy:
    """One latent dimension, and a decoder that depends on it much: far from a Gaussian."""
    policy = cvae(latent_dim=1)
    with torch.no_grad():
        for parameter in policy.decoder.parameters():
            parameter.mul_(2.5)
        policy.decoder.rest[-1].bias[1] = -1.0
    return policy


def states(n: int) -> Tensor:
    return torch.randn((n, 3), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def density(policy: CVAEPolicy, features: Tensor, actions: Tensor) -> Tensor:
    """p(a|s) of one latent dimension and one of the action by the trapezoidal rule, with torch's own distributions."""
    z = torch.linspace(-8, 8, 8001)
    mean, log_std = policy._decode(features, z.view(-1, 1, 1))
    # From [-1, 1] to the bounds -1 and 3.
    of_action = torch.distributions.Normal(1.0 + 2.0 * mean[..., 0], 2.0 * log_std[..., 0].exp())
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).unsqueeze(1)
    return torch.trapezoid((of_action.log_prob(actions[..., 0]) + prior).double().exp(), z.double(), dim=0)


def noise_of(k: int, n: int, dim: int = 1, seed: int = 0) -> Tensor:
    return torch.randn((k, n, dim), generator=torch.Generator().manual_seed(seed))


# The bound


def test_with_many_latents_the_bound_is_the_integral():
    policy, features = bent(), states(50)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = density(policy, features, actions).log()
    found = policy.bound(features, actions, noise_of(20_000, 50)).detach().double()
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


def test_the_bound_is_below_the_log_prob_and_grows_with_k():
    policy, features = bent(), states(400)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = float(density(policy, features, actions).log().mean())
    gaps = []
    for k in (2, 8, 32, 128):
        bounds = [policy.bound(features, actions, noise_of(k, 400, seed=seed)).detach().mean() for seed in range(20)]
        gaps.append(exact - float(torch.stack(bounds).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > 0


def test_the_own_points_are_unbiased_and_nearer_to_the_log_prob_than_independent_ones():
    policy, features = bent(), states(4000)
    actions = policy.sample(features, torch.Generator().manual_seed(2)).detach()
    exact = density(policy, features, actions).log().float()
    own = policy.log_prob(features, actions).detach() - exact
    independent = policy.bound(features, actions, noise_of(16, 4000)).detach() - exact
    assert float(own.exp().mean()) == pytest.approx(1.0, abs=0.03)
    assert independent.mean() < own.mean() < 0
    assert own.abs().median() < 0.7 * independent.abs().median()


def test_a_decoder_without_latents_is_scored_as_a_gaussian():
    policy, features = cvae(Anything.action_space), states(20)
    with torch.no_grad():
        policy.decoder.of_others.weight.zero_()
        for module in policy.encoder.rest[-1:]:
            module.weight.zero_()
            module.bias.copy_(torch.cat((torch.zeros(6), torch.full((6,), math.log(math.expm1(5.0)) - 5.0))))
    actions = policy.sample(features, None).detach()
    mean, log_std = policy._decode(features, torch.zeros(20, 6))
    low, high = (torch.tensor(bound) for bound in (Anything.action_space.low, Anything.action_space.high))
    scaled = torch.distributions.Normal(mean, log_std.exp())
    affine = torch.distributions.AffineTransform((high + low) / 2, (high - low) / 2)
    expected = torch.distributions.TransformedDistribution(scaled, affine).log_prob(actions).sum(-1)
    torch.testing.assert_close(policy.log_prob(features, actions), expected, rtol=1e-5, atol=1e-5)


def test_samples_are_of_the_density_that_is_scored():
    policy = bent()
    features = states(1).expand(20_000, 3)
    samples = policy.sample(features, torch.Generator().manual_seed(3)).detach().double()[:, 0]
    grid = torch.linspace(-30, 30, 3001)
    parts = [density(policy, features[:1], chunk.view(-1, 1)) for chunk in grid.split(500)]
    cumulative = np.cumsum(torch.cat(parts).numpy()) * 0.02
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-3)
    assert kstest(samples.numpy(), lambda x: np.interp(x, grid.numpy() + 0.01, cumulative)).pvalue > 1e-3


def test_the_evidence_lower_bound_is_that_of_one_latent():
    """Its mean is below the log-prob; its KL is torch's."""
    policy, observations = bent(), states(200)
    actions = policy.sample(observations, None).detach()
    terms = [policy.elbo(observations, actions, torch.Generator().manual_seed(seed)) for seed in range(100)]
    elbo = torch.stack([reconstruction - kl for reconstruction, kl in terms]).detach().mean(0)
    assert (elbo < density(policy, observations, actions).log() + 0.1).all()
    mean, log_std = policy._posterior(observations, actions)
    q, prior = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(terms[0][1], torch.distributions.kl_divergence(q, prior).sum(-1))


# The noise behind a log-prob


def test_a_copy_is_scored_on_the_same_latents_and_another_batch_on_others():
    policy, copy, features = bent(), bent(), states(8)
    actions = policy.sample(features, None).detach()
    scores = policy.log_prob(features, actions)
    assert torch.equal(scores, copy.log_prob(features, actions))
    changed = actions.clone()
    changed[0] += 1e-3
    assert (policy.log_prob(features, changed)[1:] != scores[1:]).all()


def test_the_pseudo_random_numbers_are_uniform_and_independent():
    actions = torch.linspace(-1, 1, 4096).unsqueeze(1)
    both = torch.cat((actions, torch.ones(4096, 1)), dim=1)
    other_batch = _pseudo_random(torch.cat((actions[:-1], actions[:1])), 3)
    columns = torch.cat((_pseudo_random(actions, 3), _pseudo_random(both, 3), other_batch), dim=1)
    for column in columns.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    correlation = torch.corrcoef(columns.T) - torch.eye(9)
    assert correlation.abs().max() < 0.08
    assert abs(torch.corrcoef(torch.stack((columns[:-1, 0], columns[1:, 0])))[0, 1]) < 0.08


def test_any_leading_dimensions_are_scored_alike():
    policy, features = bent(), states(7)
    actions = torch.randn(2, 3, 7, 1)
    assert policy.log_prob(features, actions).shape == (2, 3, 7)
    noise = noise_of(16, 7)
    for i in range(2):
        found = policy.bound(features, actions, noise.view(16, 1, 1, 7, 1))[i, 2]
        torch.testing.assert_close(found, policy.bound(features, actions[i, 2], noise))


# The gradient


def reached(policy: CVAEPolicy, value: Tensor) -> set[str]:
    named = dict(policy.named_parameters())
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name.partition(".")[0] for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def test_cloning_trains_all_networks_and_a_log_prob_the_decoder_alone():
    images = torch.as_tensor(Images.observation_space.sample()).unsqueeze(0)
    policy = cvae(observation_space=Images.observation_space, features_extractor_kwargs={"features_dim": 8})
    actions = torch.zeros(1, 1)
    reconstruction, kl = policy.elbo(images, actions)
    assert reached(policy, (reconstruction - kl).sum()) == {"features_extractor", "encoder", "decoder"}
    assert reached(policy, policy.log_prob(policy.params(images), actions).sum()) == {"decoder"}


def test_fine_tuning_starts_at_equal_log_probs_and_leaves_the_encoder():
    source = cvae(Anything.action_space, Anything.observation_space)
    model = PREFINE(source, preferences(), learning_rate=1e-2, batch_size=16, seed=0, device="cpu")
    batch = next(model.current_tables().batches(16, torch.Generator().manual_seed(0)))

    def log_ratio() -> Tensor:
        params = model.likelihood.params(model.policy, batch.inputs)
        logp_ref = model.likelihood_ref.log_prob(batch.params_ref, batch.actions)
        return (model.likelihood.log_prob(params, batch.actions) - logp_ref).detach()

    assert (log_ratio() == 0).all()
    before = weights(source)
    model.learn(20)
    assert (log_ratio() != 0).all()
    assert_same_weights(weights(model.reference.policy), before)
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("decoder")), name


@pytest.mark.parametrize("source", ["policy", "reference"])
def test_counterfactuals_are_of_the_network_that_they_are_said_to_be_of(source):
    model = PREFINE(
        cvae(Anything.action_space, Anything.observation_space),
        preferences(),
        counterfactuals=source,
        batch_size=16,
        device="cpu",
    )
    drawn: list[str] = []
    for name in ("policy", "reference"):
        likelihood = model.likelihood if name == "policy" else model.likelihood_ref
        sample = likelihood.sample
        object.__setattr__(likelihood, "sample", lambda *args, n=name, f=sample: (drawn.append(n), f(*args))[1])
    model.learn(1)
    assert drawn == [source]


# Acting, saving


def test_the_deterministic_action_is_of_one_of_the_ways_to_act_and_not_between_them():
    """A decoder that jumps from -0.5 to 0.5 where the latent passes 0.3: the way on the left is the likelier one."""
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


def test_actions_are_in_the_bounds_and_of_the_space_s_shape():
    space = spaces.Box(-0.1, 0.1, (2, 2), np.float32)
    policy = cvae(space)
    assert policy.predict(np.zeros(3, np.float32))[0].shape == (2, 2)
    actions, _ = policy.predict(np.zeros((100, 3), np.float32))
    assert actions.shape == (100, 2, 2)
    assert np.abs(actions).max() == np.float32(0.1)


@pytest.mark.parametrize(
    ("world", "extractor"), [(Anything, FlattenExtractor), (Images, NatureCNN), (Parts, CombinedExtractor)]
)
def test_it_takes_vectors_images_and_dicts_and_is_saved_as_sb3_saves_policies(world, extractor, tmp_path):
    policy = cvae(Anything.action_space, world.observation_space, log_std_min=-3.0, activation_fn=torch.nn.Tanh)
    assert isinstance(policy, HasLikelihood)
    assert type(policy.features_extractor) is extractor
    observation = world.observation_space.sample()
    policy.save(tmp_path / "policy.zip")
    loaded = CVAEPolicy.load(str(tmp_path / "policy.zip"), device="cpu")
    assert (loaded.log_std_min, loaded.activation_fn) == (-3.0, torch.nn.Tanh)
    expected = policy.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    np.testing.assert_array_equal(load_reference(loaded).predict(observation, deterministic=True)[0], expected)


def test_a_fine_tuned_cvae_is_loaded_without_unpickling_anything(tmp_path, monkeypatch):
    source = cvae(Anything.action_space, Anything.observation_space, activation_fn=torch.nn.Tanh, latent_dim=3)
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
        (spaces.Discrete(3), {}, TypeError, r"action_space: CVAEPolicy needs a Box, found Discrete\(3\)"),
        (spaces.Box(-np.inf, np.inf, (2,)), {}, ValueError, "action_space: .* has to have finite bounds"),
        (LEVER, {"latent_dim": 0}, ValueError, "latent_dim: expected a whole number > 0, found 0"),
        (LEVER, {"n_importance_samples": 5}, ValueError, "n_importance_samples: expected an even number > 0, found 5"),
        (LEVER, {"kl_coef": -1.0}, ValueError, "kl_coef: expected a finite number >= 0, found -1.0"),
        (LEVER, {"log_std_min": 3.0}, ValueError, "log_std_min: expected a number below 2, found 3.0"),
    ],
)
def test_what_it_cannot_be_built_with_is_refused(space, kwargs, error, message):
    with pytest.raises(error, match=message):
        cvae(space, **kwargs)


# Aliases


@pytest.mark.parametrize(
    ("alias", "kind", "actor"),
    [
        ("MlpPolicy", ActorCriticPolicy, "mlp_extractor.policy_net"),
        ("GaussianPolicy", ActorCriticPolicy, "mlp_extractor.policy_net"),
        ("SquashedPolicy", SACPolicy, "actor.latent_pi"),
        ("CVAEPolicy", CVAEPolicy, "decoder.rest"),
    ],
)
def test_an_alias_is_a_class_with_the_paper_s_layers(alias, kind, actor):
    policy = make_policy(alias, STATE, LEVER)
    assert type(policy) is kind
    sizes = [module.out_features for module in policy.get_submodule(actor) if isinstance(module, torch.nn.Linear)]
    assert sizes[:1] == [256]
    assert sum(p.numel() for p in policy.parameters()) < 150_000  # no second network of that size beside the actor
    smaller = make_policy(alias, STATE, LEVER, {"net_arch": [8]})
    assert sum(p.numel() for p in smaller.parameters()) < 500


def test_an_unknown_alias_is_refused():
    with pytest.raises(ValueError, match=r"policy: 'VAEPolicy' is not known\. Choose one of MlpPolicy, GaussianPolicy"):
        make_policy("VAEPolicy", STATE, LEVER)
