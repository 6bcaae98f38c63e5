"""SafeDICE: its formulas, derived independently, its stages, and what it imitates."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logsumexp, softmax
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_prefine import PreferenceBuffer, Trajectories
from sb3_prefine.baselines import BC, SafeDICE
from sb3_prefine.baselines.networks import Critics
from sb3_prefine.baselines.safedice import (
    DiscriminatorBatch,
    PolicyBatch,
    UnlabelledTransitions,
    discriminator_loss,
    largest_alpha,
    log_ratio,
    nu_loss,
    nu_penalty,
)
from sb3_prefine.baselines.transitions import Transitions
from tests.baselines.by_hand import next_batch, update
from tests.baselines.critics_by_hand import numbers, outputs, reseeded, slopes
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    RandomEnv,
    RecordingLogger,
    assert_same_weights,
    preferences,
    recorded,
    trajectories,
    weights,
)

SMALL = {"net_arch": [16, 16]}
STAGE = 5
SETS = trajectories(GOOD), trajectories(BAD)
NARROW = recorded(np.zeros((10, 2)), np.zeros((10, 3)))


def safedice(policy: object = "SquashedPolicy", **kwargs: object) -> SafeDICE:
    """SafeDICE with small networks, small batches and a short first stage, in the environment of ``tests.worlds``."""
    given = {
        "env": RandomEnv(),
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


POLICY_BATCH = PolicyBatch(
    UnlabelledTransitions(
        **rows_of(B), encoded=tensor(RNG.normal(size=(B, N_ACTIONS))), rewards=tensor(RNG.normal(size=B))
    ),
    Transitions(**rows_of(B)),
    tensor(RNG.normal(size=(B, N_OBSERVATIONS))),
)
DISCRIMINATOR_BATCH = DiscriminatorBatch(POLICY_BATCH.unlabelled.inputs, POLICY_BATCH.dispreferred.inputs)
MIX = RNG.random((B, 1))


def critic(n_inputs: int) -> Critics:
    torch.manual_seed(2)
    return Critics(n_inputs, 1, (7, 5))


def test_the_discriminator_loss_is_cross_entropy_and_slope_penalty():
    c = critic(N_OBSERVATIONS + N_ACTIONS)
    entropy, penalty = discriminator_loss(c, DISCRIMINATOR_BATCH, tensor(MIX))
    data, labelled = numbers(DISCRIMINATOR_BATCH.unlabelled), numbers(DISCRIMINATOR_BATCH.dispreferred)
    expected = -np.log(expit(outputs(c, labelled)[0])).mean() - np.log(1 - expit(outputs(c, data)[0])).mean()
    assert entropy.item() == pytest.approx(expected, rel=1e-5)
    mix = tensor(MIX).double().numpy()
    others = np.roll(data, 1, axis=0)
    points = np.concatenate([data + mix * (labelled - data), data + mix * (others - data)])
    norms = np.linalg.norm(slopes(lambda inputs: outputs(c, inputs)[0], points), axis=1)
    assert penalty.item() == pytest.approx(((norms - 1) ** 2).mean(), rel=1e-4)


def test_alpha_is_the_largest_with_positive_preferred_density():
    assert largest_alpha(torch.tensor([-1.0, 0.5, 2.0])) == pytest.approx(math.exp(-2.0) - 1e-5, rel=1e-6)
    assert largest_alpha(torch.tensor([-3.0, -1.0])) == pytest.approx(1.0 - 1e-5)
    # Positive, even if it is smaller than the margin.
    assert largest_alpha(torch.tensor([20.0])) == pytest.approx(math.exp(-20.0) / 2)


@given(st.lists(st.floats(-15.0, 15.0), min_size=2, max_size=20))
def test_rewards_equal_those_of_the_paper_and_are_finite(logits):
    c = torch.tensor(logits)
    alpha = largest_alpha(c)
    found = log_ratio(c, alpha)
    assert torch.isfinite(found).all()
    p = expit(c.double().numpy())
    expected = np.log((1 - (1 + alpha) * p) / ((1 - alpha) * (1 - p)))
    # The paper's form loses precision where a probability is close to 0 or 1.
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_a_perfect_discriminator_gives_the_exact_log_ratio():
    preferred, dispreferred = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.1, 0.2, 0.6])
    mixture = 0.35 * dispreferred + 0.65 * preferred
    logits = tensor(np.log(dispreferred / mixture))
    # Only dispreferred behaviour reaches the last state, so it reveals the share.
    assert largest_alpha(logits) == pytest.approx(0.35 - 1e-5, rel=1e-5)
    np.testing.assert_allclose(log_ratio(logits[:3], 0.35), np.log(preferred[:3] / mixture[:3]), atol=1e-5)


def test_the_loss_of_nu_is_the_dual():
    nu = critic(N_OBSERVATIONS)
    loss, advantages = nu_loss(nu, POLICY_BATCH, gamma=0.9)
    data = POLICY_BATCH.unlabelled
    here, there, first = (
        outputs(nu, numbers(x))[0] for x in (data.observations, data.next_observations, POLICY_BATCH.first)
    )
    expected = numbers(data.rewards) + 0.9 * numbers(data.continues) * there - here
    np.testing.assert_allclose(advantages.detach(), expected, atol=1e-5)
    assert loss.item() == pytest.approx(logsumexp(expected) - math.log(B) + 0.1 * first.mean(), rel=1e-5)


def test_the_penalty_of_nu_is_its_slope_between_the_sets():
    nu = critic(N_OBSERVATIONS)
    data, others, mix = POLICY_BATCH.unlabelled, POLICY_BATCH.dispreferred, tensor(MIX).double().numpy()
    points = [numbers(data.observations)]
    for name in ("observations", "next_observations"):
        here, there = numbers(getattr(data, name)), numbers(getattr(others, name))
        points.append(mix * there + (1 - mix) * here)
    expected = (slopes(lambda inputs: outputs(nu, inputs)[0], np.concatenate(points)) ** 2).sum(axis=1).mean()
    assert nu_penalty(nu, POLICY_BATCH, tensor(MIX)).item() == pytest.approx(expected, rel=1e-4)


def test_the_policy_loss_weights_actions_by_their_advantage():
    model = safedice().learn(STAGE)
    batch = next_batch(model)
    _, advantages = nu_loss(model.nu, batch, model.gamma)
    shares = softmax(numbers(advantages))
    # SB3's log-prob of the actions.
    scaled = batch.unlabelled.actions.clamp(-1 + 1e-5, 1 - 1e-5)
    mean, log_std, _ = model.policy.actor.get_action_dist_params(batch.unlabelled.observations)
    logp = model.policy.actor.action_dist.proba_distribution(mean, log_std).log_prob(scaled)
    expected = -(shares @ numbers(logp))
    logged = update(model, batch)
    assert logged["train/policy_loss"] == pytest.approx(expected, rel=1e-3)
    assert logged["train/max_weight"] == pytest.approx(16 * shares.max(), rel=1e-4)


@pytest.mark.parametrize("stage", ["discriminator", "nu"])
def test_each_critic_descends_its_loss_at_its_learning_rate(stage):
    """The length of Adam's first step is the learning rate, so the test compares signs."""
    model = safedice(gradient_penalty=2.0, nu_gradient_penalty=3.0, critic_learning_rate=3e-3)
    if stage == "nu":
        model.learn(STAGE)
    batch = next_batch(model)
    critic = getattr(model, stage)
    before = [weight.detach().clone() for weight in critic.parameters()]
    mix = torch.rand((16, 1), generator=reseeded(model))
    if stage == "discriminator":
        entropy, penalty = discriminator_loss(critic, batch, mix)
        loss = entropy + 2.0 * penalty
    else:
        loss = nu_loss(critic, batch, model.gamma)[0] + 3.0 * nu_penalty(critic, batch, mix)
    gradients = torch.autograd.grad(loss, list(critic.parameters()))
    model.train(batch)
    for weight, old, gradient in zip(critic.parameters(), before, gradients, strict=True):
        # The sign of a gradient near zero is rounding error.
        moved = gradient.abs() > 1e-5
        np.testing.assert_allclose((weight.detach() - old)[moved], -3e-3 * gradient[moved].sign(), rtol=1e-2)
    assert sum(int((gradient.abs() > 1e-5).sum()) for gradient in gradients) > 100


