"""Save and load, with and without an environment, and continue training."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE
from tests.sb3_contract.models import prefine_of, vec_env
from tests.worlds import STATES, RandomEnv, assert_same_weights, make_model, preferences, weights


def actions_of(model: BaseAlgorithm) -> np.ndarray:
    return model.predict(STATES, deterministic=True)[0]


# Paths and files


@pytest.mark.filterwarnings("ignore:Path .* does not exist")  # SB3 warns when it creates the folder
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["model", "model.zip", "a/folder/that/is/not/there/model", "rl_model.v1.5"])
def test_paths_are_those_of_sb3(kind, name, tmp_path):
    model = prefine_of()
    model.save(kind(tmp_path / name))
    make_model(PPO).save(kind(tmp_path / "theirs" / name))
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if "theirs" not in path.parts]
    assert written == [path.relative_to(tmp_path / "theirs") for path in (tmp_path / "theirs").rglob("*.*")]
    loaded = PREFINE.load(kind(tmp_path / name), device="cpu")
    np.testing.assert_array_equal(actions_of(loaded), actions_of(model))


def test_open_file_is_written_and_read(tmp_path):
    model = prefine_of().learn(3)
    with open(tmp_path / "model.bin", "wb") as file:
        model.save(file)
        assert not file.closed
    with open(tmp_path / "model.bin", "rb") as file:
        loaded = PREFINE.load(file, device="cpu")
    np.testing.assert_array_equal(actions_of(loaded), actions_of(model))


def test_open_file_of_another_algorithm_is_refused():
    file = io.BytesIO()
    make_model(PPO).save(file)
    file.seek(0)
    with pytest.raises(ValueError, match=r"^path: .*PREFINE\.save"):
        PREFINE.load(file)


def test_saving_does_not_change_training(tmp_path):
    def run(saves: bool) -> dict[str, torch.Tensor]:
        model = prefine_of()
        for _ in range(3):
            model.learn(2, reset_num_timesteps=False)
            if saves:
                model.save(tmp_path / "model")
        return weights(model.policy)

    assert_same_weights(run(saves=True), run(saves=False))


# What is saved


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_every_parameter_is_restored(algorithm, tmp_path):
    model = prefine_of(algorithm).learn(5)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    given, read = model.get_parameters(), loaded.get_parameters()
    assert set(given) == set(read) == {"policy", "optimizer"}
    assert_same_weights(given["policy"], read["policy"])
    for ours, theirs in zip(given["optimizer"]["state"].values(), read["optimizer"]["state"].values(), strict=True):
        assert_same_weights(ours, theirs)
    assert given["optimizer"]["param_groups"] == read["optimizer"]["param_groups"]


def test_every_hyperparameter_is_restored(tmp_path):
    options = {
        "learning_rate": 1e-3,
        "batch_size": 7,
        "beta": 0.3,
        "sft_coef": 0.7,
        "log_std_min": -3.0,
        "max_grad_norm": 2.0,
        "seed": 11,
        "verbose": 0,
    }
    model = prefine_of(stats_window_size=13, tensorboard_log=None, **options)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    assert {name: getattr(loaded, name) for name in options} == options
    assert loaded._stats_window_size == 13
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    assert loaded.policy_class is type(model.policy)


def test_exclude_and_include_choose_what_is_saved(tmp_path):
    model = prefine_of(beta=0.3, verbose=2)
    model.save(tmp_path / "model", exclude=["verbose", "beta"])
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    assert (loaded.verbose, loaded.beta) == (0, 0.05)
    model.save(tmp_path / "model", exclude=["verbose", "beta"], include=["beta"])
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    assert (loaded.verbose, loaded.beta) == (0, 0.3)


def test_preferences_can_be_included(tmp_path):
    model = prefine_of()
    model.save(tmp_path / "model", include=["preferences"])
    with pytest.raises(ValueError, match=r"model\.zip: preferences "):
        PREFINE.load(tmp_path / "model", device="cpu")
    given = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    trusted = PREFINE.load(tmp_path / "model", device="cpu", trust=True)
    np.testing.assert_array_equal(trusted.preferences.preferred.observations, model.preferences.preferred.observations)
    assert_same_weights(weights(trusted.learn(3).policy), weights(given.learn(3).policy))


def test_custom_objects_replace_those_in_the_file(tmp_path):
    prefine_of(learning_rate=lambda progress: 1e-3).save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", custom_objects={"learning_rate": 1e-5, "batch_size": 3})
    assert (loaded.learning_rate, loaded.lr_schedule(1.0), loaded.batch_size) == (1e-5, 1e-5, 3)
    loaded.preferences = preferences()
    assert loaded.learn(2).optimizer.param_groups[0]["lr"] == 1e-5


def test_keyword_arguments_have_priority_over_the_file(tmp_path):
    prefine_of(beta=0.3).save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", beta=0.1, preferences=preferences(), learning_rate=1e-5)
    assert (loaded.beta, loaded.lr_schedule(0.5)) == (0.1, 1e-5)
    assert loaded.learn(2).num_timesteps == 2


@pytest.mark.parametrize("own", [True, False], ids=["PREFINE", "PPO"])
def test_print_system_info_prints_the_versions(own, tmp_path, capsys):
    (prefine_of() if own else make_model(PPO)).save(tmp_path / "model")
    PREFINE.load(tmp_path / "model", device="cpu")
    assert "SYSTEM INFO" not in capsys.readouterr().out
    PREFINE.load(tmp_path / "model", device="cpu", print_system_info=True)
    printed = capsys.readouterr().out
    assert "== CURRENT SYSTEM INFO ==" in printed
    assert "== SAVED MODEL SYSTEM INFO ==" in printed


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC])
def test_policy_alone_is_saved_and_loaded_as_in_sb3(algorithm, tmp_path):
    model = prefine_of(algorithm, learning_rate=1e-2).learn(3)
    model.policy.save(tmp_path / "policy.pkl")
    policy = model.policy_class.load(tmp_path / "policy.pkl", device="cpu")
    np.testing.assert_array_equal(policy.predict(STATES, deterministic=True)[0], actions_of(model))
    if algorithm is SAC:
        model.policy.actor.save(tmp_path / "actor.pkl")
        actor = type(model.policy.actor).load(tmp_path / "actor.pkl", device="cpu")
        np.testing.assert_array_equal(actor.predict(STATES, deterministic=True)[0], actions_of(model))


def test_schedule_of_numpy_numbers_is_cast(tmp_path):
    """torch.load(weights_only=True) refuses NumPy's floats in an optimizer (SB3 issue 1900)."""
    model = prefine_of(learning_rate=lambda progress: progress * np.sin(1.0)).learn(3)
    assert type(model.lr_schedule(0.5)) is float
    assert type(model.optimizer.param_groups[0]["lr"]) is float
    model.save(tmp_path / "model")
    for loaded in (
        PREFINE.load(tmp_path / "model", device="cpu", trust=True),
        PREFINE.load(tmp_path / "model", device="cpu", learning_rate=np.float64(1e-3)),
    ):
        loaded.preferences = preferences()
        loaded.learn(2)
        assert type(loaded.lr_schedule(0.5)) is float
        assert type(loaded.optimizer.param_groups[0]["lr"]) is float


