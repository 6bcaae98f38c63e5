"""Early stopping on held-out preferences, and the score that it uses."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from sb3_prefine import PREFINE, PreferenceBuffer
from sb3_prefine.callbacks import EarlyStopping
from sb3_prefine.objective import prefine_loss
from tests.worlds import BAD, GOOD, RecordingLogger, assert_same_weights, make_model, preferences, trajectories, weights

OPTIONS = {"batch_size": 32, "device": "cpu"}


def test_score_is_the_loss_on_the_given_preferences():
    model = PREFINE(make_model(SAC), preferences(), beta=0.7, sft_coef=0.3, seed=0, **OPTIONS).learn(20)
    found = model.score(held_out(), n_transitions=50, seed=3)

    tables = model.build_tables(held_out())
    generator = torch.Generator().manual_seed(3)
    batch = next(tables.batches(50, generator))
    with torch.no_grad():
        params = model.likelihood.params(model.policy, batch.inputs)
        samples = model.likelihood.sample(params, generator)
        scores = [
            model.likelihood.log_prob(rows, actions)
            for actions in (batch.actions, samples)
            for rows in (params, batch.params_ref)
        ]
    loss, metrics = prefine_loss(*scores, torch.arange(100) < 50, beta=0.7, sft_coef=0.3)
    assert found["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found == pytest.approx({name: value.item() for name, value in metrics.items()}, rel=1e-4, abs=1e-5)


def test_score_is_repeatable_and_does_not_change_training():
    model, other = (PREFINE(make_model(PPO), preferences(), seed=0, **OPTIONS) for _ in range(2))
    assert model.score(held_out()) == model.score(held_out())
    assert model.score(held_out()) != model.score(held_out(), seed=1)
    assert_same_weights(weights(model.learn(5).policy), weights(other.learn(5).policy))


def test_training_stops_and_restores_the_best_weights():
    model = PREFINE(make_model(PPO), preferences(), learning_rate=3e-2, seed=0, **OPTIONS)
    history = Recorded(model)
    stopping = EarlyStopping(held_out(), eval_freq=10, patience=3)
    model.learn(2_000, [history, stopping], log_interval=None)

    losses = history.losses
    best = int(np.argmin(losses))
    assert best > 0, "choose settings for which the first weights are not the best"
    assert model.num_timesteps == 10 * (best + 3) < 2_000
    assert (stopping.best_timestep, stopping.best_loss) == (10 * best, min(losses))
    assert_same_weights(weights(model.policy), history.weights[best])
    assert model.score(held_out())["train/loss"] == pytest.approx(min(losses))


def test_training_that_ends_first_keeps_the_best_weights():
    model = PREFINE(make_model(PPO), preferences(), learning_rate=1e-3, seed=0, **OPTIONS)
    stopping = EarlyStopping(held_out(), eval_freq=20, patience=3)
    model.learn(50, stopping)
    # The last weights are evaluated at the end.
    assert stopping.best_timestep == 50
    assert model.num_timesteps == 50
    assert stopping.best_loss == model.score(held_out())["train/loss"]


def test_held_out_loss_is_logged_and_printed(capsys):
    model = PREFINE(make_model(PPO), preferences(), seed=0, **OPTIONS)
    model.set_logger(recorder := RecordingLogger())
    model.learn(4, EarlyStopping(held_out(), eval_freq=2, verbose=1), log_interval=2)
    row = recorder.rows[-1]
    found = model.score(held_out())
    assert row["held_out/loss"] == found["train/loss"]
    assert row["held_out/accuracies"] == found["rewards/accuracies"]
    assert "Training ended after 4 gradient steps. The weights are those after 4, whose loss" in capsys.readouterr().out


def test_early_stopping_can_be_used_again():
    stopping = EarlyStopping(held_out(), eval_freq=1, patience=1)
    for _ in range(2):
        model = PREFINE(make_model(PPO), preferences(), seed=0, **OPTIONS)
        model.learn(3, stopping)
        assert stopping.best_timestep == 3


def test_wrong_numbers_and_models_are_refused():
    for name in ("eval_freq", "patience"):
        with pytest.raises(ValueError, match=f"^{name}: 0 "):
            EarlyStopping(held_out(), **{name: 0})
    model = make_model(PPO, n_steps=8, batch_size=8)
    with pytest.raises(TypeError, match=r"^model: .*PPO"):
        model.learn(8, EarlyStopping(held_out()))


def held_out() -> PreferenceBuffer:
    return PreferenceBuffer(trajectories(GOOD, seed=5), trajectories(BAD, seed=6))


class Recorded(BaseCallback):
    """Records the held-out loss and the weights every 10 steps."""

    def __init__(self, model: PREFINE) -> None:
        super().__init__()
        self.losses = [model.score(held_out())["train/loss"]]
        self.weights = [weights(model.policy)]

    def _on_step(self) -> bool:
        if self.num_timesteps % 10 == 0:
            self.losses.append(self.model.score(held_out())["train/loss"])
            self.weights.append(weights(self.model.policy))
        return True
