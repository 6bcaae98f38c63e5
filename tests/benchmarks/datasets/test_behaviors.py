"""Agents of the generated data, compared with the PPO from which they were copied."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.datasets.behaviors import CLIP, DECIMALS, Behavior, Behaviors
from tests.worlds import OBSERVATIONS, RandomEnv


def trained(seed: int = 0) -> tuple[PPO, VecNormalize]:
    """Train a PPO for a few hundred steps, so that its statistics are not 0 and 1."""
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=seed, device="cpu")
    return model.learn(256), env


@pytest.fixture(scope="module")
def ppo() -> tuple[PPO, VecNormalize]:
    return trained()


@pytest.fixture(scope="module")
def behavior(ppo) -> Behavior:
    return Behavior.from_ppo(*ppo)


def observations(n: int = 200, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(1).normal(3.0, spread, (n, OBSERVATIONS))


@pytest.mark.parametrize("spread", [2.0, 100.0])
def test_mean_action_equals_ppo_up_to_half_precision(ppo, behavior, spread):
    """The larger spread makes normalised observations exceed the clipping range."""
    model, env = ppo
    raw = observations(spread=spread)
    assert (np.abs((raw - behavior.mean) / behavior.std).max() > CLIP) == (spread == 100.0)
    # Not model.predict, which clips the actions to the space.
    inputs, _ = model.policy.obs_to_tensor(env.normalize_obs(raw))
    expected = model.policy.get_distribution(inputs).mode().detach().numpy()
    actions, state = behavior.predict(raw, deterministic=True)
    assert state is None
    assert actions.dtype == np.float32
    # Half precision keeps 11 bits of each weight; the sums of 64 of them are of order 1.
    np.testing.assert_allclose(actions, expected, atol=5e-3)
    assert np.abs(expected).max() > 0.02


def test_noise_has_standard_deviation_of_ppo(ppo, behavior):
    model, _ = ppo
    one = np.repeat(observations(1), 20_000, axis=0)
    np.random.seed(0)  # noqa: NPY002 (what collect() seeds)
    noise = behavior.predict(one)[0] - behavior.predict(one, deterministic=True)[0]
    std = model.policy.log_std.exp().detach().numpy()
    np.testing.assert_allclose(noise.std(axis=0), std, rtol=0.03)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.03)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03


def test_actions_do_not_depend_on_batch_or_summation_order(behavior):
    """Different processors sum in different orders."""
    raw = observations()
    together = behavior.predict(raw, deterministic=True)[0]
    one_by_one = np.concatenate([behavior.predict(row[None], deterministic=True)[0] for row in raw])
    np.testing.assert_array_equal(together, one_by_one)
    order = np.random.default_rng(0).permutation(64)
    shuffled = dataclasses.replace(
        behavior,
        weights=(behavior.weights[0][order], behavior.weights[1][:, order], behavior.weights[2]),
        biases=(behavior.biases[0][order], *behavior.biases[1:]),
    )
    np.testing.assert_array_equal(shuffled.predict(raw, deterministic=True)[0], together)
    for actions in (together, behavior.predict(raw)[0]):
        scaled = actions.astype(np.float64) * 10**DECIMALS
        np.testing.assert_allclose(scaled, np.rint(scaled), atol=0.01)


def test_behaviors_are_equal_after_saving(behavior, tmp_path):
    other = Behavior.from_ppo(*trained(seed=1))
    Behaviors.stack([behavior, other]).save(tmp_path / "two.npz")
    loaded = Behaviors.load(tmp_path / "two.npz")
    assert len(loaded) == 2
    assert loaded.columns["weight_1"].dtype == np.float16
    raw = observations()
    for before, after in zip([behavior, other], loaded, strict=True):
        for deterministic in (True, False):
            actions = []
            for policy in (before, after):
                np.random.seed(3)  # noqa: NPY002
                actions.append(policy.predict(raw, deterministic=deterministic)[0])
            np.testing.assert_array_equal(*actions)
    assert not np.array_equal(loaded[0].weights[0], loaded[1].weights[0])


def test_equal_behaviors_give_equal_bytes(behavior, tmp_path, monkeypatch):
    for name in ("one", "other"):
        Behaviors.stack([behavior]).save(tmp_path / f"{name}.npz")
        monkeypatch.setattr("time.time", lambda: 1e9)  # zip files record the time by default
    Behaviors.load(tmp_path / "one.npz").save(tmp_path / "again.npz")
    contents = {path.read_bytes() for path in tmp_path.glob("*.npz")}
    assert len(contents) == 1
    assert len(contents.pop()) < 15_000  # of 4,800 numbers


def test_further_training_does_not_change_a_behavior(tmp_path):
    model, env = trained()
    behavior = Behavior.from_ppo(model, env)
    before = behavior.predict(observations(), deterministic=True)[0]
    log_std = behavior.log_std.copy()
    model.learn(256)
    np.testing.assert_array_equal(behavior.predict(observations(), deterministic=True)[0], before)
    np.testing.assert_array_equal(behavior.log_std, log_std)
    assert not np.array_equal(Behavior.from_ppo(model, env).predict(observations(), deterministic=True)[0], before)


def test_raw_observations_of_an_environment_are_accepted(behavior):
    env = RandomEnv()
    assert isinstance(env.action_space, gym.spaces.Box)
    observation, _ = env.reset(seed=0)
    assert behavior.predict(observation[None])[0].shape == (1, *env.action_space.shape)
