"""Populations as a user trains them: each run stops, logs, saves and continues like a separate run."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.utils import LinearSchedule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.population.population import Population
from tests.population.test_batched_update import assert_same_rows, networks_batched
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    RecordingLogger,
    assert_same_weights,
    make_model,
    preferences,
    trajectories,
    weights,
)

SOURCE = load_reference(make_model(PPO))
DATA = preferences()


def model(seed: int = 0, **kwargs: Any) -> PREFINE:
    return PREFINE(SOURCE, **{"preferences": DATA, "batch_size": 16, "seed": seed, "device": "cpu", **kwargs})


def models(n: int = 3, **kwargs: Any) -> list[PREFINE]:
    return [model(seed, beta=0.1 * (seed + 1), **kwargs) for seed in range(n)]


def assert_equal_runs(one: PREFINE, other: PREFINE) -> None:
    assert one.num_timesteps == other.num_timesteps
    for name, tensor in one.policy.state_dict().items():
        torch.testing.assert_close(tensor, other.policy.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert torch.equal(one.generator.get_state(), other.generator.get_state())


class Stop(BaseCallback):
    """Ends its run after a number of updates."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.ended = 0

    def _on_step(self) -> bool:
        return self.n_calls < self.after

    def _on_training_end(self) -> None:
        self.ended += 1


def test_population_is_a_sequence_of_the_models_themselves():
    given = models()
    population = Population(iter(given))
    assert len(population) == 3
    assert list(population) == given
    assert population[-1] is given[2]
    assert population[1:] == given[1:]
    assert population.learn(2) is population
    assert [m.num_timesteps for m in given] == [2, 2, 2]


def test_separate_and_joint_training_can_alternate():
    together, alone = models(), models()
    for run in together:
        run.learn(7)
    Population(together).learn(5, reset_num_timesteps=False)
    for run, twin in zip(together, alone, strict=True):
        run.learn(6, reset_num_timesteps=False)
        for n in (7, 5, 6):
            twin.learn(n, reset_num_timesteps=False)
        assert run.num_timesteps == 18
        assert_equal_runs(run, twin)


