"""SafeDICE: each of its formulas by hand, the way from stage to stage, and what it imitates."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logsumexp, softmax
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.sac.policies import SACPolicy

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.baselines import BC, SafeDICE
from sb3_prefine.baselines.networks import Critics
from sb3_prefine.baselines.safedice import (
    Contrast,
    Correction,
    Unlabelled,
    discriminator_loss,
    largest_alpha,
    log_ratio,
    nu_loss,
    nu_penalty,
)
from sb3_prefine.baselines.transitions import Transitions
from tests.baselines.critics_by_hand import numbers, outputs, slopes
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

SMALL = {"net_arch": [16, 16]}
STAGE = 5


def safedice(policy: object = "SquashedPolicy", **kwargs: object) -> SafeDICE:
    """In the world of tests.worlds, with small networks and batches, and a short first stage."""
    given = {
        "env": Anything(),
        "batch_size": 16,
        "learning_rate": 1e-3,
        "discriminator_steps": STAGE,
        "net_arch": [12, 12],
        "seed": 0,
        "device": "cpu",
    }
    kwargs = {**given, **({"policy_kwargs": SMALL} if isinstance(policy, str) else {}), **kwargs}
    return SafeDICE(policy, kwargs.pop("preferences", preferences()), **kwargs)


# The formulas

RNG = np.random.default_rng(0)
B, N_OBSERVATIONS, N_ACTIONS = 6, 4, 2


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def rows_of(n: int) -> dict[str, torch.Tensor]:
    return {
        "observations": tensor(RNG.normal(size=(n, N_OBSERVATIONS))),
        "actions": tensor(RNG.uniform(-1, 1, (n, N_ACTIONS))),
        "next_observations": tensor(RNG.normal(size=(n, N_OBSERVATIONS))),
        "continues": tensor(RNG.integers(2, size=n)),
    }


CORRECTION = Correction(
    Unlabelled(**rows_of(B), encoded=tensor(RNG.normal(size=(B, N_ACTIONS))), rewards=tensor(RNG.normal(size=B))),
    Transitions(**rows_of(B)),
    tensor(RNG.normal(size=(B, N_OBSERVATIONS))),
)
CONTRAST = Contrast(CORRECTION.unlabelled.inputs, CORRECTION.dispreferred.inputs)
MIX = RNG.random((B, 1))


def critic(n_inputs: int) -> Critics:
    torch.manual_seed(2)
    return Critics(n_inputs, 1, (7, 5))


def test_the_discriminator_tells_the_sets_apart_and_is_held_to_a_slope_of_one():
    c = critic(N_OBSERVATIONS + N_ACTIONS)
    entropy, penalty = discriminator_loss(c, CONTRAST, tensor(MIX))
    data, labelled = numbers(CONTRAST.unlabelled), numbers(CONTRAST.dispreferred)
    expected = -np.log(expit(outputs(c, labelled)[0])).mean() - np.log(1 - expit(outputs(c, data)[0])).mean()
    assert entropy.item() == pytest.approx(expected, rel=1e-5)
    mix = tensor(MIX).double().numpy()
    others = np.roll(data, 1, axis=0)
    points = np.concatenate([data + mix * (labelled - data), data + mix * (others - data)])
    norms = np.linalg.norm(slopes(lambda inputs: outputs(c, inputs)[0], points), axis=1)
    assert penalty.item() == pytest.approx(((norms - 1) ** 2).mean(), rel=1e-4)


def test_alpha_is_the_largest_that_leaves_the_preferred_positive():
    assert largest_alpha(torch.tensor([-1.0, 0.5, 2.0])) == pytest.approx(math.exp(-2.0) - 1e-5, rel=1e-6)
    assert largest_alpha(torch.tensor([-3.0, -1.0])) == pytest.approx(1.0 - 1e-5)
    # Not below zero, where the margin is larger than what there is.
    assert largest_alpha(torch.tensor([20.0])) == pytest.approx(math.exp(-20.0) / 2)


@given(st.lists(st.floats(-15.0, 15.0), min_size=2, max_size=20))
def test_rewards_are_those_of_the_paper_and_finite(logits):
    c = torch.tensor(logits)
    alpha = largest_alpha(c)
    found = log_ratio(c, alpha)
    assert torch.isfinite(found).all()
    p = expit(c.double().numpy())
    expected = np.log((1 - (1 + alpha) * p) / ((1 - alpha) * (1 - p)))
    # Where the two probabilities are 1 and 0 to the last bits, the paper's way of writing it loses those.
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_rewards_are_the_log_ratio_of_the_preferred_where_the_discriminator_is_perfect():
    preferred, dispreferred = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.1, 0.2, 0.6])
    mixture = 0.35 * dispreferred + 0.65 * preferred
    logits = tensor(np.log(dispreferred / mixture))
    # The last is of dispreferred behaviour alone, and tells the share.
    assert largest_alpha(logits) == pytest.approx(0.35 - 1e-5, rel=1e-5)
    np.testing.assert_allclose(log_ratio(logits[:3], 0.35), np.log(preferred[:3] / mixture[:3]), atol=1e-5)


def test_nu_is_trained_on_the_dual():
    nu = critic(N_OBSERVATIONS)
    loss, advantages = nu_loss(nu, CORRECTION, gamma=0.9)
    data = CORRECTION.unlabelled
    here, there, first = (
        outputs(nu, numbers(x))[0] for x in (data.observations, data.next_observations, CORRECTION.first)
    )
    expected = numbers(data.rewards) + 0.9 * numbers(data.continues) * there - here
    np.testing.assert_allclose(advantages.detach(), expected, atol=1e-5)
    assert loss.item() == pytest.approx(logsumexp(expected) - math.log(B) + 0.1 * first.mean(), rel=1e-5)


def test_nu_is_held_flat_between_the_sets():
    nu = critic(N_OBSERVATIONS)
    data, others, mix = CORRECTION.unlabelled, CORRECTION.dispreferred, tensor(MIX).double().numpy()
    points = [numbers(data.observations)]
    for name in ("observations", "next_observations"):
        here, there = numbers(getattr(data, name)), numbers(getattr(others, name))
        points.append(mix * there + (1 - mix) * here)
    expected = (slopes(lambda inputs: outputs(nu, inputs)[0], np.concatenate(points)) ** 2).sum(axis=1).mean()
    assert nu_penalty(nu, CORRECTION, tensor(MIX)).item() == pytest.approx(expected, rel=1e-4)


def test_the_policy_clones_with_weights_that_grow_with_the_advantage():
    model = safedice()
    model._n_updates = STAGE
    batch = next(model.batches())
    _, advantages = nu_loss(model.nu, batch, model.gamma)
    shares = softmax(numbers(advantages))
    # SB3's own log-prob of the actions.
    scaled = batch.unlabelled.actions.clamp(-1 + 1e-5, 1 - 1e-5)
    mean, log_std, _ = model.policy.actor.get_action_dist_params(batch.unlabelled.observations)
    logp = model.policy.actor.action_dist.proba_distribution(mean, log_std).log_prob(scaled)
    expected = -(shares @ numbers(logp))
    model.train(batch)
    logged = model.metrics.pop()
    assert logged["train/policy_loss"] == pytest.approx(expected, rel=1e-3)
    assert logged["train/max_weight"] == pytest.approx(16 * shares.max(), rel=1e-4)


@pytest.mark.parametrize("stage", ["discriminator", "nu"])
def test_each_loss_has_its_weight_and_its_rate(stage):
    """Adam's first step is as long as the rate, whatever the gradient: the directions are compared."""
    model = safedice(gradient_penalty=2.0, nu_gradient_penalty=3.0, critic_learning_rate=3e-3)
    model._n_updates = 0 if stage == "discriminator" else STAGE
    batch = next(model.batches())
    critic = getattr(model, stage)
    before = [weight.detach().clone() for weight in critic.parameters()]
    # The noise that train is about to draw.
    generator = torch.Generator()
    generator.set_state(model.generator.get_state())
    mix = torch.rand((16, 1), generator=generator)
    if stage == "discriminator":
        entropy, penalty = discriminator_loss(critic, batch, mix)
        loss = entropy + 2.0 * penalty
    else:
        loss = nu_loss(critic, batch, model.gamma)[0] + 3.0 * nu_penalty(critic, batch, mix)
    gradients = torch.autograd.grad(loss, list(critic.parameters()))
    model.set_learning_rate(1)
    model.train(batch)
    for weight, old, gradient in zip(critic.parameters(), before, gradients, strict=True):
        # But where the terms cancel to the last bits.
        moved = gradient.abs() > 1e-5
        np.testing.assert_allclose((weight.detach() - old)[moved], -3e-3 * gradient[moved].sign(), rtol=1e-2)
    assert sum(int((gradient.abs() > 1e-5).sum()) for gradient in gradients) > 100


