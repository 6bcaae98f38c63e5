import inspect

import numpy as np
import pytest

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.zoo.keys import MODEL_KEYS, SELECTION_KEYS, check_keys, load_preferences

GIVEN = {"pretrained": "model.zip", "dataset": "data.hdf5", "cost_limit": 40, "n_timesteps": 100}
TWO_SETS = {"pretrained": "model.zip", "preferred": "good.hdf5", "dispreferred": "bad.hdf5", "n_timesteps": 100}


# Refused keys


@pytest.mark.parametrize(
    ("hyperparams", "message"),
    [
        ({**GIVEN, "policy": "MlpPolicy"}, r"^policy: "),
        ({**GIVEN, "normalize": True}, r"^normalize: .*True"),
        ({**GIVEN, "normalize": "{'norm_obs': True}"}, r"^normalize: .*'norm_obs'"),
        ({**GIVEN, "frame_stack": 4}, r"^frame_stack: .*4"),
        ({**GIVEN, "vec_env_wrapper": "a.B"}, r"^vec_env_wrapper: .*'a\.B'"),
        ({**GIVEN, "n_envs": 8}, r"^n_envs: .*8"),
        ({**GIVEN, "gamma": 0.99, "bata": 1}, r"^bata, gamma: .*batch_size, beta,"),
        ({**GIVEN, "pretrained": ""}, r"^pretrained: "),
        ({key: GIVEN[key] for key in ("dataset", "cost_limit", "n_timesteps")}, r"^pretrained: "),
        (
            {key: GIVEN[key] for key in ("pretrained", "cost_limit", "n_timesteps")},
            r"^dataset, preferred, dispreferred: found none of them",
        ),
        ({key: GIVEN[key] for key in ("pretrained", "dataset", "n_timesteps")}, r"^cost_limit: "),
        ({**GIVEN, "preferred": "good.hdf5"}, r"dispreferred: found dataset and preferred\."),
        ({**GIVEN, **TWO_SETS}, r"dispreferred: found dataset and preferred and dispreferred\."),
        ({**TWO_SETS, "dispreferred": None}, r"dispreferred: found only preferred\."),
        ({**TWO_SETS, "preferred": ""}, r"dispreferred: found only dispreferred\."),
    ],
)
def test_missing_unknown_and_contradictory_keys_are_refused(hyperparams, message):
    with pytest.raises(ValueError, match=message):
        check_keys(hyperparams, {}, "")


def test_pretrained_policy_and_trained_agent_exclude_each_other():
    with pytest.raises(ValueError, match=r"^pretrained: 'model\.zip' .*-i run\.zip"):
        check_keys(GIVEN, {}, "run.zip")
    without = {key: value for key, value in GIVEN.items() if key != "pretrained"}
    assert check_keys(without, {}, "run.zip") == without


def test_selection_keys_for_two_given_sets_are_refused():
    for key in SELECTION_KEYS:
        with pytest.raises(ValueError, match=f"^{key}: "):
            check_keys({**TWO_SETS, key: 1}, {key: 1}, "")


# Accepted keys


def test_selection_of_the_file_is_dropped_for_two_given_sets():
    command_line = {key: TWO_SETS[key] for key in ("pretrained", "preferred", "dispreferred")}
    hyperparams = {"beta": 0.2, **dict.fromkeys(SELECTION_KEYS, 1), **TWO_SETS}
    assert check_keys(hyperparams, command_line, "") == {"beta": 0.2, **TWO_SETS}


def test_all_hyperparameters_of_prefine_are_keys():
    arguments = inspect.signature(PREFINE).parameters
    assert set(MODEL_KEYS) < set(arguments)
    assert {"learning_rate", "batch_size", "beta", "sft_coef", "log_std_min", "max_grad_norm"} <= set(MODEL_KEYS)
    assert not {"policy", "preferences", "env", "seed", "device", "verbose"} & set(MODEL_KEYS)
    accepted = {**GIVEN, **{key: arguments[key].default for key in MODEL_KEYS}, "env_kwargs": {}, "n_envs": None}
    assert check_keys(accepted, {}, "") == accepted


def test_two_files_are_read_as_the_two_sets(case):
    preferences = load_preferences({"preferred": str(case.preferred), "dispreferred": str(case.dispreferred)})
    for name in ("preferred", "dispreferred"):
        expected = Trajectories.from_hdf5(getattr(case, name))
        np.testing.assert_array_equal(getattr(preferences, name).actions, expected.actions)


def test_both_sets_are_selected_from_one_file_like_from_costs(case):
    keys = {"cost_limit": 20, "n_preferred": 2, "n_dispreferred": 1, "n_strata": 2, "dispreferred_pool": 3}
    for seed in (None, 5):
        data_seed = {} if seed is None else {"data_seed": seed}
        found = load_preferences({"dataset": str(case.dataset), **keys, **data_seed, "beta": 0.1})
        expected = PreferenceBuffer.from_costs(Trajectories.from_hdf5(case.dataset), **keys, seed=seed or 0)
        np.testing.assert_array_equal(found.preferred_ids, expected.preferred_ids)
        np.testing.assert_array_equal(found.dispreferred_ids, expected.dispreferred_ids)


def test_paths_may_begin_with_a_tilde(case, monkeypatch):
    monkeypatch.setenv("HOME", str(case.dataset.parent))
    assert (
        len(load_preferences({"preferred": "~/preferred.hdf5", "dispreferred": "~/dispreferred.hdf5"}).preferred) == 6
    )


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.hdf5: "):
        load_preferences({"dataset": str(tmp_path / "data.hdf5"), "cost_limit": 20})
