"""Behaviour cloning: what it recovers, and which episodes it learns from."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.baselines import BC
from sb3_prefine.baselines.bc import highest_returns
from sb3_prefine.policies.cvae import CVAEPolicy
from tests.baselines.by_hand import next_batch
from tests.worlds import GOOD, STATES, RandomEnv, RecordingLogger, env_with_actions, recorded, trajectories, weights

SMALL = {"net_arch": [16, 16]}


def bc_of(policy: object = "GaussianPolicy", **kwargs: object) -> BC:
    """BC with small networks and batches, in the environment of ``tests.worlds``."""
    given = {"env": RandomEnv(), "batch_size": 32, "seed": 0, "device": "cpu", "learning_rate": 1e-3}
    kwargs = {**given, "policy_kwargs": SMALL, **kwargs}
    return BC(policy, kwargs.pop("trajectories", trajectories(GOOD)), **kwargs)


# What it recovers


@pytest.mark.parametrize("squashed", [False, True])
def test_a_linear_gaussian_expert_is_recovered(squashed):
    rng = np.random.default_rng(0)
    observations = rng.normal(2.0, 3.0, (4000, 3))
    matrix, bias, std = rng.normal(0, 0.02, (3, 2)), np.array([0.2, -0.1]), np.array([0.05, 0.1])
    mean = observations @ matrix + bias
    actions = mean + std * rng.normal(size=mean.shape)
    if squashed:
        actions = np.tanh(actions)
    data = recorded(observations, np.clip(actions, -1, 1))
    alias = "SquashedPolicy" if squashed else "GaussianPolicy"
    model = BC(alias, data, learning_rate=1e-2, policy_kwargs={"net_arch": []}, seed=0, device="cpu").learn(1000)
    model.learning_rate = 1e-3
    model._setup_lr_schedule()
    model.learn(300)
    inputs = torch.as_tensor(model.reference.normalize(observations))
    found_mean, found_log_std = model.likelihood.params(model.policy, inputs).detach().chunk(2, dim=-1)
    np.testing.assert_allclose(found_mean, mean, atol=0.03)
    np.testing.assert_allclose(found_log_std.exp().mean(0), std, rtol=0.1)
    expected = np.clip(np.tanh(mean) if squashed else mean, -1, 1)
    np.testing.assert_allclose(model.predict(observations, deterministic=True)[0], expected, atol=0.03)


def two_ways(n: int, left: float, seed: int) -> Trajectories:
    """Actions around -0.5, with the given probability, or around 0.5, at every state."""
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random((n, 1)) < left, -0.5, 0.5)
    return recorded(rng.normal(size=(n, 2)), centre + 0.05 * rng.normal(size=(n, 2)))


@cache
def cloned(alias: str) -> BC:
    kwargs = {"net_arch": [32, 32]}
    data = two_ways(4000, 0.5, 0)
    return BC(alias, data, learning_rate=3e-3, batch_size=128, policy_kwargs=kwargs, seed=0, device="cpu").learn(1000)


def near(actions: np.ndarray, centre: float) -> float:
    return float((np.abs(actions - centre) < 0.25).all(axis=1).mean())


def test_a_cvae_learns_two_modes_and_a_gaussian_does_not():
    held_out = two_ways(1000, 0.5, 1)
    found = {}
    for alias in ("CVAEPolicy", "GaussianPolicy"):
        model = cloned(alias)
        inputs = torch.as_tensor(model.reference.normalize(held_out.observations))
        params = model.likelihood.params(model.policy, inputs)
        logp = float(model.likelihood.log_prob(params, torch.tensor(held_out.actions)).detach().mean())
        samples, _ = model.predict(held_out.observations)
        mode, _ = model.predict(held_out.observations, deterministic=True)
        found[alias] = (logp, near(samples, -0.5), near(samples, 0.5), near(mode, -0.5) + near(mode, 0.5))
    # The entropy of the mixture, whose components do not overlap.
    entropy = math.log(2) + 2 * (math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e))
    logp, left, right, mode = found["CVAEPolicy"]
    assert -entropy - 1.0 < logp < -entropy
    assert left > 0.3
    assert right > 0.3
    assert mode == 1.0
    logp, left, right, mode = found["GaussianPolicy"]
    assert logp < -entropy - 2.5
    assert left + right < 0.5
    assert mode < 0.05  # It lies between the two.


def gap(policy: CVAEPolicy, model: BC | PREFINE, data: Trajectories) -> float:
    """Mean difference of the log-probs estimated with 4,096 and with 16 latents, in nats."""
    with torch.no_grad():
        params = policy.params(torch.as_tensor(model.reference.normalize(data.observations)))
        actions = torch.tensor(data.actions)
        noise = torch.randn((4096, len(actions), policy.latent_dim), generator=torch.Generator().manual_seed(0))
        return float((policy.bound(params, actions, noise) - policy.log_prob(params, actions)).mean())


def test_sixteen_latents_suffice_before_and_after_fine_tuning():
    """
    If fine-tuning used the encoder's latents alone, or the same latents in all updates, the decoder would overfit to
    them: the gap would be 0.2 nats here, and up to 5 on other data.
    """
    source = cloned("CVAEPolicy")
    data = PreferenceBuffer(preferred=two_ways(1000, 0.0, 2), dispreferred=two_ways(500, 1.0, 3))
    held_out = two_ways(200, 0.0, 4)
    assert abs(gap(source.policy, source, held_out)) < 0.1
    assert near(source.predict(held_out.observations)[0], -0.5) > 0.3
    model = PREFINE(source, data, learning_rate=1e-3, beta=0.2, batch_size=64, seed=0, device="cpu").learn(1000)
    assert abs(gap(model.policy, model, held_out)) < 0.15
    samples, _ = model.predict(held_out.observations)
    assert near(samples, -0.5) < 0.05
    assert near(samples, 0.5) > 0.8
    assert near(model.predict(held_out.observations, deterministic=True)[0], 0.5) > 0.9


def test_encoder_and_decoder_learn():
    model = bc_of("CVAEPolicy")
    before = weights(model.policy)
    model.learn(3)
    changed = {name for name, value in model.policy.state_dict().items() if (value != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {"encoder", "decoder"}


@pytest.mark.parametrize("env", [env_with_actions(spaces.Discrete(4)), env_with_actions(spaces.MultiBinary(3))])
def test_discrete_actions_are_cloned(env):
    observations = np.random.default_rng(0).normal(size=(400, 5))
    action = env.action_space.sample()
    data = recorded(observations, np.tile(np.asarray(action), (400, 1)).squeeze())
    model = bc_of("MlpPolicy", trajectories=data, env=env(), learning_rate=1e-2).learn(100)
    assert (model.predict(STATES, deterministic=True)[0] == action).all()


# Which episodes it learns from


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_the_episodes_of_highest_return_are_chosen(returns, fraction):
    n = len(returns)
    zeros = np.zeros((n, 1))
    data = recorded(zeros, zeros, length=1, rewards=np.array(returns), costs=np.arange(n))
    chosen = highest_returns(data, fraction)
    assert n * fraction - 1e-6 <= len(chosen) < n * fraction + 1
    assert list(chosen) == sorted(set(chosen))
    rest = np.setdiff1d(np.arange(n), chosen)
    if len(rest):
        lowest = min(returns[i] for i in chosen)
        assert lowest >= max(returns[i] for i in rest)
        tied = [i for i in range(n) if returns[i] == lowest]
        assert [i for i in tied if i in chosen] == tied[: sum(i in chosen for i in tied)]


def test_batches_contain_only_the_episodes_of_ref_quantile():
    """In the best fifth of the episodes the action is 0.5, in the others -0.5."""
    rewards = np.repeat([1.0, 5.0, 2.0, 3.0, 4.0], 10)
    actions = np.where(rewards[:, None] == 5.0, 0.5, -0.5)
    data = recorded(np.random.default_rng(0).normal(size=(50, 2)), actions, rewards=rewards)
    model = BC("GaussianPolicy", data, ref_quantile=0.2, policy_kwargs=SMALL, seed=0, device="cpu")
    assert (next_batch(model).actions == 0.5).all()
    every = BC("GaussianPolicy", data, policy_kwargs=SMALL, seed=0, device="cpu")
    assert float((next_batch(every).actions == 0.5).float().mean()) == pytest.approx(0.2, abs=0.1)
    # All of the data determine the normaliser of both.
    np.testing.assert_array_equal(model.reference.normalize(STATES[:, :2]), every.reference.normalize(STATES[:, :2]))


@pytest.mark.parametrize("alias", ["GaussianPolicy", "CVAEPolicy"])
def test_the_logged_terms_add_up_to_the_loss(alias):
    kwargs = {**SMALL, "kl_coef": 0.25} if alias == "CVAEPolicy" else SMALL
    model = bc_of(alias, policy_kwargs=kwargs)
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(10, log_interval=5)
    row = recorder.rows[1]
    if alias == "CVAEPolicy":
        assert row["train/kl"] > 0
        assert row["train/loss"] == pytest.approx(0.25 * row["train/kl"] - row["train/reconstruction"], rel=1e-4)
        assert row["train/log_prob"] == pytest.approx(row["train/reconstruction"] - row["train/kl"], rel=1e-4)
    else:
        assert row["train/loss"] == -row["train/log_prob"]


def test_the_log_std_stays_above_its_floor():
    data = recorded(np.random.default_rng(0).normal(size=(100, 2)), np.zeros((100, 1)))
    for alias, kwargs in (("GaussianPolicy", {}), ("CVAEPolicy", {"log_std_min": -1.0})):
        model = BC(alias, data, log_std_min=-1.0, learning_rate=1e-2, policy_kwargs={**SMALL, **kwargs}, device="cpu")
        model.learn(300)
        actions, _ = model.predict(np.zeros((5000, 2), np.float32))
        assert np.std(actions - model.predict(np.zeros(2, np.float32), deterministic=True)[0]) > 0.9 * math.exp(-1.0)


def test_dropout_is_active_in_training_and_not_in_predict():
    class DropoutPolicy(ActorCriticPolicy):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.action_net = torch.nn.Sequential(torch.nn.Dropout(0.5), self.action_net)

    model = bc_of(DropoutPolicy)
    model.train(next_batch(model))
    assert model.policy.training
    first, second = (model.predict(STATES, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
