"""State-dependent exploration (gSDE); tests/policies/test_likelihood.py tests its likelihood."""

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO, SAC

from sb3_prefine import PREFINE
from tests.worlds import STATES, assert_same_weights, make_model, preferences, weights

OPTIONS = {
    "plain": {},
    "use_expln": {"use_expln": True},
    "squashed": {"squash_output": True},
    "half": {"full_std": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_variants_of_gsde_learn_and_are_saved(options, tmp_path):
    kwargs = {"net_arch": [8], **options}
    source = make_model(PPO, use_sde=True, sde_sample_freq=4, policy_kwargs=kwargs)
    model = PREFINE(source, preferences(), batch_size=8, seed=0, device="cpu").learn(3)
    actions = model.predict(STATES, deterministic=True)[0]
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], actions)
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 5


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_noise_matrix_of_predict_does_not_change_training(algorithm):
    """Counterfactuals have separate noise, so that predicting between steps does not change what is learnt."""

    def run(callback: object) -> dict:
        model = PREFINE(make_model(algorithm, use_sde=True), preferences(), batch_size=8, seed=0, device="cpu")
        return weights(model.learn(5, callback=callback).policy)

    def disturb(locals_: dict, _globals: dict) -> bool:
        policy = locals_["self"].policy
        (policy if algorithm is not SAC else policy.actor).reset_noise()
        policy.predict(STATES)
        return True

    assert_same_weights(run(disturb), run(None))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_samples_follow_the_noise_matrix_as_in_sb3(algorithm):
    model = PREFINE(make_model(algorithm, use_sde=True), preferences(), batch_size=8, seed=0, device="cpu").learn(2)
    first = model.predict(STATES)[0]
    np.testing.assert_array_equal(model.predict(STATES)[0], first)
    (model.policy if algorithm is not SAC else model.policy.actor).reset_noise()
    assert not np.array_equal(model.predict(STATES)[0], first)
