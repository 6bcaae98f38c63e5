"""CPQ: its losses, derived independently, the effect of the OOD term, and the safe actions that it learns."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine import Trajectories
from sb3_prefine.baselines import CPQ
from sb3_prefine.baselines.cpq import TransitionsWithCosts, cost_threshold, n_above
from tests.baselines.by_hand import next_batch, update
from tests.baselines.critics_by_hand import decoded, divergences, numbers, outputs, posterior, reseeded
from tests.worlds import GOOD, RandomEnv, assert_same_weights, recorded, trajectories, weights

SMALL = {"net_arch": [16, 16]}
MODULES = ("policy", "critic", "critic_target", "cost_critic", "cost_critic_target", "vae")


def costly(seed: int = 0) -> Trajectories:
    """Episodes with random rewards and costs, one of which the environment ends."""
    data, rng = trajectories(GOOD, seed=seed), np.random.default_rng(seed)
    terminals = data.timeouts & (np.arange(40) == 19)
    rewards, costs = rng.normal(size=40), rng.integers(2, size=40)
    return replace(data, rewards=rewards, costs=costs, terminals=terminals, timeouts=data.timeouts & ~terminals)


def cpq(policy: object = "SquashedPolicy", **kwargs: object) -> CPQ:
    """CPQ with small networks and batches, in the environment of ``tests.worlds``."""
    given = {
        "cost_limit": 3.0,
        "env": RandomEnv(),
        "batch_size": 16,
        "learning_rate": 1e-3,
        "net_arch": [12, 12],
        "vae_net_arch": [9, 9],
        "seed": 0,
        "device": "cpu",
    }
    kwargs = {**given, **({"policy_kwargs": SMALL} if isinstance(policy, str) else {}), **kwargs}
    return CPQ(policy, kwargs.pop("trajectories", costly()), **kwargs)


def ready(**kwargs: object) -> tuple[CPQ, TransitionsWithCosts]:
    """A model whose critics differ from their targets, and one of its batches."""
    model = cpq(**kwargs)
    with torch.no_grad():
        for target in (model.critic_target, model.cost_critic_target):
            for weight in target.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model, next_batch(model)


def actor(model: CPQ, observations: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation before tanh, from SB3's actor."""
    mean, log_std, _ = model.policy.actor.get_action_dist_params(observations)
    return numbers(mean), np.exp(np.clip(numbers(log_std), -5.0, 2.0))


def inputs(observations: torch.Tensor, actions: np.ndarray) -> np.ndarray:
    return np.concatenate([numbers(observations), actions], axis=1)


# The formulas


@given(st.floats(0.0, 100.0), st.floats(0.5, 0.999), st.integers(1, 300))
def test_the_threshold_is_the_discounted_sum_of_an_even_cost(limit, gamma, horizon):
    expected = sum(gamma**t * limit / horizon for t in range(horizon))
    assert cost_threshold(limit, gamma, horizon) == pytest.approx(expected, rel=1e-9)


def test_the_horizon_is_given_or_the_longest_episode():
    model = cpq(trajectories=costly() + trajectories(GOOD, n_episodes=1, length=23))
    next_batch(model)
    assert model.cost_threshold == pytest.approx(3.0 * (1 - 0.99**23) / (0.01 * 23))
    model = cpq(horizon=100, gamma=0.9)
    next_batch(model)
    assert model.cost_threshold == pytest.approx(3.0 * (1 - 0.9**100) / (0.1 * 100))


@given(st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 0.99]))
def test_n_above_counts_the_values_from_the_quantile_on(n, quantile):
    values = np.random.default_rng(n).permutation(n).astype(float)
    assert n_above(n, quantile) == (values >= np.round(np.quantile(values, quantile), 9)).sum()


def test_the_critic_bootstraps_from_safe_actions_alone():
    model, batch = ready(reward_scale=0.5, gamma=0.9)
    noise = numbers(torch.randn((16, 3), generator=reseeded(model)))
    after = batch.next_observations
    mean, std = actor(model, after)
    next_inputs = inputs(after, np.tanh(mean + std * noise))
    next_cost = outputs(model.cost_critic_target, next_inputs).min(axis=0)
    # Half of the next actions are safe.
    model.cost_threshold = float(np.median(next_cost))
    found = model._bellman_losses(batch)
    assert 0 < numbers(batch.continues).sum() < 16
    discounts = 0.9 * numbers(batch.continues)
    safe = next_cost <= model.cost_threshold
    assert safe.sum() == 8
    values = 0.5 * numbers(batch.rewards) + discounts * safe * outputs(model.critic_target, next_inputs).min(axis=0)
    costs = numbers(batch.costs) + discounts * next_cost
    for loss, critic, target in ((found[0], model.critic, values), (found[1], model.cost_critic, costs)):
        errors = (outputs(critic, numbers(batch.inputs)) - target) ** 2
        assert loss.item() == pytest.approx(errors[0].mean() + errors[1].mean(), rel=1e-5)


