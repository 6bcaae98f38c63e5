"""The tables that training reads, against the reference asked state by state."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.likelihood import likelihood_of
from sb3_prefine.tables import build_tables
from tests.worlds import BAD, GOOD, Anything, model_of, preferences, trajectories

CPU = torch.device("cpu")


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_rows_are_the_reference_s_distribution_at_the_data_s_states(algorithm):
    reference = load_reference(model_of(algorithm))
    likelihood = likelihood_of(reference.policy, -5.0)
    data = preferences()
    tables = build_tables(data, reference, likelihood, CPU)
    states = np.concatenate([data.preferred.observations, data.dispreferred.observations])
    actions = np.concatenate([data.preferred.actions, data.dispreferred.actions])
    assert tables.n_preferred == data.preferred.n_transitions
    with torch.no_grad():
        for row in (0, 17, 39, 40, 79):
            expected = likelihood.params(reference.policy, torch.tensor(states[row : row + 1]))[0]
            torch.testing.assert_close(tables.params_ref[row], expected)
            encoded = likelihood.encode(torch.tensor(actions[row : row + 1]))[0]
            torch.testing.assert_close(tables.actions[row], encoded)


def test_observations_are_normalised_once():
    env = VecNormalize(DummyVecEnv([Anything]))
    model = model_of(PPO, env, n_steps=32, batch_size=32).learn(32)
    reference = load_reference(model)
    tables = build_tables(preferences(), reference, likelihood_of(reference.policy, -5.0), CPU)
    expected = env.normalize_obs(preferences().preferred.observations)
    np.testing.assert_array_equal(tables.observations[: len(expected)].numpy(), expected)


def test_batches_hold_rows_of_both_sets_and_reach_all_of_them():
    reference = load_reference(model_of(PPO))
    data = PreferenceBuffer(preferred=trajectories(GOOD, n_episodes=2), dispreferred=trajectories(BAD, n_episodes=5))
    tables = build_tables(data, reference, likelihood_of(reference.policy, -5.0), CPU)
    batches = tables.batches(8, torch.Generator().manual_seed(0))
    drawn = torch.stack([next(batches) for _ in range(250)])
    assert drawn.shape == (250, 16)
    assert set(drawn[:, :8].flatten().tolist()) == set(range(20))
    assert set(drawn[:, 8:].flatten().tolist()) == set(range(20, 70))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_normaliser_that_blows_up_is_an_error():
    env = VecNormalize(DummyVecEnv([Anything]), clip_obs=np.inf, epsilon=0.0)
    env.obs_rms.var[:] = 1e-80
    model = model_of(PPO, env, n_steps=32, batch_size=32)
    reference = load_reference(model)
    with pytest.raises(ValueError, match="not finite once normalised"):
        build_tables(preferences(), reference, likelihood_of(reference.policy, -5.0), CPU)


def test_the_data_cannot_be_changed_behind_the_tables():
    data = preferences()
    assert isinstance(data.preferred, Trajectories)
    with pytest.raises(ValueError, match="read-only"):
        data.preferred.actions[0] = 0.0
