"""
PREFINE's own: what it learns, its gradient, and its exports.

What it shares with the other algorithms is in ``tests/algorithms``, its hyperparameters in ``test_hyperparameters``.
"""

import io
import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.objective import prefine_loss
from sb3_prefine.policies.likelihood import likelihood_of
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    RandomEnv,
    RecordingLogger,
    assert_same_weights,
    env_with_actions,
    make_model,
    preferences,
    trajectories,
    weights,
)

ALGORITHMS = (PPO, A2C, TRPO, SAC, TQC, CrossQ)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_policy_approaches_preferred_actions(algorithm):
    model = PREFINE(make_model(algorithm), preferences(), learning_rate=3e-3, beta=0.2, seed=0, device="cpu")
    before = model.predict(STATES, deterministic=True)[0]
    after = model.learn(400).predict(STATES, deterministic=True)[0]
    distance = lambda actions, target: np.abs(actions - np.asarray(target)).mean()  # noqa: E731
    assert distance(after, GOOD) < 0.25 < distance(before, GOOD)
    assert distance(after, BAD) > distance(after, GOOD)


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(4), 2, 0),
        (spaces.MultiDiscrete([3, 4]), [2, 1], [0, 3]),
        (spaces.MultiBinary(3), [1, 0, 1], [0, 1, 0]),
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary"],
)
def test_the_policy_takes_preferred_discrete_actions(space, good, bad):
    def always(action: object) -> Trajectories:
        return replace(trajectories(GOOD), actions=np.tile(np.asarray(action), (40, 1)).squeeze())

    data = PreferenceBuffer(preferred=always(good), dispreferred=always(bad))
    model = PREFINE(make_model(PPO, env_with_actions(space)()), data, learning_rate=3e-3, seed=0, device="cpu").learn(
        500
    )
    actions = model.predict(STATES, deterministic=True)[0]
    assert (actions == np.asarray(good)).mean() > 0.95


@pytest.mark.parametrize(("algorithm", "options"), [(PPO, {"n_steps": 16, "batch_size": 8}), (SAC, {"buffer_size": 9})])
def test_channel_first_images_are_learned_from(algorithm, options, tmp_path):
    class ChannelLast(RandomEnv):
        observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

        def _observe(self) -> np.ndarray:
            return self.np_random.integers(0, 256, (36, 36, 3), dtype=np.uint8)

    source = algorithm("CnnPolicy", ChannelLast(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **options)
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 36, 36), dtype=np.uint8)
    data = PreferenceBuffer(
        *(replace(trajectories(action), observations=images, next_observations=images) for action in (GOOD, BAD))
    )
    model = PREFINE(source, data, learning_rate=1e-3, batch_size=32, seed=0, device="cpu").learn(3)
    exported = algorithm.load(model.export(tmp_path / "safe"), device="cpu")
    assert not np.allclose(model.predict(images)[0], source.predict(images)[0])
    expected = model.predict(images, deterministic=True)[0]
    np.testing.assert_array_equal(exported.predict(images, deterministic=True)[0], expected)


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC, TQC])
def test_gsde_policies_learn_and_are_saved_and_exported(algorithm, tmp_path):
    source = make_model(algorithm, use_sde=True)
    model = PREFINE(source, preferences(), learning_rate=3e-3, beta=0.0, seed=0, device="cpu").learn(400)
    actions = model.predict(STATES, deterministic=True)[0]
    assert np.abs(actions - np.asarray(GOOD)).mean() < 0.25
    model.save(tmp_path / "model")
    exported = algorithm.load(model.export(tmp_path / "plain"), device="cpu")
    for policy in (PREFINE.load(tmp_path / "model", device="cpu"), exported):
        np.testing.assert_array_equal(policy.predict(STATES, deterministic=True)[0], actions)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_log_ratio_is_zero_at_the_first_step(algorithm):
    model = PREFINE(make_model(algorithm), preferences(), learning_rate=0.0, beta=1.0, seed=0, device="cpu")
    recorder = RecordingLogger()
    model.set_logger(recorder)
    model.learn(1, log_interval=1)
    [row] = recorder.rows
    assert row["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert row["rewards/rejected"] == pytest.approx(0.0, abs=1e-4)
    assert row["train/preference_loss"] == pytest.approx(2 * math.log(2.0), abs=1e-4)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_gradient_identity_at_the_reference(algorithm):
    """E[∇loss] = (λ + β/2) ∇BC(D_p) - (β/2) ∇BC(D_np) at θ = ref, estimated from 4,000 counterfactuals per state."""
    beta, sft_coef, n_samples = 0.8, 0.1, 4_000
    policy = make_model(algorithm).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    observations = torch.as_tensor(STATES[:6])
    generator = torch.Generator().manual_seed(0)
    params = likelihood.params(policy, observations)
    data = likelihood.sample(params.detach(), generator)
    is_preferred = torch.arange(6) < 4

    logp_data = likelihood.log_prob(params, data)
    counterfactuals = likelihood.sample(params.detach().repeat(n_samples, 1), generator).view(n_samples, 6, -1)
    logp_cf = likelihood.log_prob(params, counterfactuals).flatten()
    loss, _ = prefine_loss(
        *(logp_data.repeat(n_samples), logp_data.detach().repeat(n_samples), logp_cf, logp_cf.detach()),
        is_preferred.repeat(n_samples),
        beta=beta,
        sft_coef=sft_coef,
    )
    expected = -(sft_coef + beta / 2) * logp_data[:4].mean() + (beta / 2) * logp_data[4:].mean()
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, params, retain_graph=True)]) for x in (loss, expected)
    ]
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < 0.02


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_export_changes_nothing_but_the_actor(algorithm, tmp_path):
    source = make_model(algorithm)
    source.learn(120 if algorithm in (SAC, TQC, CrossQ) else 1)
    model = PREFINE(source, preferences(), seed=0, device="cpu").learn(20)
    path = model.export(tmp_path / "safe")
    exported = algorithm.load(path, device="cpu")
    np.testing.assert_array_equal(
        exported.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )
    assert exported.num_timesteps == source.num_timesteps
    assert exported.learning_rate == source.learning_rate
    for name, tensor in exported.policy.state_dict().items():
        if "critic" in name or "value" in name:
            assert torch.equal(tensor, source.policy.state_dict()[name]), name
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(io.BytesIO(model.reference.checkpoint.archive)) as old:
        assert new.namelist() == old.namelist()
        assert json.loads(new.read("data")) == json.loads(old.read("data"))
        for name in set(old.namelist()) - {"policy.pth", "data"}:
            assert new.read(name) == old.read(name), name
    # Online training continues from it.
    assert algorithm.load(path, env=RandomEnv(), device="cpu").learn(200).num_timesteps >= 200


def test_a_policy_without_an_algorithm_is_exported_as_sb3_saves_it(tmp_path):
    policy = make_model(PPO).policy
    model = PREFINE(policy, preferences(), device="cpu").learn(5)
    exported = type(policy).load(model.export(tmp_path / "policy"), device="cpu")
    assert_same_weights(weights(exported), weights(model.policy))


def test_a_missing_normalizer_is_refused(tmp_path):
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    make_model(PPO, env, n_steps=64, batch_size=64).learn(64).save(tmp_path / "model.zip")
    for source in (tmp_path / "model.zip", PPO.load(tmp_path / "model.zip", device="cpu")):
        with pytest.raises(ValueError, match=r"^normalizer: .*VecNormalize"):
            PREFINE(source)
    assert load_reference(tmp_path / "model.zip", normalizer=False).normalizer is None
