"""Seeds: what they determine, and what has no influence."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback

from tests.sb3_contract.models import prefine_of, vec_env
from tests.worlds import STATES, assert_same_weights, weights


def learnt(**kwargs: Any) -> dict[str, torch.Tensor]:
    callback = kwargs.pop("callback", None)
    return weights(prefine_of(**kwargs).learn(10, callback=callback).policy)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_env_and_global_random_state_do_not_change_training(algorithm):
    expected = learnt(algorithm=algorithm, seed=5)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(99)
    torch.rand(3)
    assert_same_weights(learnt(algorithm=algorithm, seed=5, env=vec_env()), expected)


def test_random_callbacks_do_not_change_training(tmp_path):
    callbacks = [
        EvalCallback(vec_env(), eval_freq=2, n_eval_episodes=1, deterministic=False, verbose=0),
        CheckpointCallback(save_freq=3, save_path=str(tmp_path)),
    ]
    assert_same_weights(learnt(env=vec_env(), callback=callbacks), learnt())


def test_predict_in_a_callback_does_not_change_training():
    model = prefine_of()
    model.learn(10, callback=lambda *_: model.predict(STATES) is not None)
    assert_same_weights(weights(model.policy), learnt())


def test_seed_repeats_the_samples_of_predict():
    one, other = prefine_of(seed=3), prefine_of(seed=3)
    one.set_random_seed(8)
    first = one.predict(STATES)[0]
    other.set_random_seed(8)
    np.testing.assert_array_equal(other.predict(STATES)[0], first)
    assert not np.array_equal(other.predict(STATES)[0], first)


def test_set_random_seed_decides_what_is_learnt_next():
    """This is SB3's public way to seed an existing model."""

    def run(seed: int) -> dict[str, torch.Tensor]:
        model = prefine_of(seed=0)
        model.set_random_seed(seed)
        return weights(model.learn(10).policy)

    first = run(7)
    assert_same_weights(run(7), first)
    assert any(not torch.equal(tensor, first[name]) for name, tensor in run(8).items())
