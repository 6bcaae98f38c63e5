"""CPQ: each of its losses by hand, what the OOD term does, and the safe way that it learns."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC
from stable_baselines3.sac.policies import SACPolicy

from sb3_prefine import PREFINE, Trajectories
from sb3_prefine.baselines import CPQ
from sb3_prefine.baselines.cpq import Costed, cost_threshold, n_above
from sb3_prefine.reference.normalizer import Normalizer
from tests.baselines.critics_by_hand import decoded, divergences, numbers, outputs, posterior
from tests.worlds import (
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

SMALL = {"net_arch": [16, 16]}
MODULES = ("policy", "critic", "critic_target", "cost_critic", "cost_critic_target", "vae")


def costly(seed: int = 0) -> Trajectories:
    """The episodes of tests.worlds, with other rewards and costs; one of them ended by the environment."""
    data, rng = trajectories(GOOD, seed=seed), np.random.default_rng(seed)
    terminals = data.timeouts & (np.arange(40) == 19)
    return Trajectories(
        observations=data.observations,
        next_observations=data.next_observations,
        actions=data.actions,
        rewards=rng.normal(size=40),
        costs=rng.integers(2, size=40),
        terminals=terminals,
        timeouts=data.timeouts & ~terminals,
    )


def cpq(policy: object = "SquashedPolicy", **kwargs: object) -> CPQ:
    """In the world of tests.worlds, with small networks and batches."""
    given = {
        "cost_limit": 3.0,
        "env": Anything(),
        "batch_size": 16,
        "learning_rate": 1e-3,
        "net_arch": [12, 12],
        "vae_net_arch": [9, 9],
        "seed": 0,
        "device": "cpu",
    }
    kwargs = {**given, **({"policy_kwargs": SMALL} if isinstance(policy, str) else {}), **kwargs}
    return CPQ(policy, kwargs.pop("trajectories", costly()), **kwargs)


def ready(**kwargs: object) -> tuple[CPQ, Costed]:
    """A model whose critics differ from their targets, and a batch of it."""
    model = cpq(**kwargs)
    with torch.no_grad():
        for target in (model.critic_target, model.cost_critic_target):
            for weight in target.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model, next(model.batches())


class Noise:
    """The numbers that a model is about to draw."""

    def __init__(self, model: CPQ) -> None:
        self.generator = torch.Generator()
        self.generator.set_state(model.generator.get_state())

    def __call__(self, *shape: int) -> np.ndarray:
        return numbers(torch.randn(shape, generator=self.generator))


def actor(model: CPQ, observations: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation before tanh, by SB3's own actor."""
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
    model.batches()
    assert model.cost_threshold == pytest.approx(3.0 * (1 - 0.99**23) / (0.01 * 23))
    model = cpq(horizon=100, gamma=0.9)
    model.batches()
    assert model.cost_threshold == pytest.approx(3.0 * (1 - 0.9**100) / (0.1 * 100))


@given(st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 0.99]))
def test_as_many_are_out_of_the_distribution_as_are_not_below_the_quantile(n, quantile):
    values = np.random.default_rng(n).permutation(n).astype(float)
    assert n_above(n, quantile) == (values >= np.round(np.quantile(values, quantile), 9)).sum()


def test_what_costs_too_much_is_worth_nothing_to_the_critic():
    model, batch = ready(reward_scale=0.5, gamma=0.9)
    noise = Noise(model)(16, 3)
    after = batch.next_observations
    mean, std = actor(model, after)
    next_inputs = inputs(after, np.tanh(mean + std * noise))
    next_cost = outputs(model.cost_critic_target, next_inputs).min(axis=0)
    # Half of them are safe.
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
def test_the_costs_of_actions_that_the_vae_finds_far(ood_grad):
    model, batch = ready(ood_grad=ood_grad, n_samples=5, ood_quantile=0.6)
    noise = Noise(model)(5, 16, 3)
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


def test_the_policy_gains_from_what_is_safe_alone():
    model, batch = ready()
    noise = Noise(model)(16, 3)
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

    # The gradient by the mean, by differences: through the actions, and none from those that are not safe.
    loss.backward(inputs=[params])
    gradient = numbers(params.grad)[:, :3]
    for j in range(3):
        shift = 1e-6 * np.eye(3)[j]
        high, low = (
            outputs(model.critic, inputs(batch.observations, np.tanh(mean + sign * shift + std * noise))).min(axis=0)
            for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient[:, j], safe * (low - high) / 2e-6 / 16, atol=1e-5)