@pytest.mark.parametrize("ood_grad", [True, False])
def test_the_ood_cost_is_that_of_actions_far_from_the_data(ood_grad):
    model, batch = ready(ood_grad=ood_grad, n_samples=5, ood_quantile=0.6)
    noise = numbers(torch.randn((5, 16, 3), generator=reseeded(model)))
    params = model.likelihood.params(model.policy, batch.observations)
    found = model._ood_cost(batch.observations, params.detach())
    mean, std = actor(model, batch.observations)
    actions = np.tanh(mean + std * noise)
    far = divergences(*posterior(model.vae, numbers(batch.observations), actions))
    chosen = far >= np.quantile(far, 0.6)
    critic = model.cost_critic if ood_grad else model.cost_critic_target
    costs = np.stack([outputs(critic, inputs(batch.observations, each)).min(axis=0) for each in actions])
    assert found.item() == pytest.approx(costs[chosen].mean(), rel=1e-4)
    assert found.requires_grad == ood_grad


def test_the_policy_loss_counts_safe_actions_alone():
    model, batch = ready()
    noise = numbers(torch.randn((16, 3), generator=reseeded(model)))
    params = model.likelihood.params(model.policy, batch.observations)
    mean, std = actor(model, batch.observations)
    here = inputs(batch.observations, np.tanh(mean + std * noise))
    costs = outputs(model.cost_critic, here).min(axis=0)
    model.cost_threshold = float(np.median(costs))
    loss, is_safe = model._policy_loss(batch.observations, params)
    safe = costs <= model.cost_threshold
    assert safe.sum() == 8
    np.testing.assert_array_equal(is_safe, safe)
    assert loss.item() == pytest.approx(-(safe * outputs(model.critic, here).min(axis=0)).mean(), rel=1e-5)

    # Its gradient with respect to the mean flows through the safe actions alone, by central differences.
    loss.backward(inputs=[params])
    gradient = numbers(params.grad)[:, :3]
    for j in range(3):
        shift = 1e-6 * np.eye(3)[j]
        high, low = (
            outputs(model.critic, inputs(batch.observations, np.tanh(mean + sign * shift + std * noise))).min(axis=0)
            for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient[:, j], safe * (low - high) / 2e-6 / 16, atol=1e-5)


def test_the_policy_loss_leaves_no_gradient_in_the_critics():
    model, batch = ready()
    loss, _ = model._policy_loss(batch.observations, model.likelihood.params(model.policy, batch.observations))
    loss.backward()
    for critic in (model.critic, model.cost_critic):
        assert all(weight.grad is None for weight in critic.parameters())


def test_the_vae_descends_its_loss_at_its_learning_rate():
    model, batch = ready(vae_learning_rate=3e-3)
    noise = numbers(torch.randn((16, 6), generator=reseeded(model)))
    before = model.vae
    observations, actions = numbers(batch.observations), numbers(batch.actions)
    mean, log_std = posterior(before, observations, actions)
    error = (decoded(before, observations, mean + np.exp(log_std) * noise) - actions) ** 2
    old = weights(before)
    loss = model.vae.loss(batch.observations, batch.actions, reseeded(model))
    gradients = torch.autograd.grad(loss, list(model.vae.parameters()))
    assert update(model, batch)["train/vae_loss"] == pytest.approx(
        error.mean() + 0.5 * divergences(mean, log_std).mean(), rel=1e-5
    )
    for (name, weight), gradient in zip(model.vae.named_parameters(), gradients, strict=True):
        moved = gradient.abs() > 1e-5
        np.testing.assert_allclose((weight.detach() - old[name])[moved], -3e-3 * gradient[moved].sign(), rtol=1e-2)


# The OOD term


@pytest.mark.parametrize("ood_grad", [True, False])
def test_alpha_matters_only_if_the_ood_term_has_a_gradient(ood_grad):
    found = []
    for log_alpha in (0.0, 3.0):
        model = cpq(ood_grad=ood_grad, critic_learning_rate=0.05)
        model.log_alpha += log_alpha
        model.learn(3)
        found.append({name: weights(getattr(model, name)) for name in MODULES})
    same = {name: all(torch.equal(found[0][name][w], found[1][name][w]) for w in found[0][name]) for name in MODULES}
    assert same["vae"]
    assert same["cost_critic"] == same["cost_critic_target"] == (not ood_grad)
    if not ood_grad:
        assert all(same.values())


def test_the_ood_term_raises_the_cost_of_far_actions():
    """Compared with the same updates without its gradient. The cost of the data's actions changes less."""
    costs = {}
    for ood_grad in (True, False):
        model = cpq(ood_grad=ood_grad, critic_learning_rate=5e-3, learning_rate=0.0).learn(150)
        batch = next_batch(model)
        params = model.likelihood.params(model.policy, batch.observations).detach()
        model.ood_grad = True
        far = model._ood_cost(batch.observations, params).item()
        costs[ood_grad] = (far, model.cost_critic(batch.inputs).mean().item())
    assert costs[True][0] > costs[False][0] + 1.0
    assert abs(costs[True][1] - costs[False][1]) < 0.6 * (costs[True][0] - costs[False][0])


