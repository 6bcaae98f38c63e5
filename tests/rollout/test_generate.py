import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_prefine.rollout import generate as rollout_module
from sb3_prefine.rollout.generate import generate_episodes
from tests.scripted import RandomPolicy, ScriptedEnv, ZeroPolicy


def run(policy, env, n_episodes=10, n_envs=3, deterministic=True, seed=0, action_transform=None):
    episodes = generate_episodes(
        policy,
        env,
        n_episodes,
        n_envs=n_envs,
        deterministic=deterministic,
        seed=seed,
        action_transform=action_transform,
    )
    return sorted(episodes, key=lambda episode: episode.index)


def global_state():
    return random.getstate(), tuple(map(str, np.random.get_state())), torch.get_rng_state().tolist()  # noqa: NPY002


# The episodes


@settings(deadline=None, max_examples=40)
@given(n_episodes=st.integers(1, 20), n_envs=st.integers(1, 7), seed=st.integers(0, 2**40))
def test_every_episode_runs_once_and_to_its_end(n_episodes, n_envs, seed):
    envs = []

    def make():
        envs.append(ScriptedEnv())
        return envs[-1]

    episodes = run(ZeroPolicy(), make, n_episodes, n_envs, seed=seed)

    assert [e.index for e in episodes] == list(range(n_episodes))
    assert len(envs) == min(n_envs, n_episodes)
    started = [(s % 1000, 1 + s % 7) for env in envs for s in env.seeds]
    assert sorted(started) == sorted((int(e.observations[0, 0]), len(e.rewards)) for e in episodes)


def test_an_episode_depends_on_the_seed_and_its_index_alone():
    alone = run(ZeroPolicy(), ScriptedEnv, 12, n_envs=1)
    for other in (run(ZeroPolicy(), ScriptedEnv, 12, n_envs=5), run(ZeroPolicy(), ScriptedEnv, 20, n_envs=4)[:12]):
        for a, b in zip(alone, other, strict=True):
            np.testing.assert_array_equal(a.observations, b.observations)
    first_observations = {float(e.observations[0, 0]) for e in alone}
    assert len(first_observations) > 8
    assert first_observations.isdisjoint(float(e.observations[0, 0]) for e in run(ZeroPolicy(), ScriptedEnv, 4, seed=1))


def test_an_episode_records_observations_actions_and_flags():
    env = ScriptedEnv()
    episodes = run(ZeroPolicy(), env, 20)
    assert len({len(e.rewards) for e in episodes}) > 5
    for episode, seed in zip(episodes, env.seeds, strict=True):
        length = 1 + seed % 7
        steps = np.arange(length + 1)
        np.testing.assert_array_equal(episode.observations, np.stack([np.full(length + 1, seed % 1000), steps], axis=1))
        np.testing.assert_array_equal(episode.rewards, steps[1:])
        np.testing.assert_array_equal(episode.costs, steps[1:] % 2)
        assert episode.actions.shape == (length, 2)
        assert (episode.terminated, episode.truncated) == (length % 2 == 1, length % 2 == 0)


def test_the_cost_is_unknown_if_no_step_reports_one():
    class NoCost(ScriptedEnv):
        def info(self):
            return {}

    assert all(np.isnan(e.costs).all() for e in run(ZeroPolicy(), NoCost))


def test_the_cost_is_zero_in_steps_that_report_none():
    class CostAtFirst(ScriptedEnv):
        def info(self):
            return {"cost": 3} if self.t == 1 else {}

    for episode in run(ZeroPolicy(), CostAtFirst):
        np.testing.assert_array_equal(episode.costs, [3.0] + [0.0] * (len(episode.rewards) - 1))


def test_dict_observations_reach_the_policy_as_a_dict():
    class DictEnv(ScriptedEnv):
        observation_space = spaces.Dict({"a": ScriptedEnv.observation_space, "b": spaces.Box(0, 1, (1,), np.float32)})

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            return {"a": observation, "b": np.ones(1, np.float32)}, info

        def step(self, action):
            observation, *rest = super().step(action)
            return {"a": observation, "b": np.ones(1, np.float32)}, *rest

    policy = PPO("MultiInputPolicy", DummyVecEnv([DictEnv])).policy
    for episode in run(policy, DictEnv):
        np.testing.assert_array_equal(episode.observations["a"][:, 1], np.arange(len(episode.rewards) + 1))
        assert episode.observations["b"].shape == (len(episode.rewards) + 1, 1)


# The policy


def test_a_recurrent_state_stays_with_its_environment():
    """The state counts the steps of each episode, in the (layers, n_envs, hidden) layout of sb3-contrib."""

    class Counting:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            count = np.zeros((1, len(observation), 1)) if state is None else state[0].copy()
            count[:, episode_start] = 0
            actions = np.repeat(count[0], 2, axis=1) / 100
            return actions.astype(np.float32), (count + 1,)

    for n_envs in (1, 3, 8):
        for episode in run(Counting(), ScriptedEnv, 20, n_envs):
            np.testing.assert_allclose(100 * episode.actions[:, 0], np.arange(len(episode.rewards)), rtol=1e-5)