def test_the_policys_loss_leaves_no_gradient_in_the_critics():
    model, batch = ready()
    loss, _ = model._policy_loss(batch.observations, model.likelihood.params(model.policy, batch.observations))
    loss.backward()
    for critic in (model.critic, model.cost_critic):
        assert all(weight.grad is None for weight in critic.parameters())


def test_the_step_of_the_vae_is_down_its_loss():
    model, batch = ready(vae_learning_rate=3e-3)
    noise = Noise(model)(16, 6)
    before = model.vae
    observations, actions = numbers(batch.observations), numbers(batch.actions)
    mean, log_std = posterior(before, observations, actions)
    error = (decoded(before, observations, mean + np.exp(log_std) * noise) - actions) ** 2
    old = weights(before)
    generator = torch.Generator()
    generator.set_state(model.generator.get_state())
    loss = model.vae.loss(batch.observations, batch.actions, generator)
    gradients = torch.autograd.grad(loss, list(model.vae.parameters()))
    model.set_learning_rate(1)
    model.train(batch)
    assert model.metrics.pop()["train/vae_loss"] == pytest.approx(
        error.mean() + 0.5 * divergences(mean, log_std).mean(), rel=1e-5
    )
    for (name, weight), gradient in zip(model.vae.named_parameters(), gradients, strict=True):
        moved = gradient.abs() > 1e-5
        np.testing.assert_allclose((weight.detach() - old[name])[moved], -3e-3 * gradient[moved].sign(), rtol=1e-2)


# What the OOD term does


@pytest.mark.parametrize("ood_grad", [True, False])
def test_alpha_weighs_the_ood_term_only_where_it_has_a_gradient(ood_grad):
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


def test_the_term_raises_the_costs_of_far_actions():
    """After as many steps on the same batches, they cost more than without it, and those of the data about the same."""
    costs = {}
    for ood_grad in (True, False):
        model = cpq(ood_grad=ood_grad, critic_learning_rate=5e-3, learning_rate=0.0).learn(150)
        batch = next(model.batches())
        params = model.likelihood.params(model.policy, batch.observations).detach()
        model.ood_grad = True
        far = model._ood_cost(batch.observations, params).item()
        costs[ood_grad] = (far, model.cost_critic(batch.inputs).mean().item())
    assert costs[True][0] > costs[False][0] + 1.0
    assert abs(costs[True][1] - costs[False][1]) < 0.6 * (costs[True][0] - costs[False][0])


def test_alpha_rises_while_they_cost_less_than_they_should():
    model = cpq(alpha_learning_rate=0.2, ood_scale=2.0)
    model.log_alpha += 0.5
    model.train(next(model.batches()))
    logged = model.metrics.pop()
    alpha = math.exp(0.5)
    assert logged["train/alpha"] == pytest.approx(alpha)
    expected = 0.5 + 0.2 * alpha * (2.0 * model.cost_threshold - logged["train/ood_cost"])
    assert expected > 0.5
    assert model.log_alpha.item() == pytest.approx(expected, rel=1e-5)
    model = cpq(alpha_learning_rate=1e6)
    model.train(next(model.batches()))
    assert model.log_alpha.item() == 5.0


def test_targets_move_to_the_critics():
    model, batch = ready(tau=0.25)
    before = {name: weights(getattr(model, f"{name}_target")) for name in ("critic", "cost_critic")}
    model.train(batch)
    for name, old in before.items():
        now, target = weights(getattr(model, name)), weights(getattr(model, f"{name}_target"))
        for weight in old:
            np.testing.assert_allclose(target[weight], 0.75 * old[weight] + 0.25 * now[weight], atol=1e-6)


# The safe way


def fork(n_episodes: int = 600) -> Trajectories:
    """
    Two steps. The sign of the first action chooses the way; right earns 2 and costs 1, left earns 1, whatever the
    second action is. The return is larger on the right.
    """
    rng = np.random.default_rng(0)
    ways = rng.uniform(-1, 1, n_episodes)
    right = (ways > 0).astype(float)
    zeros = np.zeros(n_episodes)
    first, second = np.tile([1.0, 0.0, 0.0], (n_episodes, 1)), np.stack([zeros, right, 1 - right], axis=1)
    return Trajectories(
        observations=np.stack([first, second], axis=1).reshape(-1, 3),
        next_observations=np.stack([second, np.zeros((n_episodes, 3))], axis=1).reshape(-1, 3),
        actions=np.stack([ways, rng.uniform(-1, 1, n_episodes)], axis=1).reshape(-1, 1),
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


def test_under_a_limit_it_takes_the_safe_way_and_without_one_the_other():
    start = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (500, 1))
    for limit, sign in ((0.5, -1), (50.0, 1)):
        model = at_the_fork(limit)
        actions, _ = model.predict(start)
        assert (np.sign(actions) == sign).mean() > 0.95
        assert np.sign(model.predict(start[0], deterministic=True)[0]) == sign