# From stage to stage


def test_the_first_stage_trains_the_discriminator_alone_and_the_last_leaves_it():
    model = safedice()
    before = {name: weights(getattr(model, name)) for name in ("policy", "nu", "discriminator")}
    model.learn(STAGE)
    assert model.alpha is None
    for name in ("policy", "nu"):
        assert_same_weights(before[name], weights(getattr(model, name)))
    trained = weights(model.discriminator)
    assert all((trained[name] != value).any() for name, value in before["discriminator"].items())
    model.learn(3, reset_num_timesteps=False)
    assert model.num_timesteps == STAGE + 3
    assert_same_weights(trained, weights(model.discriminator))
    assert 0 < model.alpha < 1
    after = weights(model.policy)
    assert all((after[name] != value).any() for name, value in before["policy"].items() if name.startswith("actor"))
    assert any((value != before["nu"][name]).any() for name, value in weights(model.nu).items())


def test_rewards_are_standardised_over_all_of_the_unlabelled_data():
    model = safedice(batch_size=4000).learn(STAGE)
    batch = next(model.batches())
    data = preferences().preferred + preferences().dispreferred
    scaled = model.policy.scale_action(data.actions)
    inputs = np.concatenate([model.reference.normalize(data.observations), scaled], axis=1)
    logits = outputs(model.discriminator, inputs.astype(np.float64))[0]
    alpha = math.exp(-logits.max()) - 1e-5
    assert model.alpha == pytest.approx(alpha, rel=1e-4)
    rewards = np.log((1 - (1 + alpha) * expit(logits)) / ((1 - alpha) * (1 - expit(logits))))
    expected = (rewards - rewards.mean()) / rewards.std()
    # Every row of the batch is one of the data, with its reward.
    where = (numbers(batch.unlabelled.inputs)[:, None] == inputs[None].astype(np.float32)).all(-1)
    assert where.any(axis=0).all()
    np.testing.assert_allclose(batch.unlabelled.rewards, expected[where.argmax(axis=1)], atol=2e-2)


