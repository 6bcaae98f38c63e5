"""The progress bar counts gradient steps, together with callbacks of every form."""

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_prefine import PREFINE
from sb3_prefine.training.progress_bar import add_progress_bar
from tests.worlds import make_model, preferences


class Counter(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("form", ["none", "function", "callback", "list", "callback list"])
def test_progress_bar_keeps_callbacks_of_every_form(form, capsys):
    counter = Counter()
    called = []
    callback = {
        "none": None,
        "function": lambda locals_, globals_: called.append(1) or True,
        "callback": counter,
        "list": [counter],
        "callback list": CallbackList([counter]),
    }[form]
    model = PREFINE(make_model(PPO), preferences(), device="cpu").learn(5, callback=callback, progress_bar=True)
    assert model.num_timesteps == 5
    assert "5/5" in capsys.readouterr().err
    assert len(called) == (5 if form == "function" else 0)
    assert counter.n_calls == (5 if form in ("callback", "list", "callback list") else 0)


def test_progress_bar_of_continued_training_counts_its_own_steps(capsys):
    model = PREFINE(make_model(PPO), preferences(), device="cpu").learn(5)
    model.learn(3, reset_num_timesteps=False, progress_bar=True)
    assert "3/3" in capsys.readouterr().err


def test_progress_bar_is_the_last_callback():
    assert [type(callback).__name__ for callback in add_progress_bar(Counter()).callbacks] == [
        "Counter",
        "ProgressBar",
    ]