def test_the_critics_know_what_the_ways_earn_and_cost():
    model = at_the_fork(0.5)
    ways = torch.tensor([[1.0, 0.0, 0.0, -0.4], [1.0, 0.0, 0.0, 0.4]])
    with torch.no_grad():
        values, costs = model.critic(ways).amin(dim=0), model.cost_critic(ways).amin(dim=0)
    # Behind the right one lies what costs too much, so that nothing is earned there.
    np.testing.assert_allclose(values, [0.99, 0.0], atol=0.3)
    assert costs[0] < model.cost_threshold < costs[1]


# Its face


def test_saved_and_loaded_it_goes_on_as_if_it_had_not_been(tmp_path):
    model = cpq(alpha_learning_rate=0.1).learn(4)
    model.save(tmp_path / "model")
    loaded = CPQ.load(tmp_path / "model", device="cpu", trajectories=costly())
    assert (loaded.num_timesteps, loaded.cost_limit, loaded.ood_grad, loaded.net_arch) == (4, 3.0, True, [12, 12])
    assert loaded.log_alpha.item() == model.log_alpha.item() != 0.0
    # A file holds no state of the random numbers: both start at the seed's.
    model.set_random_seed(0)
    for each in (model, loaded):
        each.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 9
    assert loaded.log_alpha.item() == model.log_alpha.item()
    for name in MODULES:
        assert_same_weights(weights(getattr(model, name)), weights(getattr(loaded, name)))
    for name in ("optimizer", "critic_optimizer", "vae_optimizer"):
        ours, theirs = (getattr(each, name).state_dict()["state"] for each in (model, loaded))
        assert ours.keys() == theirs.keys()
        for number, state in ours.items():
            assert_same_weights(state, theirs[number])


def test_rates_that_were_changed_when_loading_are_those_that_are_used(tmp_path):
    cpq().learn(1).save(tmp_path / "model")
    rates = {"critic_learning_rate": 0.0, "vae_learning_rate": 0.0}
    loaded = CPQ.load(tmp_path / "model", device="cpu", trajectories=costly(), **rates)
    before = {name: weights(getattr(loaded, name)) for name in ("critic", "cost_critic", "vae")}
    loaded.learn(2, reset_num_timesteps=False)
    for name, old in before.items():
        assert_same_weights(old, weights(getattr(loaded, name)))


def test_equal_seeds_give_equal_bits_and_others_do_not():
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(cpq(seed=seed).learn(3).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(value, first[name]) for name, value in run(4).items())


