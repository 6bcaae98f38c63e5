"""TensorBoard: the run that a call of learn writes to."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_prefine import PREFINE
from tests.sb3_contract.models import prefine_of
from tests.worlds import preferences


def steps_of(run: Path) -> list[int]:
    # Two files of the same second may come in any order.
    return sorted(event.step for event in EventAccumulator(str(run)).Reload().Scalars("train/loss"))


def runs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_continued_training_writes_to_the_same_folder(tmp_path):
    model = prefine_of(tensorboard_log=str(tmp_path))
    model.learn(2, log_interval=1)
    model.learn(2, log_interval=1, reset_num_timesteps=False)
    assert runs_in(tmp_path) == ["PREFINE_1"]
    assert steps_of(tmp_path / "PREFINE_1") == [1, 2, 3, 4]
    model.learn(1, log_interval=1)
    assert runs_in(tmp_path) == ["PREFINE_1", "PREFINE_2"]
    assert steps_of(tmp_path / "PREFINE_2") == [1]
    model.learn(1, log_interval=1, reset_num_timesteps=False)
    assert steps_of(tmp_path / "PREFINE_2") == [1, 2]


@pytest.mark.parametrize("name", ["mine", "mine_1"])
def test_runs_have_the_given_name_and_a_number(tmp_path, name):
    model = prefine_of(tensorboard_log=str(tmp_path))
    model.learn(1, log_interval=1, tb_log_name=name)
    model.learn(1, log_interval=1, tb_log_name=name)
    model.learn(1, log_interval=1, tb_log_name="other")
    assert runs_in(tmp_path) == sorted([f"{name}_1", f"{name}_2", "other_1"])


def test_loaded_model_writes_to_the_same_folder(tmp_path):
    prefine_of(tensorboard_log=str(tmp_path / "logs")).learn(2, log_interval=1).save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    loaded.learn(2, log_interval=1, reset_num_timesteps=False)
    assert runs_in(tmp_path / "logs") == ["PREFINE_1"]
    assert steps_of(tmp_path / "logs" / "PREFINE_1") == [1, 2, 3, 4]
    elsewhere = PREFINE.load(
        tmp_path / "model", device="cpu", preferences=preferences(), tensorboard_log=str(tmp_path / "other")
    )
    elsewhere.learn(1, log_interval=1)
    assert runs_in(tmp_path / "other") == ["PREFINE_1"]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prefine_of().learn(2, log_interval=1)
    assert list(tmp_path.iterdir()) == []
