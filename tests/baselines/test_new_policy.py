"""The new policy that BC, SafeDICE and CPQ create for their data: its spaces, its normaliser, what is refused."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference
from sb3_prefine.baselines import BC
from sb3_prefine.policies.cvae import CVAEPolicy
from tests.baselines.by_hand import next_batch
from tests.families import DictEnv, ImageEnv
from tests.worlds import GOOD, STATES, RandomEnv, make_model, recorded, trajectories

SMALL = {"net_arch": [16, 16]}


def bc(alias: str, data: Trajectories | None, env: object = None, **kwargs: object) -> BC:
    return BC(alias, data, env, **{"policy_kwargs": SMALL, "batch_size": 8, "seed": 0, "device": "cpu", **kwargs})


def test_spaces_are_taken_from_the_data_or_the_environment():
    model = bc("CVAEPolicy", recorded(np.zeros((10, 2)), np.full((10, 3), 0.5)))
    assert model.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert model.action_space == spaces.Box(-1.0, 1.0, (3,), np.float32)
    model = bc("CVAEPolicy", trajectories(GOOD), RandomEnv())
    assert (model.observation_space, model.action_space) == (RandomEnv.observation_space, RandomEnv.action_space)
    assert model.get_env() is not None
    pendulum = recorded(np.zeros((10, 3)), np.zeros((10, 1)))
    assert bc("GaussianPolicy", pendulum, "Pendulum-v1").action_space.high == 2.0


def test_observations_are_normalized_by_the_statistics_of_the_data():
    data = trajectories(GOOD)
    columns = np.asarray(data.observations, np.float64)
    model = bc("GaussianPolicy", data, RandomEnv())
    expected = ((columns - columns.mean(0)) / np.sqrt(columns.var(0) + 1e-6)).astype(np.float32)
    assert (next_batch(model).observations[:, None] == torch.tensor(expected)).all(-1).any(1).all()
    action, _ = model.predict(STATES, deterministic=True)
    scaled = ((STATES - columns.mean(0)) / np.sqrt(columns.var(0) + 1e-6)).astype(np.float32)
    np.testing.assert_allclose(action, model.policy.predict(scaled, deterministic=True)[0], atol=1e-6)
    assert bc("GaussianPolicy", data, RandomEnv(), normalize=False).reference.normalizer is None


def test_a_constant_observation_is_not_scaled_up():
    observations = np.ones((40, 2), np.float32)
    observations[:, 1] = np.linspace(-1, 1, 40)
    model = bc("GaussianPolicy", recorded(observations, np.zeros((40, 1))))
    assert abs(model.reference.normalize(np.array([1.001, 0.0], np.float32))[0]) < 1.01


@pytest.mark.parametrize("env", [ImageEnv, DictEnv])
@pytest.mark.parametrize("alias", ["GaussianPolicy", "SquashedPolicy", "CVAEPolicy"])
def test_images_are_not_normalized_and_parts_of_dicts_are(alias, env):
    untrained = CVAEPolicy(env.observation_space, env.action_space, net_arch=[4])
    data = collect(load_reference(untrained), env, 2, progress_bar=False)
    model = bc(alias, data, env()).learn(2)
    assert model.predict(env.observation_space.sample())[0].shape == (3,)
    if env is ImageEnv:
        assert model.reference.normalizer is None
    else:
        assert set(model.reference.normalizer.observations) == {"speed"}
    assert PREFINE(model, PreferenceBuffer(data[0], data[1]), batch_size=8, device="cpu").learn(1).num_timesteps == 1


INTEGERS = np.zeros((10, 2), int)


@pytest.mark.parametrize(
    ("policy", "data", "kwargs", "error"),
    [
        ("GaussianPolicy", None, {}, "trajectories: "),
        ("VAEPolicy", trajectories(GOOD), {"env": RandomEnv()}, "policy: 'VAEPolicy'"),
        (make_model(SAC), None, {}, "policy_kwargs: "),
        ("GaussianPolicy", trajectories(GOOD), {"env": "Pendulum-v1"}, r"trajectories: observations .*\(5,\)"),
        ("GaussianPolicy", trajectories(GOOD), {}, r"env: .*-1\.\d+"),
        ("GaussianPolicy", recorded(np.zeros((10, 2)), np.zeros(10, int)), {}, "env: .*actions"),
        ("GaussianPolicy", recorded(INTEGERS, np.zeros((10, 1))), {}, "env: .*int64"),
    ],
)
def test_spaces_and_arguments_that_do_not_fit_are_refused(policy, data, kwargs, error):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{error}"):
        bc(policy, data, **kwargs)
