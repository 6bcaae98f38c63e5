"""The contents of ``hyperparams/prefine.yml``."""

import gymnasium
import pytest
import yaml
from stable_baselines3 import PPO

import sb3_prefine.zoo  # noqa: F401 (registers the environments)
from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.zoo.keys import MODEL_KEYS, SELECTION_KEYS, check_keys
from sb3_prefine.zoo.manager import HYPERPARAMS
from tests.envs.packages import BULLET, NAVIGATION, PAPER, VELOCITY
from tests.worlds import make_model, preferences

CONFIG = yaml.safe_load(HYPERPARAMS.read_text())
FILES = {"pretrained": "model.zip", "dataset": "data.hdf5"}


def test_file_has_the_tasks_of_the_paper_and_a_default():
    assert set(CONFIG) == {*PAPER, "default"}
    assert len(PAPER) == 12
    assert set(PAPER) <= set(gymnasium.registry)


@pytest.mark.parametrize("env_id", PAPER)
def test_all_keys_of_a_task_are_used(env_id):
    entry = CONFIG[env_id]
    assert check_keys({**entry, **FILES}, {}, "") == {**entry, **FILES}
    model_keys = {key: value for key, value in entry.items() if key in MODEL_KEYS}
    PREFINE(make_model(PPO), preferences(), **model_keys).learn(1)
    assert set(entry) - set(model_keys) - set(SELECTION_KEYS) == {"n_timesteps", "eval_cost_limit"}


@pytest.mark.parametrize(
    ("tasks", "beta", "sft_coef", "limits"),
    [(VELOCITY + NAVIGATION, 0.05, 1.6, (20, 40, 80)), (BULLET, 0.2, 1.0, (10, 20, 40))],
)
def test_values_are_those_of_the_paper(tasks, beta, sft_coef, limits):
    for env_id in tasks:
        entry = CONFIG[env_id]
        assert (entry["beta"], entry["sft_coef"]) == (beta, sft_coef)
        assert (entry["learning_rate"], entry["batch_size"]) == (3e-4, 256)
        assert (entry["n_preferred"], entry["n_dispreferred"]) == (100, 20)
        assert entry["cost_limit"] in (30, 40, 50)
        assert entry["eval_cost_limit"] in limits


def test_car_run_selects_the_costliest_episodes(case):
    assert [env_id for env_id in PAPER if "unsafe" in CONFIG[env_id]] == ["SafetyCarRun-v0"]
    # As in DSRL's CarRun, all episodes are below the limit.
    safe = Trajectories.from_hdf5(case.preferred)
    selection = {key: value for key, value in CONFIG["SafetyCarRun-v0"].items() if key in SELECTION_KEYS}
    selection |= {"n_preferred": 2, "n_dispreferred": 2}
    with pytest.warns(UserWarning, match="top_cost"):
        assert len(PreferenceBuffer.from_costs(safe, **selection).dispreferred) == 2


def test_default_needs_a_cost_limit_for_the_data():
    assert check_keys({**CONFIG["default"], **FILES, "cost_limit": 5}, {}, "")["eval_cost_limit"] == 25
    with pytest.raises(ValueError, match=r"^cost_limit: "):
        check_keys({**CONFIG["default"], **FILES}, {}, "")
