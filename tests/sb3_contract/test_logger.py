"""Loggers: every format, a custom logger, and the logged speed."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_prefine import PREFINE
from tests.sb3_contract.models import prefine_of
from tests.worlds import RecordingLogger, preferences

KEYS = {
    "train/loss",
    "train/preference_loss",
    "train/sft_loss",
    "train/grad_norm",
    "train/learning_rate",
    "train/n_updates",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "time/fps",
    "time/time_elapsed",
    "time/total_timesteps",
}


def test_every_format_is_written(tmp_path, capsys):
    model = prefine_of()
    model.set_logger(configure(str(tmp_path), ["stdout", "log", "csv", "json", "tensorboard"]))
    model.learn(4, log_interval=2)

    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= KEYS
    assert [int(row["time/total_timesteps"]) for row in rows] == [2, 4]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())

    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [line["time/total_timesteps"] for line in lines] == [2, 4]
    assert [line["train/loss"] for line in lines] == pytest.approx([float(row["train/loss"]) for row in rows])

    text = (tmp_path / "log.txt").read_text()
    printed = capsys.readouterr().out
    for key in ("sft_loss", "accuracies", "total_timesteps"):
        assert text.count(key) == 2
        assert key in printed

    events = EventAccumulator(str(tmp_path)).Reload()
    # TensorBoard has no counters, which are on its x-axis anyway, as in SB3.
    hidden = {"train/n_updates", "time/time_elapsed", "time/total_timesteps"}
    assert set(events.Tags()["scalars"]) >= KEYS - hidden
    assert not set(events.Tags()["scalars"]) & hidden
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]


def test_custom_logger_has_priority_over_tensorboard_log(tmp_path):
    recorder = RecordingLogger()
    model = prefine_of(tensorboard_log=str(tmp_path), verbose=1)
    model.set_logger(recorder)
    model.learn(2, log_interval=1).learn(2, log_interval=1, reset_num_timesteps=False)
    assert model.logger is recorder
    assert [row["time/total_timesteps"] for row in recorder.rows] == [1, 2, 3, 4]
    assert all(set(row) >= KEYS for row in recorder.rows)
    assert list(tmp_path.iterdir()) == []


def test_logger_is_not_saved(tmp_path):
    model = prefine_of()
    model.set_logger(RecordingLogger())
    model.learn(1).save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    loaded.learn(1, log_interval=1)
    assert not isinstance(loaded.logger, RecordingLogger)


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_decides_what_is_printed(verbose, capsys):
    prefine_of(verbose=verbose).learn(2, log_interval=1)
    assert ("total_timesteps" in capsys.readouterr().out) == bool(verbose)


def test_log_interval_none_logs_nothing():
    recorder = RecordingLogger()
    model = prefine_of()
    model.set_logger(recorder)
    model.learn(3, log_interval=None)
    assert recorder.rows == []


def test_records_of_a_callback_are_logged():
    recorder = RecordingLogger()
    model = prefine_of()
    model.set_logger(recorder)

    def record(locals_: dict, _globals: dict) -> bool:
        locals_["self"].logger.record("mine/step", locals_["self"].num_timesteps)
        return True

    model.learn(2, callback=record, log_interval=1)
    assert [row["mine/step"] for row in recorder.rows] == [1, 2]


def test_clock_that_stands_still_gives_finite_logs(monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    recorder = RecordingLogger()
    model = prefine_of()
    model.set_logger(recorder)
    model.learn(2, log_interval=1)
    assert all(np.isfinite(row["time/fps"]) and row["time/time_elapsed"] == 0 for row in recorder.rows)


def test_logged_speed_is_that_of_this_call(monkeypatch):
    """A pause between two calls and the steps of the other call do not count."""
    clock = [0]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    recorder = RecordingLogger()
    model = prefine_of()
    model.set_logger(recorder)

    def a_tenth_of_a_second(_locals: dict, _globals: dict) -> bool:
        clock[0] += 100_000_000
        return True

    model.learn(20, callback=a_tenth_of_a_second, log_interval=20)
    clock[0] += 3_600 * 10**9
    model.learn(20, callback=a_tenth_of_a_second, log_interval=20, reset_num_timesteps=False)
    assert [row["time/fps"] for row in recorder.rows] == [10, 10]
    assert [row["time/time_elapsed"] for row in recorder.rows] == [2, 2]


def test_logs_can_be_dumped_before_any_step():
    model = prefine_of().learn(0)
    model.dump_logs()


def test_window_of_episode_statistics_is_saved(tmp_path):
    model = prefine_of(stats_window_size=42).learn(1)
    assert model.ep_info_buffer.maxlen == model.ep_success_buffer.maxlen == 42
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu", preferences=preferences())
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.ep_info_buffer.maxlen == loaded.ep_success_buffer.maxlen == 42


def test_folder_of_a_logger_is_created(tmp_path):
    folder = Path(tmp_path / "a" / "b")
    model = prefine_of()
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(1, log_interval=1)
    assert (folder / "progress.csv").stat().st_size > 0