def test_only_the_actor_of_the_policy_learns():
    model = cpq(normalize=False)
    before = weights(model.policy)
    model.learn(3)
    changed = {name for name, value in weights(model.policy).items() if (value != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {"actor"}
    assert model.reference.normalizer is None
    assert isinstance(cpq().reference.normalizer, Normalizer)


def test_every_update_is_logged():
    model = cpq()
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(6, log_interval=3)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [3, 6]
    names = "vae_loss critic_loss cost_critic_loss ood_cost alpha policy_loss safe grad_norm learning_rate n_updates"
    for row in recorder.rows:
        assert {name for name in row if name.startswith("train/")} == {f"train/{name}" for name in names.split()}
        assert 0.0 <= row["train/safe"] <= 1.0


def test_exported_it_is_a_plain_policy_and_prefine_takes_it(tmp_path):
    model = cpq().learn(3)
    expected = model.predict(STATES, deterministic=True)[0]
    exported = SACPolicy.load(str(model.export(tmp_path / "policy")), device="cpu")
    normalized = model.reference.normalize(STATES)
    np.testing.assert_array_equal(exported.predict(normalized, deterministic=True)[0], expected)
    model.save(tmp_path / "model")
    for source in (model, tmp_path / "model.zip"):
        tuned = PREFINE(source, preferences(), batch_size=8, device="cpu")
        np.testing.assert_array_equal(tuned.predict(STATES, deterministic=True)[0], expected)


def test_a_policy_of_sac_goes_on_from_its_weights():
    source = model_of(SAC, buffer_size=1)
    model = cpq(source)
    assert_same_weights(weights(model.policy), weights(source.policy))
    assert model.learn(2).num_timesteps == 2


def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_weights():
    model = cpq()

    def spoil(run: dict, _: dict) -> bool:
        if run["self"].num_timesteps == 2:
            model.reward_scale = math.inf
        return True

    with pytest.raises(FloatingPointError, match="in update 3 of this call"):
        model.learn(8, spoil)
    clean = cpq().learn(2)
    for name in ("policy", "critic", "cost_critic", "vae"):
        assert_same_weights(weights(getattr(model, name)), weights(getattr(clean, name)))
    assert model.log_alpha.item() == clean.log_alpha.item()
    for name in ("critic_target", "cost_critic_target"):
        assert all(torch.isfinite(value).all() for value in weights(getattr(model, name)).values())


# What is refused


def unknown_costs() -> Trajectories:
    data = costly()
    costs = data.costs.copy()
    costs[:10] = np.nan
    columns = {name: getattr(data, name) for name in ("observations", "next_observations", "actions", "rewards")}
    return Trajectories(**columns, costs=costs, terminals=data.terminals, timeouts=data.timeouts)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cost_limit": None}, r"cost_limit: there is none\. Give the largest sum of costs"),
        ({"cost_limit": -1.0}, "cost_limit: expected a finite number >= 0, found -1.0"),
        ({"trajectories": unknown_costs()}, "trajectories: the cost of 1 of 4 episodes is unknown"),
        ({"trajectories": None}, "trajectories: a new policy needs the data"),
        ({"batch_size": 0}, "batch_size: expected a whole number > 0"),
        ({"gamma": 0.0}, r"gamma: expected a discount factor in \(0, 1\), found 0.0"),
        ({"tau": 1.5}, r"tau: expected a fraction in \(0, 1\], found 1.5"),
        ({"horizon": 0}, "horizon: expected a whole number > 0, found 0"),
        ({"n_samples": 0}, "n_samples: expected a whole number > 0, found 0"),
        ({"ood_quantile": 1.0}, r"ood_quantile: expected a fraction in \[0, 1\), found 1.0"),
        ({"ood_scale": math.inf}, "ood_scale: expected a finite number >= 0, found inf"),
        ({"reward_scale": 0.0}, "reward_scale: expected a finite number > 0, found 0.0"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate: expected a finite number >= 0"),
        ({"vae_learning_rate": -1.0}, "vae_learning_rate: expected a finite number >= 0"),
        ({"alpha_learning_rate": -1.0}, "alpha_learning_rate: expected a finite number >= 0"),
        ({"net_arch": [0]}, "net_arch: expected a whole number > 0, found 0"),
        ({"vae_net_arch": [0]}, "vae_net_arch: expected a whole number > 0, found 0"),
        ({"env": "Pendulum-v1"}, "trajectories: observations have shape"),
    ],
)
def test_what_it_cannot_learn_with_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        cpq(**kwargs)


def test_without_data_nothing_is_learnt_and_later_ones_are_checked():
    model = cpq()
    model.trajectories = None
    with pytest.raises(ValueError, match=r"trajectories: there are none to learn from\. Pass CPQ"):
        model.learn(1)
    model.trajectories = unknown_costs()
    with pytest.raises(ValueError, match=r"Leave them out: trajectories\[~np\.isnan\(trajectories\.episode_costs\)\]"):
        model.learn(1)
    known = model.trajectories[~np.isnan(model.trajectories.episode_costs)]
    model.trajectories = known
    assert model.learn(1).num_timesteps == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: "GaussianPolicy",
            r"policy: ActorCriticPolicy is a diagonal Gaussian\. CPQ trains a squashed Gaussian",
        ),
        (lambda: "CVAEPolicy", "CPQ trains a squashed Gaussian"),
        (lambda: model_of(PPO), "CPQ trains a squashed Gaussian"),
    ],
)
def test_other_policies_are_refused(source, message):
    with pytest.raises(TypeError, match=message):
        cpq(source())


def test_other_spaces_are_refused():
    with pytest.raises(TypeError, match="action_space: the critics of CPQ read vectors of numbers, found Discrete"):
        CPQ(model_of(PPO, choosing(spaces.Discrete(3))()), cost_limit=1.0, device="cpu")