# Environments


def test_model_without_an_environment_has_none_after_loading(tmp_path):
    model = prefine_of()
    assert model.get_env() is None
    assert model.get_vec_normalize_env() is None
    model.save(tmp_path / "model")
    assert PREFINE.load(tmp_path / "model", device="cpu").get_env() is None


def test_environments_can_be_set_between_trainings():
    model = prefine_of(env=RandomEnv())
    assert isinstance(model.get_env(), DummyVecEnv)
    model.learn(3)
    for env in (RandomEnv(), vec_env()):
        model.set_env(env)
        model.learn(3)
        assert model.get_env().num_envs == 1
    assert model.get_env() is env


def test_environment_can_be_set_on_a_model_without_one():
    model = prefine_of()
    model.set_env(vec_env())
    assert model.get_env() is not None
    model.learn(2)


def test_environments_that_do_not_fit_are_refused(tmp_path):
    model = prefine_of(env=vec_env(2))
    assert model.n_envs == 2
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(vec_env(1))
    model.save(tmp_path / "model")
    pendulum = vec_env(env="Pendulum-v1")
    with pytest.raises(ValueError, match=r"^env: its observation_space "):
        PREFINE.load(tmp_path / "model", env=pendulum, device="cpu")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        prefine_of().set_env(pendulum)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("force_reset", [True, False])
def test_model_can_be_loaded_with_another_number_of_environments(n_envs, force_reset, tmp_path):
    prefine_of(env=vec_env(2)).learn(2).save(tmp_path / "model")
    env = vec_env(n_envs)
    loaded = PREFINE.load(tmp_path / "model", env=env, device="cpu", force_reset=force_reset)
    assert loaded.get_env() is env
    assert loaded.n_envs == n_envs
    loaded.preferences = preferences()
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 4
    assert env.reset().shape[0] == n_envs


def test_environment_that_normalises_is_refused(tmp_path):
    """The model normalises observations itself. Normalising them twice would be a silent error."""
    model = prefine_of()
    model.save(tmp_path / "model")
    make_model(PPO).save(tmp_path / "ppo")
    env = VecNormalize(vec_env())
    for path in (tmp_path / "model", tmp_path / "ppo"):
        with pytest.raises(ValueError, match=r"^env: .*VecNormalize"):
            PREFINE.load(path, env=env, device="cpu")
    with pytest.raises(ValueError, match=r"^env: .*VecNormalize"):
        model.set_env(env)


def test_environment_is_not_saved(tmp_path):
    prefine_of(env=vec_env()).save(tmp_path / "model")
    assert PREFINE.load(tmp_path / "model", device="cpu").get_env() is None


# Counts


@pytest.mark.parametrize("with_env", [False, True])
def test_counts_are_exact_through_learn_save_and_load(with_env, tmp_path):
    def counts(model: PREFINE) -> tuple[int, int, int]:
        return model.num_timesteps, model._n_updates, model._total_timesteps

    env = vec_env() if with_env else None
    model = prefine_of(env=env)
    assert counts(model) == (0, 0, 0)
    assert counts(model.learn(5)) == (5, 5, 5)
    assert counts(model.learn(4)) == (4, 9, 4)
    assert counts(model.learn(3, reset_num_timesteps=False)) == (7, 12, 7)
    assert counts(model.learn(0, reset_num_timesteps=False)) == (7, 12, 7)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", env=env, device="cpu", preferences=preferences())
    assert counts(loaded) == (7, 12, 7)
    assert counts(loaded.learn(2, reset_num_timesteps=False)) == (9, 14, 9)
    assert counts(loaded.learn(2)) == (2, 16, 2)


def test_steps_of_the_optimizer_continue_after_load(tmp_path):
    model = prefine_of().learn(5)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    loaded.learn(3)
    assert {int(state["step"]) for state in loaded.optimizer.state_dict()["state"].values()} == {8}


def test_custom_objects_for_another_algorithm_are_refused(tmp_path):
    """They would be ignored: a reference is built from the file or from the environment."""
    make_model(PPO).save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"^custom_objects: observation_space "):
        PREFINE.load(tmp_path / "ppo", custom_objects={"observation_space": RandomEnv.observation_space})