def test_alpha_rises_while_ood_actions_cost_too_little():
    model = cpq(alpha_learning_rate=0.2, ood_scale=2.0)
    model.log_alpha += 0.5
    logged = update(model, next_batch(model))
    alpha = math.exp(0.5)
    assert logged["train/alpha"] == pytest.approx(alpha)
    expected = 0.5 + 0.2 * alpha * (2.0 * model.cost_threshold - logged["train/ood_cost"])
    assert expected > 0.5
    assert model.log_alpha.item() == pytest.approx(expected, rel=1e-5)
    model = cpq(alpha_learning_rate=1e6)
    model.train(next_batch(model))
    assert model.log_alpha.item() == 5.0


def test_target_networks_approach_the_critics():
    model, batch = ready(tau=0.25)
    before = {name: weights(getattr(model, f"{name}_target")) for name in ("critic", "cost_critic")}
    model.train(batch)
    for name, old in before.items():
        now, target = weights(getattr(model, name)), weights(getattr(model, f"{name}_target"))
        for weight in old:
            np.testing.assert_allclose(target[weight], 0.75 * old[weight] + 0.25 * now[weight], atol=1e-6)


# What it learns


def fork(n_episodes: int = 600) -> Trajectories:
    """
    Episodes of two steps. The sign of the first action chooses the second state.

    In the right one, every action earns 2 and costs 1; in the left one, every action earns 1 and costs nothing.
    """
    rng = np.random.default_rng(0)
    ways = rng.uniform(-1, 1, n_episodes)
    right = (ways > 0).astype(float)
    zeros = np.zeros(n_episodes)
    first, second = np.tile([1.0, 0.0, 0.0], (n_episodes, 1)), np.stack([zeros, right, 1 - right], axis=1)
    return recorded(
        np.stack([first, second], axis=1).reshape(-1, 3),
        np.stack([ways, rng.uniform(-1, 1, n_episodes)], axis=1).reshape(-1, 1),
        next_observations=np.stack([second, np.zeros((n_episodes, 3))], axis=1).reshape(-1, 3),
        rewards=np.stack([zeros, 1 + right], axis=1).ravel(),
        costs=np.stack([zeros, right], axis=1).ravel(),
        terminals=np.tile([False, True], n_episodes),
        timeouts=np.zeros(2 * n_episodes, bool),
    )


@cache
def at_the_fork(cost_limit: float) -> CPQ:
    rates = {"learning_rate": 3e-3, "critic_learning_rate": 5e-3, "alpha_learning_rate": 0.1, "tau": 0.1}
    arches = {"net_arch": [32, 32], "vae_net_arch": [16, 16], "policy_kwargs": SMALL, "normalize": False}
    options = {"batch_size": 64, "reward_scale": 1.0, "seed": 0, "device": "cpu"}
    return CPQ("SquashedPolicy", fork(), cost_limit, **rates, **arches, **options).learn(300)


def test_the_cost_limit_decides_between_safe_and_higher_return():
    start = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (500, 1))
    for limit, sign in ((0.5, -1), (50.0, 1)):
        model = at_the_fork(limit)
        actions, _ = model.predict(start)
        assert (np.sign(actions) == sign).mean() > 0.95
        assert np.sign(model.predict(start[0], deterministic=True)[0]) == sign


def test_the_critics_learn_values_and_costs_of_both_sides():
    model = at_the_fork(0.5)
    ways = torch.tensor([[1.0, 0.0, 0.0, -0.4], [1.0, 0.0, 0.0, 0.4]])
    with torch.no_grad():
        values, costs = model.critic(ways).amin(dim=0), model.cost_critic(ways).amin(dim=0)
    # The right side costs too much, so its rewards do not count.
    np.testing.assert_allclose(values, [0.99, 0.0], atol=0.3)
    assert costs[0] < model.cost_threshold < costs[1]


def test_load_can_change_the_learning_rates(tmp_path):
    cpq().learn(1).save(tmp_path / "model")
    rates = {"critic_learning_rate": 0.0, "vae_learning_rate": 0.0}
    loaded = CPQ.load(tmp_path / "model", device="cpu", trajectories=costly(), **rates)
    before = {name: weights(getattr(loaded, name)) for name in ("critic", "cost_critic", "vae")}
    loaded.learn(2, reset_num_timesteps=False)
    for name, old in before.items():
        assert_same_weights(old, weights(getattr(loaded, name)))


def test_episodes_of_unknown_cost_are_refused():
    data = costly()
    costs = np.where(np.arange(40) < 10, np.nan, data.costs)
    unknown = replace(data, costs=costs)
    with pytest.raises(ValueError, match=r"^trajectories: .*\b1 of 4"):
        cpq(trajectories=unknown)
    model = cpq()
    model.trajectories = unknown
    with pytest.raises(ValueError, match=r"^trajectories: .*\b1 of 4"):
        model.learn(1)
    model.trajectories = unknown[~np.isnan(unknown.episode_costs)]
    assert model.learn(1).num_timesteps == 1


def test_a_new_policy_that_is_no_squashed_gaussian_is_refused():
    for alias in ("GaussianPolicy", "CVAEPolicy"):
        with pytest.raises(TypeError, match=r"^policy: .*Policy"):
            cpq(alias)