def test_runs_log_and_anneal_by_their_own_counts():
    def prepared() -> list[PREFINE]:
        made = models(learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
        for run, n in zip(made, (0, 3, 8), strict=True):
            run.learn(n)
            run.set_logger(RecordingLogger())
        return made

    together, alone = prepared(), prepared()
    Population(together).learn(12, log_interval=5, reset_num_timesteps=False)
    for run, twin in zip(together, alone, strict=True):
        twin.learn(12, log_interval=5, reset_num_timesteps=False)
        assert_equal_runs(run, twin)
        assert_same_rows(run.logger.rows, twin.logger.rows)
    assert [row["time/total_timesteps"] for row in together[1].logger.rows] == [5, 10, 15]


def test_callback_ends_only_its_own_run_which_can_continue():
    together, alone = models(4), models(4)
    stops = [None, Stop(5), Stop(20), [Stop(20), Stop(8)]]
    Population(together).learn(20, callback=stops, log_interval=3)
    assert [run.num_timesteps for run in together] == [20, 5, 20, 8]
    assert (stops[1].ended, stops[2].ended, stops[3][0].ended) == (1, 1, 1)
    for run, twin, n in zip(together, alone, (20, 5, 20, 8), strict=True):
        twin.learn(20, callback=Stop(n), log_interval=3)
        assert_equal_runs(run, twin)
        for one in (run, twin):
            one.learn(3, reset_num_timesteps=False)
        assert_equal_runs(run, twin)


def test_callbacks_may_end_all_runs():
    population = Population(models(2)).learn(20, callback=[Stop(3), Stop(3)])
    assert [run.num_timesteps for run in population] == [3, 3]


def test_function_is_called_for_every_run_and_finds_its_model():
    calls: list[tuple[PREFINE, int]] = []

    def note(locals_: dict, _globals: dict) -> bool:
        calls.append((locals_["self"], locals_["self"].num_timesteps))
        return locals_["self"].num_timesteps < locals_["total_timesteps"]

    population = Population(models(2)).learn(3, callback=note)
    assert calls == [(population[i], n) for n in (1, 2, 3) for i in (0, 1)]


def test_other_than_one_callback_for_each_run_is_refused():
    population = Population(models(2))
    with pytest.raises(TypeError, match=r"^callback: .*Stop.* 2"):
        population.learn(1, callback=Stop(1))
    with pytest.raises(ValueError, match=r"^callback: .*3.*2 runs"):
        population.learn(1, callback=[None, None, None])
    twice = Stop(1)
    with pytest.raises(ValueError, match=r"^callback: .*same object"):
        population.learn(1, callback=[twice, [Stop(1), twice]])
    assert [run.num_timesteps for run in population] == [0, 0]


def test_non_finite_run_stops_alone_with_its_last_finite_weights():
    together, alone = models(), models()
    after: list[dict[str, torch.Tensor]] = []

    def poison(locals_: dict, _globals: dict) -> bool:
        run = locals_["self"]
        if run is together[1] or run is alone[1]:
            run.beta = math.nan if run.num_timesteps == 3 else 0.2
        if run is together[1]:
            after.append(weights(run.policy))
        return True

    with pytest.raises(FloatingPointError, match=r"^1 of 3 runs .*\nmodels\[1\]: .*update 4 of this call"):
        Population(together).learn(110, callback=poison)
    assert_same_weights(after[2], weights(together[1].policy))
    assert any(not torch.equal(tensor, after[2][name]) for name, tensor in after[1].items())
    with pytest.raises(FloatingPointError, match="in update 4 of this call"):
        alone[1].learn(110, callback=poison)
    for i in (0, 2):
        alone[i].learn(110, callback=poison)
    assert [run.num_timesteps for run in together] == [110, 100, 110]
    for run, twin in zip(together, alone, strict=True):
        assert_equal_runs(run, twin)


def test_short_non_finite_runs_are_named_in_the_error():
    bad = [model(0), model(1, learning_rate=1e25), model(2, learning_rate=1e25)]
    with pytest.raises(FloatingPointError, match=r"2 of 3 runs .*\n.*models\[1\].*\n.*models\[2\]") as error:
        Population(bad).learn(30, callback=[None, Stop(29), None])
    assert "models[0]" not in str(error.value)
    assert all(torch.isfinite(tensor).all() for run in bad for tensor in run.policy.state_dict().values())


def test_models_stay_usable_after_an_error_in_a_callback():
    def fail(locals_: dict, _globals: dict) -> bool:
        if locals_["self"].num_timesteps == 2:
            raise KeyError("mine")
        return True

    population = Population(models(2))
    with pytest.raises(KeyError, match="mine"):
        population.learn(5, callback=fail)
    assert population.learn(2)[0].num_timesteps == 2
    assert population[1].learn(2).num_timesteps == 2


def test_models_are_saved_exported_and_loaded_like_separate_runs(tmp_path):
    together, alone = Population(models()).learn(6), models()
    for i, (run, twin) in enumerate(zip(together, alone, strict=True)):
        twin.learn(6).save(tmp_path / f"alone{i}")
        run.save(tmp_path / f"run{i}")
        sizes = [(tmp_path / f"{name}{i}.zip").stat().st_size for name in ("run", "alone")]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
        loaded = PREFINE.load(tmp_path / f"run{i}", device="cpu", preferences=DATA)
        assert_same_weights(weights(loaded.policy), weights(run.policy))
        assert int(loaded.optimizer.state_dict()["state"][0]["step"]) == 6
        exported = PPO.load(run.export(tmp_path / f"ppo{i}"), device="cpu")
        expected = run.predict(STATES, deterministic=True)[0]
        np.testing.assert_array_equal(exported.predict(STATES, deterministic=True)[0], expected)
    again = Population([PREFINE.load(tmp_path / f"run{i}", device="cpu", preferences=DATA) for i in range(3)])
    again.learn(4, reset_num_timesteps=False)
    assert [run.num_timesteps for run in again] == [10, 10, 10]


def test_checkpoints_of_a_run_hold_its_own_weights(tmp_path):
    callbacks = [CheckpointCallback(save_freq=2, save_path=str(tmp_path / str(i))) for i in range(2)]
    with networks_batched(True):
        population = Population(models(2)).learn(4, callback=callbacks)
    for i, run in enumerate(population):
        saved = PREFINE.load(tmp_path / str(i) / "rl_model_4_steps.zip", device="cpu")
        assert_same_weights(weights(saved.policy), weights(run.policy))
        assert not torch.equal(weights(saved.policy)["log_std"], weights(saved.reference.policy)["log_std"])


@pytest.mark.parametrize("batched", [False, True])
def test_reference_stays_unchanged_and_no_gradient_is_left(batched):
    before = weights(SOURCE.policy)
    with networks_batched(batched):
        population = Population(models(2)).learn(5)
    assert_same_weights(weights(SOURCE.policy), before)
    for run in population:
        assert_same_weights(weights(run.reference.policy), before)
        assert all(parameter.grad is None for parameter in run.policy.parameters())


def memory(run: PREFINE) -> list[int]:
    tables = run.current_tables()
    return [tensor.untyped_storage().data_ptr() for tensor in (tables.observations, tables.actions, tables.params_ref)]


def test_runs_with_the_same_data_and_reference_share_tables(tmp_path):
    SOURCE.export(SOURCE.policy, tmp_path / "ppo.zip")
    opened = [PREFINE(tmp_path / "ppo.zip", DATA, batch_size=16, seed=seed, device="cpu") for seed in (4, 5)]
    population = Population([*models(2), *opened])
    population[0].learn(1)
    population.learn(1)
    assert len({id(run.current_tables()) for run in population}) == 1


def test_tables_of_different_data_share_one_memory():
    other = PreferenceBuffer(trajectories(GOOD, n_episodes=2, seed=3), trajectories(BAD, n_episodes=5, seed=4))
    data = [DATA, other, DATA]
    together = [model(seed, preferences=own) for seed, own in enumerate(data)]
    alone = [model(seed, preferences=own) for seed, own in enumerate(data)]
    population = Population(together).learn(3)
    first = memory(together[0])
    assert memory(together[1]) == memory(together[2]) == first
    assert together[0].current_tables() is together[2].current_tables()
    population.learn(3, reset_num_timesteps=False)
    assert memory(together[1]) == first, "nothing has changed, so nothing is copied"
    for run, twin in zip(together, alone, strict=True):
        twin.learn(3).learn(3, reset_num_timesteps=False)
        for one in (run, twin):
            one.learn(4, reset_num_timesteps=False)
        assert_equal_runs(run, twin)


def test_next_call_learns_from_new_preferences():
    together, alone = models(2), models(2)
    other = PreferenceBuffer(preferred=trajectories(BAD), dispreferred=trajectories(GOOD))
    population = Population(together).learn(2)
    together[1].preferences = other
    population.learn(3)
    for run, twin, data in zip(together, alone, (DATA, other), strict=True):
        twin.learn(2).preferences = data
        assert_equal_runs(run, twin.learn(3))


def test_model_without_preferences_is_refused_before_any_step():
    population = Population([model(), model(preferences=None)])
    with pytest.raises(ValueError, match=r"^models\[1\]\.preferences: None"):
        population.learn(3)
    assert population[0].num_timesteps == 0


def test_data_that_are_streamed_from_disk_are_refused(tmp_path):
    sets = []
    for name, episodes in (("preferred", DATA.preferred), ("dispreferred", DATA.dispreferred)):
        episodes.to_hdf5(tmp_path / f"{name}.hdf5")
        sets.append(Trajectories.from_hdf5(tmp_path / f"{name}.hdf5", mmap=True))
    on_disk = PreferenceBuffer(*sets)
    runs = [model(), model(1, preferences=on_disk, buffer_size=4)]
    before = [weights(run.policy) for run in runs]
    with pytest.raises(ValueError, match=r"^models\[1\]\.preferences: .*disk.* buffer_size=4"):
        Population(runs).learn(1)
    for run, kept in zip(runs, before, strict=True):
        assert_same_weights(weights(run.policy), kept)
    # If they fit into memory, they are held like other data.
    runs = [model(), model(1, preferences=on_disk)]
    assert Population(runs).learn(1)[1].num_timesteps == 1


def test_every_run_has_its_own_tensorboard_log(tmp_path):
    population = Population(models(2, tensorboard_log=str(tmp_path)))
    population.learn(2, log_interval=1)
    population.learn(2, log_interval=1, reset_num_timesteps=False)
    population.learn(1, log_interval=1, tb_log_name="mine")
    assert {path.name for path in tmp_path.iterdir()} == {"PREFINE_0_1", "PREFINE_1_1", "mine_0_1", "mine_1_1"}
    for i, run in enumerate(population):
        events = EventAccumulator(str(tmp_path / f"PREFINE_{i}_1")).Reload()
        assert [event.step for event in events.Scalars("rewards/margins")] == [1, 2, 3, 4]
        assert run.logger.dir.endswith(f"mine_{i}_1")


def test_one_progress_bar_counts_the_updates(capsys):
    Population(models(2)).learn(7, progress_bar=True)
    shown = capsys.readouterr().err
    assert "7/7" in shown
    Population(models(2)).learn(2)
    assert capsys.readouterr().err == ""


def test_no_timesteps_train_nothing():
    stop = Stop(1)
    population = Population(models(2)).learn(0, callback=[stop, None])
    assert stop.ended == 1
    assert_same_weights(weights(population[0].policy), weights(SOURCE.policy))