def test_the_preferences_alone_or_beside_unlabelled_data():
    both, only = safedice(batch_size=2000), safedice(batch_size=2000, trajectories=trajectories([-0.5, 2.0, 0.0]))
    good, bad, other = (
        tensor(both.policy.scale_action(np.array([action], np.float32))) for action in (GOOD, BAD, [-0.5, 2.0, 0.0])
    )

    def share(batch: Contrast, of: str, action: torch.Tensor) -> float:
        return float(((getattr(batch, of)[:, 5:] - action).abs().amax(dim=1) < 0.3).float().mean())

    batch = next(both.batches())
    assert share(batch, "unlabelled", good) == pytest.approx(0.5, abs=0.05)
    assert share(batch, "unlabelled", bad) == pytest.approx(0.5, abs=0.05)
    assert share(batch, "dispreferred", bad) == 1.0
    batch = next(only.batches())
    assert share(batch, "unlabelled", other) == 1.0
    assert share(batch, "dispreferred", bad) == 1.0


def test_first_observations_are_the_first_of_the_unlabelled_episodes():
    model = safedice(batch_size=500)
    model._n_updates = STAGE
    data = preferences().preferred + preferences().dispreferred
    expected = model.reference.normalize(data.observations[data.episode_starts])
    found = np.unique(next(model.batches()).first, axis=0)
    np.testing.assert_array_equal(found, np.unique(expected, axis=0))


@pytest.mark.parametrize("cut", [3, STAGE, STAGE + 2])
def test_saved_and_loaded_it_goes_on_as_if_it_had_not_been(cut, tmp_path):
    model = safedice().learn(cut)
    model.save(tmp_path / "model")
    loaded = SafeDICE.load(tmp_path / "model", device="cpu", preferences=preferences())
    assert (loaded.num_timesteps, loaded.alpha, loaded.net_arch) == (cut, model.alpha, [12, 12])
    # A file holds no state of the random numbers: both start at the seed's.
    model.set_random_seed(0)
    for each in (model, loaded):
        each.learn(6, reset_num_timesteps=False)
    assert loaded.num_timesteps == cut + 6
    for name in ("policy", "discriminator", "nu"):
        assert_same_weights(weights(getattr(model, name)), weights(getattr(loaded, name)))
    for name in ("optimizer", "discriminator_optimizer", "nu_optimizer"):
        ours, theirs = (getattr(each, name).state_dict()["state"] for each in (model, loaded))
        assert ours.keys() == theirs.keys()
        for number, state in ours.items():
            assert_same_weights(state, theirs[number])
    assert loaded.alpha == model.alpha


