"""The constants of the tasks equal those of the dsrl package and of the environments."""

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
def dsrl_module(module: str) -> ModuleType:
    """Import one file of the dsrl package. The package does not import with a current gymnasium, but these files do."""
    package = importlib.util.find_spec("dsrl")
    assert package is not None, "these tests compare with DSRL's own code: sb3-prefine envs --install"
    assert package.origin is not None
    spec = importlib.util.spec_from_file_location(f"dsrl_{module}", Path(package.origin).with_name(f"{module}.py"))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, DSRL_DATASET_DIR=folder):
        # Importing offline_env creates the folder of the datasets.
        spec.loader.exec_module(loaded)
    return loaded


def test_the_38_tasks_equal_those_dsrl_module():
    infos = dsrl_module("infos")
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


def test_the_density_grids_equal_those_dsrl_module():
    by_id = {task.dsrl_id: task for task in TASKS.values()}
    expected = {
        (by_id[dsrl_id], float(density)): Grid(**grid)
        for (dsrl_id, density), grid in (
            (key.split("_density"), grid) for key, grid in dsrl_module("infos").DENSITY_CFG.items()
        )
    }
    assert len(expected) == 60
    assert {key: key[0].grid(key[1]) for key in expected} == expected
    for task in TASKS.values():
        for density in {0.25, 0.5, 0.75} - {density for other, density in expected if other == task}:
            with pytest.raises(ValueError, match=rf"^density: .*{task.name} .*{density}"):
                task.grid(density)


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.env_id], ids=lambda task: task.name)
def test_sizes_and_time_limit_equal_those_of_the_environment(task):
    env = gymnasium.make(task.env_id)
    try:
        assert env.observation_space.shape == (task.observation_size,)
        assert env.action_space.shape == (task.action_size,)
        assert env.spec.max_episode_steps == task.max_episode_steps
    finally:
        env.close()


def test_all_tasks_but_those_of_metadrive_have_an_environment():
    made = [task for task in TASKS.values() if task.env_id is not None]
    assert len(made) == 29
    assert {task.env_id for task in made} <= set(sb3_prefine.envs.env_ids())
    for task in TASKS.values():
        assert (task.suite == "metadrive") == (task.env_id is None) == (task.observation_size is None)


def test_the_papers_tasks_have_environments_and_hyperparameters():
    ids = tuple(TASKS[name].env_id for name in PAPER_TASKS)
    assert ids == PAPER
    path = Path(sb3_prefine.__file__).with_name("zoo") / "hyperparams" / "prefine.yml"
    text = path.read_text()
    assert set(ids) <= set(yaml.safe_load(text))
    for name in PAPER_TASKS:
        assert re.search(rf"^# {TASKS[name].file_name}.*\n{TASKS[name].env_id}:", text, re.MULTILINE)


def test_the_target_costs_of_each_suite():
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


def test_dsrl_registers_the_ids():
    folder = Path(dsrl_module("infos").__file__).parent
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
        ("HalfCheetahVelocty", r"^task: .*'HalfCheetahVelocty'.* HalfCheetahVelocity"),
        ("halfcheetahvelocity", r"^task: .* HalfCheetahVelocity"),
        ("SafetyPointGoal1", r"^task: .* PointGoal1"),
        ("OfflineBalRun-v0", r"^task: .* BallRun"),
        ("qqq", r"^task: .*'qqq'.*AntCircle, .*harddense\.$"),
        (7, r"^task: .*7.*AntCircle"),
    ],
)
def test_unknown_names_are_refused_with_similar_ones(name, message):
    with pytest.raises(ValueError, match=message):
        find_task(name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cbins": 0}, "^cbins: .*0"),
        ({"rbins": 2.5}, r"^rbins: .*2\.5"),
        ({"max_npb": 0}, "^max_npb: .*0"),
        ({"min_npb": -1}, "^min_npb: .*-1"),
    ],
)
def test_grids_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Grid(**wrong)


def test_tasks_are_frozen_and_can_be_pickled():
    with pytest.raises(TypeError):
        TASKS["BallRun"] = TASKS["CarRun"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        TASKS["BallRun"].max_episode_cost = 1.0  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(TASKS["BallRun"])) == TASKS["BallRun"]
    assert len(set(TASKS.values())) == 38
