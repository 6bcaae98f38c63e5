"""What every algorithm logs: names, means over an interval, TensorBoard's files."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.algorithms.cases import DISCRIMINATOR_STEPS, Case, each_algorithm, every_case
from tests.worlds import RecordingLogger

N = 2 * DISCRIMINATOR_STEPS
ALWAYS = {"train/grad_norm", "train/learning_rate", "train/n_updates"}
ALWAYS |= {"time/fps", "time/time_elapsed", "time/total_timesteps"}


def logged(case: Case, log_interval: int) -> list[dict]:
    recorder, model = RecordingLogger(), case.make()
    model.set_logger(recorder)
    model.learn(N, log_interval=log_interval)
    return recorder.rows


@every_case
def test_metrics_are_means_over_the_interval(case):
    rows, every_step = logged(case, N // 2), logged(case, 1)
    assert [row["time/total_timesteps"] for row in rows] == [N // 2, N]
    assert rows[1].keys() == case.metrics | ALWAYS
    assert (rows[1]["train/learning_rate"], rows[1]["train/n_updates"]) == (1e-2, N)
    for name in (*case.metrics, "train/grad_norm"):
        mean = np.mean([row[name] for row in every_step[N // 2 :]])
        assert rows[1][name] == pytest.approx(mean, rel=1e-3, abs=1e-5)


@each_algorithm
def test_an_interval_of_none_logs_nothing(case):
    recorder, model = RecordingLogger(), case.make()
    model.set_logger(recorder)
    model.learn(N, log_interval=None)
    assert recorder.rows == []


@each_algorithm
def test_tensorboard_runs_are_numbered(case, tmp_path):
    model = case.make(tensorboard_log=str(tmp_path))
    for _ in range(2):
        model.learn(2, log_interval=1)
    name = case.algorithm.__name__
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}_1", f"{name}_2"}
    events = EventAccumulator(str(tmp_path / f"{name}_1")).Reload()
    assert [event.step for event in events.Scalars("train/grad_norm")] == [1, 2]