# The stages


def test_each_stage_trains_its_own_networks():
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


def test_rewards_are_standardised_over_all_unlabelled_data():
    model = safedice(batch_size=4000).learn(STAGE)
    batch = next_batch(model)
    data = preferences().preferred + preferences().dispreferred
    scaled = model.policy.scale_action(data.actions)
    inputs = np.concatenate([model.reference.normalize(data.observations), scaled], axis=1)
    logits = outputs(model.discriminator, inputs.astype(np.float64))[0]
    alpha = math.exp(-logits.max()) - 1e-5
    assert model.alpha == pytest.approx(alpha, rel=1e-4)
    rewards = np.log((1 - (1 + alpha) * expit(logits)) / ((1 - alpha) * (1 - expit(logits))))
    expected = (rewards - rewards.mean()) / rewards.std()
    # Each row of the batch is a row of the data, with its reward.
    where = (numbers(batch.unlabelled.inputs)[:, None] == inputs[None].astype(np.float32)).all(-1)
    assert where.any(axis=0).all()
    np.testing.assert_allclose(batch.unlabelled.rewards, expected[where.argmax(axis=1)], atol=2e-2)


def test_the_unlabelled_data_are_given_or_both_sets():
    both, only = safedice(batch_size=2000), safedice(batch_size=2000, trajectories=trajectories([-0.5, 2.0, 0.0]))
    good, bad, other = (
        tensor(both.policy.scale_action(np.array([action], np.float32))) for action in (GOOD, BAD, [-0.5, 2.0, 0.0])
    )

    def share(batch: DiscriminatorBatch, of: str, action: torch.Tensor) -> float:
        return float(((getattr(batch, of)[:, 5:] - action).abs().amax(dim=1) < 0.3).float().mean())

    batch = next_batch(both)
    assert share(batch, "unlabelled", good) == pytest.approx(0.5, abs=0.05)
    assert share(batch, "unlabelled", bad) == pytest.approx(0.5, abs=0.05)
    assert share(batch, "dispreferred", bad) == 1.0
    batch = next_batch(only)
    assert share(batch, "unlabelled", other) == 1.0
    assert share(batch, "dispreferred", bad) == 1.0