def test_a_model_behind_vec_normalize_acts_on_normalised_observations(tmp_path):
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0)
    model.learn(64)
    [episode] = run(model, "Pendulum-v1", 1)
    expected, _ = model.predict(venv.normalize_obs(episode.observations[:-1]), deterministic=True)
    np.testing.assert_allclose(episode.actions, expected, atol=1e-5)
    raw, _ = model.predict(episode.observations[:-1], deterministic=True)
    assert np.abs(raw - expected).max() > 1e-3

    model.save(tmp_path / "model.zip")
    venv.save(tmp_path / "vecnormalize.pkl")
    for path in (tmp_path / "model.zip", str(tmp_path / "model.zip")):
        [from_path] = run(path, "Pendulum-v1", 1)
        np.testing.assert_allclose(from_path.actions, episode.actions, atol=1e-5)


def test_a_discrete_policy():
    model = DQN("MlpPolicy", "CartPole-v1", seed=0)
    episodes = run(model, "CartPole-v1", 4)
    for episode in episodes:
        assert episode.actions.dtype == np.int64
        expected, _ = model.predict(episode.observations[:-1], deterministic=True)
        np.testing.assert_array_equal(episode.actions, expected)
        assert np.isnan(episode.costs).all()


def test_the_env_wrappers_of_a_policy_are_applied():
    class WithTime(ZeroPolicy):
        def wrap_env(self, env):
            return gym.wrappers.TimeAwareObservation(env)

    for env in (lambda: gym.wrappers.TimeLimit(ScriptedEnv(), 9), gym.wrappers.TimeLimit(ScriptedEnv(), 9)):
        assert all(e.observations.shape == (len(e.rewards) + 1, 3) for e in run(WithTime(), env))


def test_an_object_without_predict_is_refused():
    with pytest.raises(TypeError, match=r"^policy: Sequential "):
        run(torch.nn.Sequential(), ScriptedEnv)


# Randomness


