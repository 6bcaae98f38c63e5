"""Tables of all data, compared with the reference evaluated at single states."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.training.transition_tables import build_tables, join_tables, preferred_first
from tests.worlds import BAD, GOOD, RandomEnv, make_model, preferences, trajectories

CPU = torch.device("cpu")


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_tables_hold_the_distribution_of_the_reference_at_each_state(algorithm):
    reference = load_reference(make_model(algorithm))
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
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    model = make_model(PPO, env, n_steps=32, batch_size=32).learn(32)
    reference = load_reference(model)
    tables = build_tables(preferences(), reference, likelihood_of(reference.policy, -5.0), CPU)
    expected = env.normalize_obs(preferences().preferred.observations)
    np.testing.assert_array_equal(tables.observations[: len(expected)].numpy(), expected)


def test_batches_hold_rows_of_both_sets_and_reach_all_rows():
    reference = load_reference(make_model(PPO))
    data = PreferenceBuffer(
        preferred=trajectories(GOOD, n_episodes=2), dispreferred=trajectories(BAD, n_episodes=5, seed=1)
    )
    tables = build_tables(data, reference, likelihood_of(reference.policy, -5.0), CPU)
    batches = tables.batches(8, torch.Generator().manual_seed(0))
    found: tuple[set, set] = (set(), set())
    for batch in (next(batches) for _ in range(250)):
        assert batch.sets.is_preferred.tolist() == [True] * 8 + [False] * 8
        assert batch.sets.weights is None
        assert batch.labels is None
        # Every row of the batch is a row of the tables, with the same action and distribution.
        rows = (batch.inputs[:, None] == tables.observations[None]).all(-1).int().argmax(1)
        torch.testing.assert_close(batch.inputs, tables.observations[rows], rtol=0, atol=0)
        torch.testing.assert_close(batch.actions, tables.actions[rows], rtol=0, atol=0)
        torch.testing.assert_close(batch.params_ref, tables.params_ref[rows], rtol=0, atol=0)
        found[0].update(rows[:8].tolist())
        found[1].update(rows[8:].tolist())
    assert found == (set(range(20)), set(range(20, 70)))


def test_weights_and_labels_of_an_episode_reach_its_transitions():
    reference = load_reference(make_model(PPO))
    data = PreferenceBuffer(
        trajectories(GOOD, n_episodes=2),
        trajectories(BAD, n_episodes=3, seed=1),
        preferred_weights=[1.0, 3.0],
        dispreferred_labels=[0.5, 1.0, 0.9],
    )
    tables = build_tables(data, reference, likelihood_of(reference.policy, -5.0), CPU)
    assert tables.weights.tolist() == [1.0] * 10 + [3.0] * 10 + [1.0] * 30
    np.testing.assert_allclose(tables.labels.numpy(), [1.0] * 20 + [0.5] * 10 + [1.0] * 10 + [0.9] * 10)
    batch = next(tables.batches(8, torch.Generator().manual_seed(0)))
    rows = (batch.inputs[:, None] == tables.observations[None]).all(-1).int().argmax(1)
    torch.testing.assert_close(batch.sets.weights, tables.weights[rows])
    torch.testing.assert_close(batch.labels, tables.labels[rows])


def test_joined_tables_are_views_of_one_memory():
    reference = load_reference(make_model(PPO))
    plain = PreferenceBuffer(trajectories(GOOD, n_episodes=2), trajectories(BAD, n_episodes=1, seed=1))
    weighted = PreferenceBuffer(trajectories(GOOD, seed=2), trajectories(BAD, seed=3), preferred_weights=[0.5, 1, 2, 3])
    tables = [build_tables(data, reference, likelihood_of(reference.policy, -5.0), CPU) for data in (plain, weighted)]
    whole, parts = join_tables(tables)
    assert whole.weights.tolist() == [1.0] * 30 + tables[1].weights.tolist()
    assert (whole.labels, parts[0].weights) == (None, None)
    for start, table, part in zip((0, 30), tables, parts, strict=True):
        assert part.n_preferred == table.n_preferred
        for name in ("observations", "actions", "params_ref"):
            torch.testing.assert_close(getattr(part, name), getattr(table, name), rtol=0, atol=0)
            assert getattr(part, name).untyped_storage().data_ptr() == getattr(whole, name).untyped_storage().data_ptr()
        # Rows drawn from a view are found among all rows.
        draws = [each.draw(8, torch.Generator().manual_seed(0)) for each in (table, part)]
        assert torch.equal(*draws)
        found, expected = (
            each.at(draws[0] + offset, preferred_first(8, CPU)) for each, offset in ((whole, start), (table, 0))
        )
        assert found.inputs.shape == (100, 16, 5)
        torch.testing.assert_close(found.inputs, expected.inputs, rtol=0, atol=0)
        torch.testing.assert_close(found.params_ref, expected.params_ref, rtol=0, atol=0)
    alone, [same] = join_tables(tables[:1])
    assert alone is same is tables[0]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_non_finite_normalised_observations_are_refused():
    env = VecNormalize(DummyVecEnv([RandomEnv]), clip_obs=np.inf, epsilon=0.0)
    env.obs_rms.var[:] = 1e-80
    model = make_model(PPO, env, n_steps=32, batch_size=32)
    reference = load_reference(model)
    with pytest.raises(ValueError, match=r"^preferences: .*not finite"):
        build_tables(preferences(), reference, likelihood_of(reference.policy, -5.0), CPU)


def test_data_of_tables_are_read_only():
    data = preferences()
    assert isinstance(data.preferred, Trajectories)
    with pytest.raises(ValueError, match="read-only"):
        data.preferred.actions[0] = 0.0
