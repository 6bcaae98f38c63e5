"""SB3's callbacks, with an environment and without one."""

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.vec_env import VecNormalize

from sb3_prefine import PREFINE
from tests.sb3_contract.models import prefine_of, vec_env
from tests.worlds import STATES, RecordingLogger, make_model, preferences


class CallRecorder(BaseCallback):
    """Records its calls, and stops at a given one."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.events: list[str] = []
        self.seen: list[tuple[int, int]] = []

    def _on_training_start(self) -> None:
        self.events.append("start")

    def _on_step(self) -> bool:
        self.seen.append((self.num_timesteps, self.locals["self"].num_timesteps))
        return self.n_calls != self.stop_at

    def _on_training_end(self) -> None:
        self.events.append("end")


def evaluation(**kwargs: object) -> EvalCallback:
    return EvalCallback(vec_env(), **{"n_eval_episodes": 1, "verbose": 0, **kwargs})


def test_callback_sees_every_step_the_start_and_the_end():
    recorded = CallRecorder()
    model = prefine_of().learn(4, callback=recorded)
    assert recorded.events == ["start", "end"]
    assert recorded.seen == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert recorded.model is model
    assert recorded.n_calls == model.num_timesteps
    model.learn(2, callback=recorded, reset_num_timesteps=False)
    assert recorded.seen[4:] == [(5, 5), (6, 6)]
    assert {"total_timesteps", "tb_log_name", "log_interval", "self"} <= set(recorded.locals)


@pytest.mark.parametrize("form", ["function", "ConvertCallback", "list", "CallbackList", "nested"])
def test_every_form_of_callback_is_called_and_can_cancel(form):
    called = []

    def function(locals_: dict, globals_: dict) -> bool:
        called.append(locals_["self"].num_timesteps)
        return len(called) < 3

    recorded = CallRecorder()
    callback = {
        "function": function,
        "ConvertCallback": ConvertCallback(function),
        "list": [recorded, ConvertCallback(function)],
        "CallbackList": CallbackList([ConvertCallback(function), recorded]),
        "nested": [CallbackList([recorded]), EveryNTimesteps(1, ConvertCallback(function))],
    }[form]
    model = prefine_of().learn(10, callback=callback)
    assert called == [1, 2, 3]
    assert model.num_timesteps == model._n_updates == 3
    if form not in ("function", "ConvertCallback"):
        assert recorded.n_calls == 3
        assert recorded.events == ["start", "end"]


def test_cancelled_training_can_continue():
    model = prefine_of().learn(10, callback=CallRecorder(stop_at=4))
    model.learn(3, callback=CallRecorder(), reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (7, 7)


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_all_callbacks_together_with_an_environment(algorithm, tmp_path, capsys):
    stop_late = StopTrainingOnRewardThreshold(reward_threshold=1e9)
    stuck = StopTrainingOnNoModelImprovement(max_no_improvement_evals=100, min_evals=1)
    evaluations = evaluation(
        eval_freq=5,
        callback_on_new_best=stop_late,
        callback_after_eval=stuck,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "results"),
    )
    every, recorded = CallRecorder(), CallRecorder()
    model = prefine_of(algorithm, env=vec_env())
    model.learn(
        20,
        callback=[
            CheckpointCallback(save_freq=10, save_path=str(tmp_path / "checkpoints"), name_prefix="safe"),
            evaluations,
            EveryNTimesteps(7, every),
            LogEveryNTimesteps(6),
            ProgressBarCallback(),
            recorded,
        ],
    )
    assert recorded.n_calls == model.num_timesteps == 20
    assert every.n_calls == 2
    assert stuck.n_calls == 4
    assert "20/20" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "safe_10_steps.zip",
        "safe_20_steps.zip",
    ]
    with np.load(tmp_path / "results" / "evaluations.npz") as written:
        assert list(written["timesteps"]) == [5, 10, 15, 20]
        assert written["results"].shape == (4, 1)
    assert PREFINE.load(tmp_path / "best" / "best_model.zip", device="cpu").num_timesteps in (5, 10, 15, 20)


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("callback", [EvalCallback, StopTrainingOnMaxEpisodes, ProgressBarCallback])
def test_callbacks_that_need_an_environment_ask_for_it(callback):
    given = {
        EvalCallback: lambda: evaluation(eval_freq=1),
        StopTrainingOnMaxEpisodes: lambda: StopTrainingOnMaxEpisodes(max_episodes=1),
        ProgressBarCallback: ProgressBarCallback,
    }[callback]()
    model = prefine_of()
    with pytest.raises(AssertionError, match=r"you must initialize the model with an environment to use callbacks"):
        model.learn(2, callback=given)


def test_other_callbacks_work_without_an_environment(tmp_path):
    every, recorder = CallRecorder(), RecordingLogger()
    model = prefine_of()
    model.set_logger(recorder)
    model.learn(
        12,
        callback=[
            CheckpointCallback(save_freq=6, save_path=str(tmp_path)),
            EveryNTimesteps(4, every),
            LogEveryNTimesteps(5),
        ],
        log_interval=None,
    )
    assert every.n_calls == 3
    assert [row["time/total_timesteps"] for row in recorder.rows] == [5, 10]
    assert {path.name for path in tmp_path.iterdir()} == {"rl_model_6_steps.zip", "rl_model_12_steps.zip"}


def test_max_episodes_is_refused_because_training_plays_no_episodes():
    """The count of episodes would stay at 0 and never stop training."""
    with pytest.raises(AssertionError, match="`dones` variable is not defined"):
        prefine_of(env=vec_env()).learn(2, callback=StopTrainingOnMaxEpisodes(max_episodes=1))


def test_evaluation_in_a_normalised_environment_warns():
    """The model normalises observations itself, so that an environment must not normalise them."""
    callback = EvalCallback(VecNormalize(vec_env(), training=False), eval_freq=1, n_eval_episodes=1, verbose=0)
    with pytest.warns(UserWarning, match="Training and eval env are not of the same type"):
        prefine_of(env=vec_env()).learn(1, callback=callback)


def test_reward_threshold_stops_training():
    reached = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    model = prefine_of(env=vec_env()).learn(20, callback=evaluation(eval_freq=3, callback_on_new_best=reached))
    assert model.num_timesteps == 3


def test_no_improvement_stops_training():
    stuck = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=1)
    callback = evaluation(eval_freq=2, callback_after_eval=stuck)
    callback.best_mean_reward = 1e9
    model = prefine_of(env=vec_env()).learn(50, callback=callback)
    # The first evaluation is within min_evals; the next three do not improve on it.
    assert stuck.no_improvement_evals == 3
    assert model.num_timesteps == 4 * 2


def test_checkpoints_hold_the_model_of_their_timestep(tmp_path):
    actions = {}

    def remember(locals_: dict, _globals: dict) -> bool:
        model = locals_["self"]
        actions[model.num_timesteps] = model.predict(STATES, deterministic=True)[0]
        return True

    callbacks = [ConvertCallback(remember), CheckpointCallback(save_freq=2, save_path=str(tmp_path))]
    prefine_of(learning_rate=1e-2).learn(6, callback=callbacks)
    for step in (2, 4, 6):
        loaded = PREFINE.load(tmp_path / f"rl_model_{step}_steps.zip", device="cpu")
        assert loaded.num_timesteps == loaded._n_updates == step
        np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], actions[step])
    assert not np.array_equal(actions[2], actions[6])


@pytest.mark.parametrize("with_env", [False, True])
def test_checkpoints_need_no_replay_buffer_or_normaliser(with_env, tmp_path):
    """PREFINE has no replay buffer, and its normaliser is inside the zip."""
    env = VecNormalize(vec_env())
    source = make_model(PPO, env, n_steps=16, batch_size=16).learn(16)
    model = PREFINE(source, preferences(), env=vec_env() if with_env else None, seed=0, device="cpu")
    path = str(tmp_path)
    model.learn(4, callback=CheckpointCallback(2, path, save_replay_buffer=True, save_vecnormalize=True, verbose=2))
    assert {path.name for path in tmp_path.iterdir()} == {"rl_model_2_steps.zip", "rl_model_4_steps.zip"}
    loaded = PREFINE.load(tmp_path / "rl_model_4_steps.zip", device="cpu")
    np.testing.assert_array_equal(loaded.reference.normalizer.observations.mean, env.obs_rms.mean)
    expected = model.predict(STATES, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(STATES, deterministic=True)[0], expected)
