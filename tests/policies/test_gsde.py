"""gSDE noise is drawn from the current standard deviation of the policy."""

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO, SAC

from sb3_prefine import PREFINE, collect, load_reference
from sb3_prefine.policies.gsde import renew_noise
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.rollout.fast_predict import fast_predict
from tests.worlds import OBSERVATIONS, RandomEnv, make_model

N = 4_000


def trained(algorithm):
    """A model whose standard deviation has changed since it was built."""
    model = make_model(algorithm, use_sde=True)
    owner = model.policy.actor if algorithm is SAC else model.policy
    with torch.no_grad():
        owner.log_std.fill_(-2.5)
    return model


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_rollout_samples_have_the_std_of_the_likelihood(algorithm):
    reference = load_reference(trained(algorithm))
    states = np.ones((N, OBSERVATIONS), np.float32)
    torch.manual_seed(0)
    actions, _ = fast_predict(reference)(states)
    # The mean of PPO's second component is close to a bound, where its samples are clipped.
    unclipped = slice(None) if algorithm is SAC else [0, 2]
    if algorithm is SAC:
        actions = np.arctanh(reference.policy.scale_action(actions))
    params = likelihood_of(reference.policy, log_std_min=-20.0).params(reference.policy, torch.ones(1, OBSERVATIONS))
    mean, log_std = params.chunk(2, dim=-1)
    np.testing.assert_allclose(actions.std(axis=0)[unclipped], log_std.exp()[0, unclipped], rtol=0.05)
    np.testing.assert_allclose(
        actions.mean(axis=0)[unclipped], mean[0, unclipped], atol=0.1 * float(log_std.exp().max())
    )
    # Equal states get different samples, also in the next call.
    again, _ = fast_predict(reference)(states[:1])
    assert len(np.unique(actions, axis=0)) > N / 2
    assert not np.isin(again, actions).all()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_opened_policy_has_noise_of_its_loaded_std(algorithm, tmp_path):
    """As after SB3's own load."""
    model = trained(algorithm)
    model.save(tmp_path / "model")
    reference = load_reference(tmp_path / "model.zip")
    for policy in (reference.policy, reference.trainable_copy(), PREFINE(reference, device="cpu").policy):
        actor = policy.actor if algorithm is SAC else policy
        weights = actor.action_dist.exploration_mat.detach()
        assert float(weights.std()) == pytest.approx(np.exp(-2.5), rel=0.5)


@pytest.mark.parametrize("algorithm", [PPO, RecurrentPPO])
def test_same_seed_gives_the_same_episodes(algorithm):
    """Noise that was drawn before the rollout does not matter."""
    if algorithm is PPO:
        model = trained(PPO)
    else:
        model = RecurrentPPO("MlpLstmPolicy", RandomEnv(), use_sde=True, policy_kwargs={"lstm_hidden_size": 8}, seed=0)
    actions = [collect(load_reference(model), RandomEnv, 3, seed=4, progress_bar=False).actions for _ in range(2)]
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_policy_without_gsde_draws_no_noise(algorithm):
    policy = make_model(algorithm).policy
    before = torch.get_rng_state()
    renew_noise(policy)
    assert torch.equal(before, torch.get_rng_state())
