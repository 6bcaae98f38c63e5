"""Behaviour cloning: what it recovers, which episodes it learns from, and the way on to PREFINE."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, evaluate_policy, load_reference
from sb3_prefine.baselines import BC
from sb3_prefine.baselines.bc import highest_returns
from sb3_prefine.policies.cvae import CVAEPolicy
from tests.families import Images, Parts, masked
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

ALIASES = ("GaussianPolicy", "SquashedPolicy", "CVAEPolicy")
SMALL = {"net_arch": [16, 16]}


def recorded(
    observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray | None = None, length: int = 10
) -> Trajectories:
    n = len(actions)
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=actions,
        rewards=np.zeros(n) if rewards is None else rewards,
        costs=np.zeros(n),
        terminals=np.zeros(n, bool),
        timeouts=np.arange(1, n + 1) % length == 0,
    )


def bc_of(policy: object = "GaussianPolicy", **kwargs: object) -> BC:
    """In the world of tests.worlds, with small networks and batches."""
    own = isinstance(policy, str | type)
    given = {"env": Anything(), "batch_size": 32, "seed": 0, "device": "cpu", "learning_rate": 1e-3}
    kwargs = {**given, **({"policy_kwargs": SMALL} if own else {}), **kwargs}
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
    """At every state the action is -0.5 with the given probability, and else 0.5, with a little noise."""
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


def test_two_ways_to_act_are_learnt_by_a_cvae_and_not_by_a_gaussian():
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
    # Of the mixture itself: the two components do not overlap.
    entropy = math.log(2) + 2 * (math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e))
    logp, left, right, mode = found["CVAEPolicy"]
    assert -entropy - 1.0 < logp < -entropy
    assert left > 0.3
    assert right > 0.3
    assert mode == 1.0
    logp, left, right, mode = found["GaussianPolicy"]
    assert logp < -entropy - 2.5
    assert left + right < 0.5
    assert mode < 0.05  # between both


def gap(policy: CVAEPolicy, model: BC | PREFINE, data: Trajectories) -> float:
    """How far the log-prob by 16 latents is below that by 4096, mean over the data, nats."""
    with torch.no_grad():
        params = policy.params(torch.as_tensor(model.reference.normalize(data.observations)))
        actions = torch.tensor(data.actions)
        noise = torch.randn((4096, len(actions), policy.latent_dim), generator=torch.Generator().manual_seed(0))
        return float((policy.bound(params, actions, noise) - policy.log_prob(params, actions)).mean())


def test_sixteen_latents_say_what_4096_do_before_and_after_fine_tuning():
    """
    Fine-tuned on latents of the encoder alone, or that are always the same, the decoder fits just those: the gap is
    then 0.2 nats here, and up to 5 on other data.
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