def test_a_rate_that_was_changed_when_loading_is_the_one_that_is_used(tmp_path):
    safedice().learn(1).save(tmp_path / "model")
    loaded = SafeDICE.load(tmp_path / "model", device="cpu", preferences=preferences(), critic_learning_rate=0.0)
    before = weights(loaded.discriminator)
    loaded.learn(2, reset_num_timesteps=False)
    assert_same_weights(before, weights(loaded.discriminator))


def test_equal_seeds_give_equal_bits_and_others_do_not():
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(safedice(seed=seed).learn(STAGE + 3).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(value, first[name]) for name, value in run(4).items())


def test_each_stage_logs_its_own():
    model = safedice()
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(STAGE + 5, log_interval=3)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [3, 6, 9]
    first, second, third = ({name for name in row if name.startswith("train/")} for row in recorder.rows)
    assert {"train/discriminator_loss", "train/gradient_penalty"} <= first
    assert second == third
    assert {"train/policy_loss", "train/nu_loss", "train/nu_gradient_penalty", "train/max_weight"} <= second
    assert not {"train/discriminator_loss", "train/gradient_penalty"} & second


# What it imitates


def staying(ways: list[list[float]], seed: int, n_episodes: int = 20, length: int = 10) -> Trajectories:
    """
    Each episode stays in one state, and takes one of the ways at every step, with a little noise. The states are the
    same ones whatever the seed: only the actions tell the ways apart.
    """
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    observations = np.repeat(STATES[:n_episodes], length, axis=0)
    actions = np.asarray(ways)[rng.integers(len(ways), size=n)] + rng.normal(0, 0.05, (n, 3))
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=np.clip(actions, Anything.action_space.low, Anything.action_space.high),
        rewards=np.zeros(n),
        costs=np.full(n, np.nan),
        terminals=np.zeros(n, bool),
        timeouts=np.arange(1, n + 1) % length == 0,
    )


@cache
def learnt() -> tuple[SafeDICE, Trajectories]:
    data = staying([GOOD, BAD], seed=0)
    labelled = PreferenceBuffer(staying([GOOD], seed=1), staying([BAD], seed=2))
    options = {"batch_size": 64, "learning_rate": 1e-2, "critic_learning_rate": 3e-3, "net_arch": [32, 32]}
    model = safedice(preferences=labelled, trajectories=data, discriminator_steps=150, **options)
    return model.learn(400), data


def distances(model: BaseAlgorithm, data: Trajectories) -> tuple[float, float]:
    """How far the policy's actions are from GOOD and from BAD."""
    actions, _ = model.predict(data.observations, deterministic=True)
    return float(np.abs(actions - GOOD).mean()), float(np.abs(actions - BAD).mean())


def test_what_is_not_dispreferred_is_learnt_from_data_that_hold_both():
    """No rewards and no costs tell which is which, and half of the unlabelled actions are the dispreferred ones."""
    model, data = learnt()
    of_good, of_bad = distances(model, data)
    assert of_good < of_bad - 0.1
    clone = BC(
        "SquashedPolicy",
        data,
        env=Anything(),
        learning_rate=1e-2,
        batch_size=64,
        policy_kwargs=SMALL,
        seed=0,
        device="cpu",
    )
    of_good, of_bad = distances(clone.learn(250), data)
    assert of_good > of_bad + 0.1


def test_rewards_part_the_two_ways():
    model, _ = learnt()
    batch = next(model.batches()).unlabelled
    good, bad = (tensor(model.policy.scale_action(np.array([action], np.float32))) for action in (GOOD, BAD))
    is_good = (batch.actions - good).norm(dim=1) < (batch.actions - bad).norm(dim=1)
    assert batch.rewards[is_good].min() > batch.rewards[~is_good].median()
    assert batch.rewards[is_good].mean() > batch.rewards[~is_good].mean() + 0.5
    # Half of the data are of the dispreferred way.
    assert 0.25 < model.alpha < 0.6