def test_the_same_arguments_give_the_same_episodes():
    torch.manual_seed(1)
    first = run(RandomPolicy(), ScriptedEnv, deterministic=False)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    second = run(RandomPolicy(), ScriptedEnv, deterministic=False)
    other_seed = run(RandomPolicy(), ScriptedEnv, deterministic=False, seed=1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
    assert not np.isin(first[0].actions, other_seed[0].actions).any()
    drawn = np.concatenate([e.actions for e in first]).ravel()
    assert len(np.unique(drawn)) == len(drawn)


def test_stochastic_actions_are_sampled():
    model = PPO("MlpPolicy", "Pendulum-v1", seed=0)
    mode, sampled = (run(model, "Pendulum-v1", 1, deterministic=d)[0] for d in (True, False))
    assert np.abs(mode.actions - sampled.actions).max() > 0.5


def test_the_callers_random_state_is_kept_between_episodes():
    model = PPO("MlpPolicy", "Pendulum-v1", seed=0)
    for policy, env in ((RandomPolicy(), ScriptedEnv), (model, "Pendulum-v1")):
        before = global_state()
        for _ in generate_episodes(policy, env, 3, n_envs=2, deterministic=False, seed=0):
            assert global_state() == before
        assert global_state() == before


def test_the_caller_drawing_between_episodes_changes_nothing():
    expected = run(RandomPolicy(), ScriptedEnv)
    episodes = []
    for episode in generate_episodes(RandomPolicy(), ScriptedEnv, 10, n_envs=3, deterministic=True, seed=0):
        episodes.append(episode)
        torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
    for episode in episodes:
        np.testing.assert_array_equal(episode.actions, expected[episode.index].actions)


def test_the_callers_random_state_survives_an_error():
    def explode(actions):
        raise ZeroDivisionError

    before = global_state()
    with pytest.raises(ZeroDivisionError):
        run(RandomPolicy(), ScriptedEnv, action_transform=explode)
    assert global_state() == before


# The actions


def test_the_actions_that_the_environment_received_are_recorded():
    class Growing(ZeroPolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.stack([observation[:, 1], -observation[:, 1]], axis=1).astype(np.float64), state

    env = ScriptedEnv()
    episodes = run(Growing(), env, 20, action_transform=lambda actions: 0.4 * actions)
    recorded = np.concatenate([e.actions for e in episodes])
    np.testing.assert_array_equal(recorded, env.received)
    assert recorded.dtype == np.float32
    for episode in episodes:
        up = np.minimum(0.4 * np.arange(len(episode.rewards)), 1.0)
        np.testing.assert_allclose(episode.actions, np.stack([up, -up], axis=1), rtol=1e-6)


def test_actions_outside_the_space_are_refused():
    with pytest.raises(ValueError, match=r"^policy: .*\(3, 1\).*\(3, 2\)"):
        run(ZeroPolicy(), ScriptedEnv, action_transform=lambda actions: actions[:, :1])
    with pytest.raises(ValueError, match=r"^policy: .*inf inf"):
        run(ZeroPolicy(), ScriptedEnv, action_transform=lambda actions: actions + np.inf)
    with pytest.raises(ValueError, match=r"^policy: .*float64.*int64"):
        run(DQN("MlpPolicy", "CartPole-v1"), "CartPole-v1", action_transform=lambda actions: 0.5 * actions)


# What can go wrong in a simulation


@pytest.mark.parametrize("name", ["observation", "reward"])
def test_the_episode_of_a_diverged_simulation_is_named(name):
    class Diverges(ScriptedEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            if self.t == 4:
                observation, reward = (observation * np.nan, reward) if name == "observation" else (observation, np.inf)
            return observation, reward, *rest

    lengths = [len(e.rewards) for e in run(ZeroPolicy(), ScriptedEnv, n_envs=1)]
    first = next(i for i, length in enumerate(lengths) if length >= 4)
    with pytest.raises(ValueError, match=f"^env: .* {name} in episode {first}, by step "):
        run(ZeroPolicy(), Diverges, n_envs=1)


def test_an_episode_that_never_ends_is_an_error(monkeypatch):
    class Endless(ScriptedEnv):
        def step(self, action):
            observation, reward, *_, info = super().step(action)
            return observation, reward, False, False, info

    monkeypatch.setattr(rollout_module, "MAX_EPISODE_STEPS", 50)
    with pytest.raises(RuntimeError, match=r"^env: episode 0 .* 50 steps"):
        run(ZeroPolicy(), Endless)


def test_a_longer_time_limit_of_the_environment_holds(monkeypatch):
    monkeypatch.setattr(rollout_module, "MAX_EPISODE_STEPS", 50)
    [episode] = run(PPO("MlpPolicy", "Pendulum-v1"), "Pendulum-v1", 1)
    assert len(episode.rewards) == 200


# The environment


def test_only_environments_made_here_are_closed():
    made = []

    def make():
        made.append(ScriptedEnv())
        return made[-1]

    run(ZeroPolicy(), make)
    with pytest.raises(ValueError, match=r"^policy: "):
        run(ZeroPolicy(), make, action_transform=lambda actions: actions + np.inf)
    abandoned = generate_episodes(ZeroPolicy(), make, 10, n_envs=3, deterministic=True, seed=0)
    next(abandoned)
    abandoned.close()
    assert [env.closed for env in made] == [1] * len(made)

    own = ScriptedEnv()
    run(ZeroPolicy(), own)
    vec_env = DummyVecEnv([ScriptedEnv, ScriptedEnv])
    run(ZeroPolicy(), vec_env)
    assert own.closed == 0
    assert [env.closed for env in vec_env.envs] == [0, 0]


def test_the_environments_of_a_dummy_vec_env_are_used_raw():
    plain = run(ZeroPolicy(), ScriptedEnv)
    vec_env = DummyVecEnv([ScriptedEnv, ScriptedEnv])
    for episode, expected in zip(run(ZeroPolicy(), VecNormalize(VecMonitor(vec_env))), plain, strict=True):
        np.testing.assert_array_equal(episode.observations, expected.observations)
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
    assert all(len(env.seeds) > 2 for env in vec_env.envs)


def test_environments_that_cannot_be_used_are_refused():
    shared = ScriptedEnv()
    subprocesses = SubprocVecEnv([ScriptedEnv], start_method="fork")
    for env, error, message in (
        (subprocesses, TypeError, "SubprocVecEnv"),
        (VecFrameStack(DummyVecEnv([ScriptedEnv]), 2), TypeError, "VecFrameStack"),
        (lambda: DummyVecEnv([ScriptedEnv]), TypeError, "DummyVecEnv"),
        (lambda: shared, ValueError, "twice"),
        (3, TypeError, "int"),
        ("HalfCheetahh-v5", ValueError, "'HalfCheetahh-v5'"),
        ("nowhere/HalfCheetah-v5", ValueError, "'nowhere/HalfCheetah-v5'"),
        ("HalfCheetah-v99", ValueError, "'HalfCheetah-v99'"),
    ):
        with pytest.raises(error, match=f"^env: .*{message}"):
            run(ZeroPolicy(), env)
    subprocesses.close()


@pytest.mark.parametrize(("name", "value"), [("n_episodes", 0), ("n_envs", 0), ("seed", -1)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value}"):
        run(ZeroPolicy(), ScriptedEnv, **{name: value})


def test_observations_of_another_length_are_refused_with_a_hint():
    policy = PPO("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match=r"^env: .*\(4,\).*\(3,\)"):
        next(generate_episodes(policy, "CartPole-v1", 1, deterministic=True, seed=0))