def test_the_encoder_learns_in_cloning():
    model = bc_of("CVAEPolicy")
    before = weights(model.policy)
    model.learn(3)
    changed = {name for name, value in model.policy.state_dict().items() if (value != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {"encoder", "decoder"}


@pytest.mark.parametrize("env", [choosing(spaces.Discrete(4)), choosing(spaces.MultiBinary(3))])
def test_discrete_actions_are_cloned(env):
    observations = np.random.default_rng(0).normal(size=(400, 5))
    action = env.action_space.sample()
    data = recorded(observations, np.tile(np.asarray(action), (400, 1)).squeeze())
    model = bc_of("MlpPolicy", trajectories=data, env=env(), learning_rate=1e-2).learn(100)
    assert (model.predict(STATES, deterministic=True)[0] == action).all()


@pytest.mark.parametrize("world", [Images, Parts])
@pytest.mark.parametrize("alias", ALIASES)
def test_images_and_dicts_are_cloned_from(alias, world):
    data = collect(load_reference(bc_source(world)), world, 2, progress_bar=False)
    model = BC(alias, data, world(), batch_size=8, policy_kwargs=SMALL, seed=0, device="cpu").learn(2)
    assert model.predict(world.observation_space.sample())[0].shape == (3,)
    if world is Images:
        assert model.reference.normalizer is None
    else:
        assert set(model.reference.normalizer.observations) == {"speed"}
    assert PREFINE(model, PreferenceBuffer(data[0], data[1]), batch_size=8, device="cpu").learn(1).num_timesteps == 1


def bc_source(world: type[Anything]) -> torch.nn.Module:
    return CVAEPolicy(world.observation_space, world.action_space, net_arch=[4])


# What it learns from


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_the_highest_returns_are_chosen_whatever_they_cost(returns, fraction):
    n = len(returns)
    data = Trajectories(
        observations=np.zeros((n, 1)),
        next_observations=np.zeros((n, 1)),
        actions=np.zeros((n, 1)),
        rewards=np.array(returns),
        costs=np.arange(n),
        terminals=np.ones(n, bool),
        timeouts=np.zeros(n, bool),
    )
    chosen = highest_returns(data, fraction)
    assert n * fraction - 1e-6 <= len(chosen) < n * fraction + 1
    assert list(chosen) == sorted(set(chosen))
    rest = np.setdiff1d(np.arange(n), chosen)
    if len(rest):
        lowest = min(returns[i] for i in chosen)
        assert lowest >= max(returns[i] for i in rest)
        tied = [i for i in range(n) if returns[i] == lowest]
        assert [i for i in tied if i in chosen] == tied[: sum(i in chosen for i in tied)]


def test_it_learns_from_the_episodes_of_ref_quantile_alone():
    """The best fifth goes right, the rest left; the batches hold the best fifth."""
    rewards = np.repeat([1.0, 5.0, 2.0, 3.0, 4.0], 10)
    actions = np.where(rewards[:, None] == 5.0, 0.5, -0.5)
    data = recorded(np.random.default_rng(0).normal(size=(50, 2)), actions, rewards)
    model = BC("GaussianPolicy", data, ref_quantile=0.2, policy_kwargs=SMALL, seed=0, device="cpu")
    assert (next(model.batches()).actions == 0.5).all()
    every = BC("GaussianPolicy", data, policy_kwargs=SMALL, seed=0, device="cpu")
    assert float((next(every.batches()).actions == 0.5).float().mean()) == pytest.approx(0.2, abs=0.1)
    # Normalised are both by all of the data.
    np.testing.assert_array_equal(model.reference.normalize(STATES[:, :2]), every.reference.normalize(STATES[:, :2]))


def test_observations_are_normalised_by_the_data_inside():
    data = trajectories(GOOD)
    columns = np.asarray(data.observations, np.float64)
    model = bc_of(trajectories=data)
    batch = next(model.batches())
    expected = ((columns - columns.mean(0)) / np.sqrt(columns.var(0) + 1e-6)).astype(np.float32)
    assert (batch.observations[:, None] == torch.tensor(expected)).all(-1).any(1).all()
    action, _ = model.predict(STATES, deterministic=True)
    scaled = ((STATES - columns.mean(0)) / np.sqrt(columns.var(0) + 1e-6)).astype(np.float32)
    np.testing.assert_allclose(action, model.policy.predict(scaled, deterministic=True)[0], atol=1e-6)
    raw = bc_of(trajectories=data, normalize=False)
    assert raw.reference.normalizer is None


def test_a_constant_observation_is_not_blown_up():
    observations = np.ones((40, 2), np.float32)
    observations[:, 1] = np.linspace(-1, 1, 40)
    model = BC("GaussianPolicy", recorded(observations, np.zeros((40, 1))), policy_kwargs=SMALL, device="cpu")
    assert abs(model.reference.normalize(np.array([1.001, 0.0], np.float32))[0]) < 1.01


def test_spaces_are_read_off_the_data_or_the_environment():
    data = recorded(np.zeros((10, 2)), np.full((10, 3), 0.5))
    model = BC("CVAEPolicy", data, policy_kwargs=SMALL, device="cpu")
    assert model.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert model.action_space == spaces.Box(-1.0, 1.0, (3,), np.float32)
    model = bc_of("CVAEPolicy")
    assert (model.observation_space, model.action_space) == (Anything.observation_space, Anything.action_space)
    assert model.get_env() is not None
    pendulum = recorded(np.zeros((10, 3)), np.zeros((10, 1)))
    assert BC("GaussianPolicy", pendulum, "Pendulum-v1", device="cpu").action_space.high == 2.0


def test_a_policy_that_is_there_goes_on_from_its_weights(tmp_path):
    source = model_of(PPO, VecNormalize(DummyVecEnv([Anything])), n_steps=16, batch_size=16).learn(16)
    model = bc_of(source, env=None)
    assert_same_weights(weights(model.policy), weights(source.policy))
    assert model.reference.normalizer is not None
    before = model.predict(STATES, deterministic=True)[0]
    model.learn(100)
    after = model.predict(STATES, deterministic=True)[0]
    assert np.abs(after - GOOD).mean() < np.abs(before - GOOD).mean()
    # It is still a PPO, and exported as one.
    exported = PPO.load(model.export(tmp_path / "ppo"), device="cpu")
    expected = exported.predict(model.reference.normalize(STATES), deterministic=True)[0]
    np.testing.assert_array_equal(after, expected)


# Its face


@pytest.mark.parametrize("alias", ALIASES)
def test_saved_loaded_and_exported_it_acts_the_same_and_goes_on(alias, tmp_path, monkeypatch):
    model = bc_of(alias, ref_quantile=0.5).learn(5)
    expected = model.predict(STATES, deterministic=True)[0]
    model.save(tmp_path / "bc")
    exported = type(model.policy).load(str(model.export(tmp_path / "policy")), device="cpu")
    normalized = model.reference.normalize(STATES)
    np.testing.assert_array_equal(exported.predict(normalized, deterministic=True)[0], expected)
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    loaded = BC.load(tmp_path / "bc", device="cpu")
    np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], expected)
    assert (loaded.ref_quantile, loaded.batch_size, loaded.num_timesteps, loaded.trajectories) == (0.5, 32, 5, None)
    for ours, theirs in zip(
        model.optimizer.state_dict()["state"].values(), loaded.optimizer.state_dict()["state"].values(), strict=True
    ):
        assert_same_weights(ours, theirs)
    loaded.trajectories = trajectories(GOOD)
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 7