# Its face


def test_exported_it_is_a_plain_policy_and_prefine_takes_it(tmp_path):
    model = safedice().learn(STAGE + 3)
    expected = model.predict(STATES, deterministic=True)[0]
    exported = SACPolicy.load(str(model.export(tmp_path / "policy")), device="cpu")
    normalized = model.reference.normalize(STATES)
    np.testing.assert_array_equal(exported.predict(normalized, deterministic=True)[0], expected)
    model.save(tmp_path / "model")
    for source in (model, tmp_path / "model.zip"):
        tuned = PREFINE(source, preferences(), batch_size=8, device="cpu")
        np.testing.assert_array_equal(tuned.predict(STATES, deterministic=True)[0], expected)


@pytest.mark.parametrize("source", [lambda: model_of(PPO), lambda: "GaussianPolicy"])
def test_other_policies_are_trained_too(source):
    model = safedice(source())
    before = model.predict(STATES, deterministic=True)[0]
    after = model.learn(STAGE + 3).predict(STATES, deterministic=True)[0]
    assert (before != after).any()


@pytest.mark.parametrize(("name", "update"), [("gradient_penalty", 3), ("nu_gradient_penalty", STAGE + 2)])
def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_weights(name, update):
    model = safedice()

    def spoil(run: dict, _: dict) -> bool:
        if run["self"].num_timesteps == update - 1:
            setattr(model, name, math.inf)
        return True

    with pytest.raises(FloatingPointError, match=rf"in update {update} of this call"):
        model.learn(STAGE + 10, spoil)
    for module in (model.policy, model.nu, model.discriminator):
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    clean = safedice()
    clean.learn(update - 1)
    for one, other in ((model.policy, clean.policy), (model.nu, clean.nu), (model.discriminator, clean.discriminator)):
        assert_same_weights(weights(one), weights(other))


# What is refused

WEIGHTED = PreferenceBuffer(trajectories(GOOD), trajectories(BAD), preferred_weights=np.ones(4))
LABELLED = PreferenceBuffer(trajectories(GOOD), trajectories(BAD), dispreferred_labels=np.full(4, 0.9))
NARROW = Trajectories(
    observations=np.zeros((3, 2)),
    next_observations=np.zeros((3, 2)),
    actions=np.zeros((3, 3)),
    rewards=np.zeros(3),
    costs=np.zeros(3),
    terminals=np.array([False, False, True]),
    timeouts=np.zeros(3, bool),
)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"discriminator_steps": 0}, "discriminator_steps: expected a whole number > 0, found 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number > 0"),
        ({"gamma": 1.0}, r"gamma: expected a discount factor in \(0, 1\), found 1.0"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate: expected a finite number >= 0"),
        ({"gradient_penalty": math.nan}, "gradient_penalty: expected a finite number >= 0"),
        ({"nu_gradient_penalty": -1.0}, "nu_gradient_penalty: expected a finite number >= 0"),
        ({"net_arch": [16, 0]}, "net_arch: expected a whole number > 0, found 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: expected a finite number > 0 or None"),
        ({"preferences": WEIGHTED}, "preferences: SafeDICE reads no weights of episodes"),
        ({"preferences": LABELLED}, "preferences: SafeDICE reads no labels of episodes"),
        ({"preferences": None}, "trajectories: a new policy needs the data"),
        ({"trajectories": NARROW}, r"trajectories: observations have shape \(2,\), the policy expects \(5,\)"),
    ],
)
def test_what_it_cannot_learn_with_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        safedice(**kwargs)


def test_without_preferences_nothing_is_learnt(tmp_path):
    model = safedice(preferences=None, trajectories=trajectories(GOOD))
    with pytest.raises(ValueError, match=r"preferences: there are none to learn from\. Pass SafeDICE"):
        model.learn(1)


def test_policies_and_spaces_that_it_cannot_train_are_refused():
    with pytest.raises(TypeError, match="policy: CVAEPolicy is not one that SafeDICE clones"):
        safedice("CVAEPolicy")
    with pytest.raises(TypeError, match="action_space: the critics of SafeDICE read vectors"):
        SafeDICE(model_of(PPO, choosing(spaces.Discrete(3))()), device="cpu")
    assert SafeDICE(model_of(SAC, buffer_size=1), device="cpu").preferences is None
