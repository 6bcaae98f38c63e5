import inspect
import re

import numpy as np
import pytest

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.zoo.keys import MODEL_KEYS, SELECTION_KEYS, check_keys, load_preferences

GIVEN = {"pretrained": "model.zip", "dataset": "data.hdf5", "cost_limit": 40, "n_timesteps": 100}
TWO_SETS = {"pretrained": "model.zip", "preferred": "good.hdf5", "dispreferred": "bad.hdf5", "n_timesteps": 100}


# What is refused


@pytest.mark.parametrize(
    ("hyperparams", "message"),
    [
        ({**GIVEN, "policy": "MlpPolicy"}, "policy: name the policy to start from as pretrained, as in -params"),
        ({**GIVEN, "normalize": True}, "normalize: True was given. The policy's own frozen normaliser"),
        ({**GIVEN, "normalize": "{'norm_obs': True}"}, "normalize: "),
        ({**GIVEN, "frame_stack": 4}, "frame_stack: 4 was given."),
        ({**GIVEN, "vec_env_wrapper": "a.B"}, "vec_env_wrapper: 'a.B' was given."),
        ({**GIVEN, "n_envs": 8}, "n_envs: 8 was given. PREFINE trains without environments"),
        ({**GIVEN, "gamma": 0.99, "bata": 1}, "bata, gamma: no such hyperparameter. There are batch_size, beta,"),
        ({**GIVEN, "pretrained": ""}, "pretrained: there is no policy to start from. Pass"),
        (
            {key: GIVEN[key] for key in ("dataset", "cost_limit", "n_timesteps")},
            "pretrained: there is no policy to start from. Pass",
        ),
        (
            {key: GIVEN[key] for key in ("pretrained", "cost_limit", "n_timesteps")},
            "dataset, preferred, dispreferred: found none of them. Pass either one file",
        ),
        (
            {key: GIVEN[key] for key in ("pretrained", "dataset", "n_timesteps")},
            "cost_limit: the dataset's episodes are divided by it",
        ),
        ({**GIVEN, "preferred": "good.hdf5"}, "dispreferred: found dataset and preferred. Pass either"),
        ({**GIVEN, **TWO_SETS}, "dispreferred: found dataset and preferred and dispreferred. Pass either"),
        ({**TWO_SETS, "dispreferred": None}, "dispreferred: found preferred alone. Pass either"),
        ({**TWO_SETS, "preferred": ""}, "dispreferred: found dispreferred alone. Pass either"),
    ],
)
def test_keys_that_are_missing_unknown_or_contradict_each_other(hyperparams, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_keys(hyperparams, {}, "")


def test_a_pretrained_policy_beside_a_trained_agent():
    with pytest.raises(ValueError, match=r"pretrained: 'model.zip' was given, and -i run.zip. Leave one of them out"):
        check_keys(GIVEN, {}, "run.zip")
    without = {key: value for key, value in GIVEN.items() if key != "pretrained"}
    assert check_keys(without, {}, "run.zip") == without


def test_a_selection_for_two_sets_that_are_chosen_already():
    for key in SELECTION_KEYS:
        with pytest.raises(ValueError, match=f"{key}: this chooses episodes from a dataset"):
            check_keys({**TWO_SETS, key: 1}, {key: 1}, "")


# What is taken


def test_the_file_s_selection_goes_where_the_command_line_gives_two_sets():
    command_line = {key: TWO_SETS[key] for key in ("pretrained", "preferred", "dispreferred")}
    hyperparams = {"beta": 0.2, **dict.fromkeys(SELECTION_KEYS, 1), **TWO_SETS}
    assert check_keys(hyperparams, command_line, "") == {"beta": 0.2, **TWO_SETS}


def test_every_hyperparameter_of_prefine_is_a_key():
    arguments = inspect.signature(PREFINE).parameters
    assert set(MODEL_KEYS) < set(arguments)
    assert {"learning_rate", "batch_size", "beta", "sft_coef", "log_std_min", "max_grad_norm"} <= set(MODEL_KEYS)
    assert not {"policy", "preferences", "env", "seed", "device", "verbose"} & set(MODEL_KEYS)
    accepted = {**GIVEN, **{key: arguments[key].default for key in MODEL_KEYS}, "env_kwargs": {}, "n_envs": None}
    assert check_keys(accepted, {}, "") == accepted


def test_two_files_are_the_two_sets(case):
    preferences = load_preferences({"preferred": str(case.preferred), "dispreferred": str(case.dispreferred)})
    for name in ("preferred", "dispreferred"):
        expected = Trajectories.from_hdf5(getattr(case, name))
        np.testing.assert_array_equal(getattr(preferences, name).actions, expected.actions)


def test_one_file_is_chosen_from_as_from_costs_does(case):
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


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.hdf5: there is no such file"):
        load_preferences({"dataset": str(tmp_path / "data.hdf5"), "cost_limit": 20})