@pytest.mark.parametrize("alias", ALIASES)
def test_prefine_takes_it_its_file_and_what_it_exports(alias, tmp_path):
    model = bc_of(alias).learn(5)
    model.save(tmp_path / "bc")
    expected = model.predict(STATES, deterministic=True)[0]
    for source in (model, tmp_path / "bc.zip", model.to_reference()):
        tuned = PREFINE(source, preferences(), batch_size=8, learning_rate=1e-2, device="cpu")
        np.testing.assert_array_equal(tuned.predict(STATES, deterministic=True)[0], expected)
        tuned.learn(3)
        np.testing.assert_array_equal(tuned.reference.predict(STATES, deterministic=True)[0], expected)
        assert (tuned.predict(STATES, deterministic=True)[0] != expected).any()
    # A file is opened by the class that wrote it, or becomes the start of another.
    tuned.save(tmp_path / "tuned")
    for other, path, policy in ((PREFINE, "bc", model), (BC, "tuned", tuned)):
        opened = other.load(tmp_path / path, device="cpu")
        assert (type(opened), opened.num_timesteps) == (other, 0)
        assert_same_weights(weights(opened.policy), weights(policy.policy))


def test_it_is_collected_from_and_evaluated():
    model = bc_of("CVAEPolicy").learn(2)
    assert len(collect(model, Anything, 3, progress_bar=False)) == 3
    assert len(evaluate_policy(model, Anything, 3)) == 3


@pytest.mark.parametrize("alias", ALIASES)
def test_equal_seeds_give_equal_bits_and_others_do_not(alias):
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(bc_of(alias, seed=seed).learn(5).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(value, first[name]) for name, value in run(4).items())


@pytest.mark.parametrize("alias", ["GaussianPolicy", "CVAEPolicy"])
def test_the_loss_and_its_terms_are_logged(alias):
    kwargs = {**SMALL, "kl_coef": 0.25} if alias == "CVAEPolicy" else SMALL
    model = bc_of(alias, policy_kwargs=kwargs)
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(10, log_interval=5)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [5, 10]
    row = recorder.rows[1]
    if alias == "CVAEPolicy":
        assert row["train/kl"] > 0
        assert row["train/loss"] == pytest.approx(0.25 * row["train/kl"] - row["train/reconstruction"], rel=1e-4)
        assert row["train/log_prob"] == pytest.approx(row["train/reconstruction"] - row["train/kl"], rel=1e-4)
    else:
        assert row["train/loss"] == -row["train/log_prob"]


