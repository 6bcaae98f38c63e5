"""The catalogue against the dsrl package's own tables, and against the environments themselves."""

import functools
import importlib.util
import os
import pickle
import re
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import gymnasium
import pytest
import yaml

import sb3_prefine.envs
from sb3_prefine.dsrl import PAPER_TASKS, TASKS, Grid, find_task
from tests.envs.packages import PAPER


@functools.cache
def of_dsrl(module: str) -> ModuleType:
    """One file of the dsrl package. The package does not import beside a current gymnasium; these files of it do."""
    package = importlib.util.find_spec("dsrl")
    assert package is not None, "these tests compare with DSRL's own code: sb3-prefine envs --install"
    assert package.origin is not None
    spec = importlib.util.spec_from_file_location(f"dsrl_{module}", Path(package.origin).with_name(f"{module}.py"))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, DSRL_DATASET_DIR=folder):
        # offline_env makes the folder of the datasets when it is imported.
        spec.loader.exec_module(loaded)
    return loaded


def test_the_38_tasks_are_those_of_dsrl():
    infos = of_dsrl("infos")
    assert len(TASKS) == 38
    assert list(TASKS) == list(infos.DATASET_URLS)
    for name, task in TASKS.items():
        assert task.name == name
        assert task.file_name == infos.DATASET_URLS[name].rpartition("/")[2]
        assert task.max_episode_steps == infos.DEFAULT_MAX_EPISODE_STEPS[name]
        assert task.min_episode_reward == infos.MIN_EPISODE_REWARD[name]
        assert task.max_episode_reward == infos.MAX_EPISODE_REWARD[name]
        assert task.min_episode_cost == infos.MIN_EPISODE_COST[name]
        assert task.max_episode_cost == infos.MAX_EPISODE_COST[name]


def test_the_density_grids_are_those_of_dsrl():
    by_id = {task.dsrl_id: task for task in TASKS.values()}
    expected = {
        (by_id[dsrl_id], float(density)): Grid(**grid)
        for (dsrl_id, density), grid in (
            (key.split("_density"), grid) for key, grid in of_dsrl("infos").DENSITY_CFG.items()
        )
    }
    assert len(expected) == 60
    assert {key: key[0].grid(key[1]) for key in expected} == expected
    for task in TASKS.values():
        for density in {0.25, 0.5, 0.75} - {density for other, density in expected if other == task}:
            with pytest.raises(ValueError, match=rf"density={density}: DSRL has grids of {task.name} for "):
                task.grid(density)


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.env_id], ids=lambda task: task.name)
def test_sizes_and_horizon_are_those_of_the_environment(task):
    env = gymnasium.make(task.env_id)
    try:
        assert env.observation_space.shape == (task.observation_size,)
        assert env.action_space.shape == (task.action_size,)
        assert env.spec.max_episode_steps == task.max_episode_steps
    finally:
        env.close()


def test_29_of_the_38_have_an_environment_here_and_the_rest_is_metadrive():
    made = [task for task in TASKS.values() if task.env_id is not None]
    assert len(made) == 29
    assert {task.env_id for task in made} <= set(sb3_prefine.envs.env_ids())
    for task in TASKS.values():
        assert (task.suite == "metadrive") == (task.env_id is None) == (task.observation_size is None)


def test_the_twelve_of_the_paper_are_those_of_the_environments_and_of_the_hyperparameters():
    ids = tuple(TASKS[name].env_id for name in PAPER_TASKS)
    assert ids == PAPER
    path = Path(sb3_prefine.__file__).with_name("zoo") / "hyperparams" / "prefine.yml"
    text = path.read_text()
    assert set(ids) <= set(yaml.safe_load(text))
    for name in PAPER_TASKS:
        assert re.search(rf"^# {TASKS[name].file_name}.*\n{TASKS[name].env_id}:", text, re.MULTILINE)


def test_the_limits_of_the_evaluation():
    limits = {task.suite: task.target_costs for task in TASKS.values()}
    assert limits == {
        "bullet-safety-gym": (10, 20, 40),
        "safety-gymnasium": (20, 40, 80),
        "metadrive": (10, 20, 40),
    }


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_found_by_all_its_names(task):
    names = {task.name, task.dsrl_id, task.file_name, task.env_id} - {None}
    assert len(names) == 3 + (task.env_id is not None)
    for name in names:
        assert find_task(name) is task
    assert find_task(task) is task


def test_dsrls_ids_are_those_that_it_registers():
    folder = Path(of_dsrl("infos").__file__).parent
    modules = {
        "bullet-safety-gym": "offline_bullet_safety_gym",
        "safety-gymnasium": "offline_safety_gymnasium",
        "metadrive": "offline_metadrive",
    }
    for task in TASKS.values():
        source = (folder / modules[task.suite] / "__init__.py").read_text()
        assert f"id=f'{task.dsrl_id.replace(task.name, '{env_name}')}'" in source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheetahVelocty", r"^task: DSRL has no 'HalfCheetahVelocty'\. Did you mean HalfCheetahVelocity"),
        ("halfcheetahvelocity", r"Did you mean HalfCheetahVelocity"),
        ("SafetyPointGoal1", r"Did you mean PointGoal1"),
        ("OfflineBalRun-v0", r"Did you mean BallRun"),
        ("qqq", r"Its tasks are AntCircle, .*harddense\.$"),
        (7, r"DSRL has no 7\. Its tasks are"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_close_to_it(name, message):
    with pytest.raises(ValueError, match=message):
        find_task(name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cbins": 0}, "cbins=0: give a whole number of at least 1"),
        ({"rbins": 2.5}, "rbins=2.5"),
        ({"max_npb": 0}, "max_npb=0"),
        ({"min_npb": -1}, "min_npb=-1: give a whole number of at least 0"),
    ],
)
def test_a_grid_out_of_range_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Grid(**wrong)


def test_tasks_cannot_be_changed_and_go_to_other_processes():
    with pytest.raises(TypeError):
        TASKS["BallRun"] = TASKS["CarRun"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        TASKS["BallRun"].max_episode_cost = 1.0  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(TASKS["BallRun"])) == TASKS["BallRun"]
    assert len(set(TASKS.values())) == 38