def test_batches_contain_first_observations_of_episodes():
    model = safedice(batch_size=500).learn(STAGE)
    data = preferences().preferred + preferences().dispreferred
    expected = model.reference.normalize(data.observations[data.episode_starts])
    found = np.unique(next_batch(model).first, axis=0)
    np.testing.assert_array_equal(found, np.unique(expected, axis=0))


def test_load_can_change_the_learning_rate_of_the_critics(tmp_path):
    safedice().learn(1).save(tmp_path / "model")
    loaded = SafeDICE.load(tmp_path / "model", device="cpu", preferences=preferences(), critic_learning_rate=0.0)
    before = weights(loaded.discriminator)
    loaded.learn(2, reset_num_timesteps=False)
    assert_same_weights(before, weights(loaded.discriminator))


def test_each_stage_logs_its_own_metrics():
    model = safedice()
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(STAGE + 5, log_interval=3)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [3, 6, 9]
    first, second, third = ({name for name in row if name.startswith("train/")} for row in recorder.rows)
    assert {"train/discriminator_loss", "train/gradient_penalty"} <= first
    assert second == third
    assert {"train/policy_loss", "train/nu_loss", "train/nu_gradient_penalty", "train/max_weight"} <= second
    assert not {"train/discriminator_loss", "train/gradient_penalty"} & second


# What it imitates


def staying(actions: list[list[float]], seed: int, n_episodes: int = 20, length: int = 10) -> Trajectories:
    """
    Episodes that stay in one state and take one of the actions at every step, with a little noise.

    All seeds give the same states, so that only the actions distinguish the episodes.
    """
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    observations = np.repeat(STATES[:n_episodes], length, axis=0)
    taken = np.asarray(actions)[rng.integers(len(actions), size=n)] + rng.normal(0, 0.05, (n, 3))
    clipped = np.clip(taken, RandomEnv.action_space.low, RandomEnv.action_space.high)
    return recorded(observations, clipped, length, costs=np.full(n, np.nan))


@cache
def trained() -> tuple[SafeDICE, Trajectories]:
    data = staying([GOOD, BAD], seed=0)
    labelled = PreferenceBuffer(staying([GOOD], seed=1), staying([BAD], seed=2))
    options = {"batch_size": 64, "learning_rate": 1e-2, "critic_learning_rate": 3e-3, "net_arch": [32, 32]}
    model = safedice(preferences=labelled, trajectories=data, discriminator_steps=150, **options)
    return model.learn(400), data


def distances(model: BaseAlgorithm, data: Trajectories) -> tuple[float, float]:
    """Mean distances of the policy's actions from GOOD and from BAD."""
    actions, _ = model.predict(data.observations, deterministic=True)
    return float(np.abs(actions - GOOD).mean()), float(np.abs(actions - BAD).mean())


def test_it_imitates_what_is_not_dispreferred():
    """Half of the unlabelled actions are dispreferred ones. Behaviour cloning imitates both."""
    model, data = trained()
    of_good, of_bad = distances(model, data)
    assert of_good < of_bad - 0.1
    clone = BC(
        "SquashedPolicy",
        data,
        env=RandomEnv(),
        learning_rate=1e-2,
        batch_size=64,
        policy_kwargs=SMALL,
        seed=0,
        device="cpu",
    )
    of_good, of_bad = distances(clone.learn(250), data)
    assert of_good > of_bad + 0.1


def test_rewards_separate_the_two_actions():
    model, _ = trained()
    batch = next_batch(model).unlabelled
    good, bad = (tensor(model.policy.scale_action(np.array([action], np.float32))) for action in (GOOD, BAD))
    is_good = (batch.actions - good).norm(dim=1) < (batch.actions - bad).norm(dim=1)
    assert batch.rewards[is_good].min() > batch.rewards[~is_good].median()
    assert batch.rewards[is_good].mean() > batch.rewards[~is_good].mean() + 0.5
    # The share of dispreferred actions is one half.
    assert 0.25 < model.alpha < 0.6


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"preferences": PreferenceBuffer(*SETS, preferred_weights=np.ones(4))}, "preferences: .*weights"),
        ({"preferences": PreferenceBuffer(*SETS, dispreferred_labels=np.full(4, 0.9))}, "preferences: .*labels"),
        ({"trajectories": NARROW}, r"trajectories: observations .*\(2,\)"),
    ],
)
def test_weights_labels_and_data_of_other_spaces_are_refused(kwargs, error):
    with pytest.raises(ValueError, match=f"^{error}"):
        safedice(**kwargs)


def test_unlabelled_data_without_preferences_are_not_enough():
    with pytest.raises(ValueError, match=r"^preferences: .*SafeDICE"):
        safedice(preferences=None, trajectories=trajectories(GOOD)).learn(1)