def test_the_log_std_does_not_fall_below_its_floor():
    data = recorded(np.random.default_rng(0).normal(size=(100, 2)), np.zeros((100, 1)))
    for alias, kwargs in (("GaussianPolicy", {}), ("CVAEPolicy", {"log_std_min": -1.0})):
        model = BC(alias, data, log_std_min=-1.0, learning_rate=1e-2, policy_kwargs={**SMALL, **kwargs}, device="cpu")
        model.learn(300)
        actions, _ = model.predict(np.zeros((5000, 2), np.float32))
        assert np.std(actions - model.predict(np.zeros(2, np.float32), deterministic=True)[0]) > 0.9 * math.exp(-1.0)


def test_dropout_is_on_while_it_learns_and_off_when_it_acts():
    class Dropping(ActorCriticPolicy):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            self.action_net = torch.nn.Sequential(torch.nn.Dropout(0.5), self.action_net)

    model = bc_of(Dropping)
    model.train(next(model.batches()))
    assert model.policy.training
    first, second = (model.predict(STATES, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_weights():
    model = bc_of(learning_rate=1e25)
    with pytest.raises(FloatingPointError, match=r"in update \d+ of this call"):
        model.learn(200)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


# What is refused


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ref_quantile": 0.0}, r"ref_quantile: expected a fraction in \(0, 1\], found 0.0"),
        ({"ref_quantile": math.nan}, "ref_quantile: expected a fraction"),
        ({"batch_size": 0}, "batch_size: expected a whole number > 0, found 0"),
        ({"learning_rate": -1.0}, "learning_rate: expected a finite number >= 0, found -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: expected a finite number > 0 or None, found 0.0"),
        ({"trajectories": None}, "trajectories: a new policy needs the data that it is for"),
        ({"policy": "VAEPolicy"}, r"policy: 'VAEPolicy' is not known\. Choose one of MlpPolicy"),
        ({"policy": model_of(SAC), "policy_kwargs": SMALL}, "policy_kwargs: they are for a new policy"),
        ({"env": "Pendulum-v1"}, "trajectories: observations have shape"),
        ({"env": None}, r"env: without one, actions are taken to be in \[-1, 1\], and there is one of -1\.\d+"),
        ({"env": VecNormalize(DummyVecEnv([Anything]))}, "env: it is wrapped in VecNormalize"),
    ],
)
def test_what_it_cannot_learn_with_is_refused(kwargs, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        bc_of(kwargs.pop("policy", "GaussianPolicy"), **kwargs)


def test_integers_do_not_tell_their_space():
    whole = recorded(np.zeros((10, 2)), np.zeros(10, int))
    with pytest.raises(ValueError, match="env: the actions are whole numbers"):
        BC("MlpPolicy", whole)
    places = recorded(np.zeros((10, 2), int), np.zeros((10, 1)))
    with pytest.raises(ValueError, match="env: observations of int64 do not tell their space"):
        BC("MlpPolicy", places)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: model_of(TD3), "TD3Policy .* is deterministic"),
        (lambda: model_of(MaskablePPO, masked(spaces.Discrete(4))()), "needs masks, which BC does not read"),
        (lambda: RecurrentPPO("MlpLstmPolicy", Anything(), device="cpu"), "needs sequences, which BC does not read"),
    ],
)
def test_policies_that_it_cannot_train_are_refused(source, message):
    with pytest.raises(TypeError, match=message):
        bc_of(source(), env=None, trajectories=None)


def test_learning_without_data_or_from_those_of_other_spaces_is_refused(tmp_path):
    model = bc_of()
    model.trajectories = recorded(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(ValueError, match="trajectories: observations have shape"):
        model.learn(1)
    model.trajectories = None
    with pytest.raises(ValueError, match=r"trajectories: there are none to learn from\. Pass BC\(policy"):
        model.learn(1)
