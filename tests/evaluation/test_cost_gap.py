"""The cost gap, compared with hand counts and a closed form, for every policy family."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO
from scipy.stats import norm
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import Trajectories, collect, load_reference
from sb3_prefine.evaluation.cost_gap import CostGap, cost_gap
from tests.families import FAMILIES, Family
from tests.worlds import ACTIONS, OBSERVATIONS, RandomEnv, make_model

ALMOST_NO_NOISE = -20.0


def acting(mean, log_std=ALMOST_NO_NOISE):
    """A PPO model that takes the same action in every state."""
    model = make_model(PPO)
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor(mean))
        model.policy.log_std.fill_(log_std)
    return model


def episodes(limits, costs):
    """One episode for each list; a state's first number is a limit."""
    flat = np.concatenate(limits)
    observations = np.zeros((len(flat), OBSERVATIONS), np.float32)
    observations[:, 0] = flat
    ends = np.zeros(len(flat), bool)
    ends[np.cumsum([len(each) for each in limits]) - 1] = True
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=np.tile(np.float32([-1.0, 1.0, 0.0]), (len(flat), 1)),
        rewards=np.zeros(len(flat)),
        costs=np.concatenate(costs),
        terminals=np.zeros(len(flat), bool),
        timeouts=ends,
    )


def above_limit(observations, actions):
    return (actions[:, 0] > observations[:, 0]).astype(float)


# The numbers


def test_violations_of_each_episode_match_a_hand_count():
    data = episodes([[0.1, 0.3, 0.1], [0.9], [0.1, 0.1, 0.1, 0.3]], [[1, 0, 0], [1], [0, 0, 0, 1]])
    gap = cost_gap(acting([0.2, 1.0, 0.0]), data, above_limit)
    np.testing.assert_array_equal(gap.recorded, [1, 1, 1])
    np.testing.assert_array_equal(gap.sampled, [2, 0, 3])
    assert gap.mean == pytest.approx((1 + 1 + 2) / 3)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=30))
def test_the_gap_is_the_mean_of_absolute_differences(pairs):
    gap = CostGap(*(np.array(column, float) for column in zip(*pairs, strict=True)))
    assert gap.mean == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs))


@pytest.mark.parametrize(("limit", "bound"), [(0.1, False), (0.6, False), (0.999, True)])
def test_actions_are_sampled_and_clipped(limit, bound):
    mean, std, n = 0.3, 0.5, 20_000
    data = episodes([[limit] * 50] * (n // 50), [[0] * 50] * (n // 50))
    seen = []

    def costs(observations, actions):
        seen.append(actions)
        return (actions[:, 0] == 1.0) if bound else above_limit(observations, actions)

    share = cost_gap(acting([mean, 1.0, 0.0], np.log(std)), data, costs).sampled.sum() / n
    expected = norm.sf(1.0 if bound else limit, mean, std)
    assert share == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / n))
    assert seen[0][:, 0].max() == 1.0 == RandomEnv.action_space.high[0]


def test_noise_depends_on_the_seed_and_the_callers_state_is_kept():
    model, data = acting([0.3, 1.0, 0.0], 0.0), episodes([[0.5] * 40] * 3, [[0] * 40] * 3)

    def global_state():
        return random.getstate(), tuple(map(str, np.random.get_state())), torch.get_rng_state().tolist()  # noqa: NPY002

    before = global_state()
    one, again, other = (cost_gap(model, data, above_limit, seed=seed).sampled for seed in (3, 3, 4))
    assert global_state() == before
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


# The policies


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_gives_actions_in_the_layout_of_the_data(family: Family):
    source = load_reference(family.make())
    data = collect(source, family.env, 3, n_envs=2, seed=1, progress_bar=False)
    seen = []

    def costs(observations, actions):
        assert observations is data.observations
        seen.append(actions)
        return np.ones(len(actions))

    gap = cost_gap(source, data, costs)
    [actions] = seen
    assert (actions.shape, actions.dtype) == (data.actions.shape, data.actions.dtype)
    assert all(source.action_space.contains(action.astype(source.action_space.dtype)) for action in actions)
    np.testing.assert_array_equal(gap.sampled, data.episode_lengths)
    if data.action_masks is not None:
        # Of the first choice: the flags of its options come first.
        first = actions.reshape(len(actions), -1)[:, 0].astype(int)
        assert data.action_masks[np.arange(len(first)), first].all()


class Uneven(RandomEnv):
    """Episodes of 3 to 12 steps."""

    def reset(self, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.length = int(self.np_random.integers(3, 13))
        return observation, info

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps == self.length, info


def test_a_recurrent_policy_runs_from_the_start_of_each_episode():
    model = RecurrentPPO("MlpLstmPolicy", Uneven(), seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": 8})
    with torch.no_grad():
        model.policy.log_std.fill_(ALMOST_NO_NOISE)
        model.policy.action_net.weight.mul_(100)
    data = collect(model, Uneven, 6, n_envs=3, deterministic=True, progress_bar=False)
    assert len(set(data.episode_lengths)) > 2

    def differs(observations, actions):
        return (np.abs(actions - data.actions).max(axis=1) > 1e-4).astype(float)

    assert cost_gap(model, data, differs).sampled.sum() == 0
    forgetful = load_reference(model).predict(data.observations, deterministic=True)[0]
    assert differs(None, forgetful).mean() > 0.5


def test_a_model_behind_vec_normalize_sees_normalised_observations():
    venv = VecNormalize(DummyVecEnv([RandomEnv]))
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 3.0, 4.0
    model = make_model(PPO, venv)
    with torch.no_grad():
        model.policy.log_std.fill_(ALMOST_NO_NOISE)
        model.policy.action_net.weight.mul_(100)
    data = episodes([[1.0, 3.0], [5.0]], [[0, 0], [0]])
    seen = []
    cost_gap(model, data, lambda observations, actions: seen.append(actions) or np.zeros(len(actions)))
    expected = model.predict((data.observations - 3.0) / 2.0, deterministic=True)[0]
    np.testing.assert_allclose(seen[0], expected, atol=1e-4)
    assert np.abs(model.predict(data.observations, deterministic=True)[0] - expected).max() > 1e-2


# What is refused


def test_unknown_costs_are_refused():
    data = episodes([[0.1], [0.2, 0.3]], [[0.0], [np.nan, np.nan]])
    with pytest.raises(ValueError, match=r"^trajectories: .* 1 of 2 "):
        cost_gap(acting([0.0, 1.0, 0.0]), data, above_limit)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((3, 1)), r"the shape \(3, 1\). Return one cost for each action, \(3,\)"),
        (1.0, r"the shape \(\)"),
        ([0, 1, -1], "-1 for action 2"),
        ([0, np.nan, 1], "nan for action 1"),
    ],
)
def test_invalid_costs_are_refused(returned, message):
    data = episodes([[0.1, 0.2, 0.3]], [[0, 0, 0]])
    with pytest.raises(ValueError, match=f"^cost_fn: .*{message}"):
        cost_gap(acting([0.0, 1.0, 0.0]), data, lambda observations, actions: returned)


def test_episodes_of_another_environment_are_refused():
    data = episodes([[0.1, 0.2]], [[0, 0]])
    fewer = replace(data, observations=data.observations[:, :3], next_observations=data.observations[:, :3])
    with pytest.raises(ValueError, match=r"^trajectories: .*\(3,\).*\(5,\)"):
        cost_gap(acting([0.0] * ACTIONS), fewer, above_limit)
