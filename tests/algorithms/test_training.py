"""Training, for every algorithm: its steps, what changes, its callbacks and its random numbers."""

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.utils import LinearSchedule

from tests.algorithms.cases import CASES, DISCRIMINATOR_STEPS, each_algorithm, every_case
from tests.worlds import GOOD, RandomEnv, RecordingLogger, assert_same_weights, make_model, trajectories, weights

N = 2 * DISCRIMINATOR_STEPS


class Counter(BaseCallback):
    """Counts its calls, and stops training at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def _on_step(self) -> bool:
        return self.n_calls != self.stop_at


def adam_steps(optimizer: torch.optim.Adam) -> set[int]:
    return {int(state["step"]) for state in optimizer.state_dict()["state"].values()}


@every_case
def test_learn_makes_that_many_gradient_steps(case):
    model, counter = case.make(), Counter()
    assert model.learn(N, counter) is model
    assert (model.num_timesteps, counter.n_calls) == (N, N)
    assert adam_steps(model.optimizer) == {N - case.n_updates_before_policy}


@every_case
def test_only_the_actor_and_the_networks_of_the_algorithm_learn(case):
    model = case.make()
    before = case.weights_of(model)
    model.learn(N)
    changed = {name for name, weight in case.weights_of(model).items() if (weight != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {*case.networks, *case.multipliers}
    of_policy = {name for name in changed if name.startswith("policy.")}
    assert not [name for name in of_policy if "critic" in name or "value" in name]


@every_case
def test_the_reference_stays_equal_to_the_last_bit(case):
    source = case.make_policy()
    model = case.make(source)
    before = weights(model.reference.policy)
    model.learn(N)
    assert_same_weights(weights(model.reference.policy), before)
    assert not any(weight.requires_grad for weight in model.reference.policy.parameters())
    if not isinstance(source, str):
        assert_same_weights(weights(source.policy), before)


@every_case
def test_the_seed_decides_all_weights(case):
    def learned(seed: int) -> dict[str, torch.Tensor]:
        return case.weights_of(case.make(seed=seed).learn(N))

    first, other = learned(3), learned(4)
    assert_same_weights(learned(3), first)
    for network in case.networks:
        assert any(not torch.equal(first[name], other[name]) for name in first if name.startswith(f"{network}."))


@every_case
def test_learn_continues_or_counts_from_zero(case):
    model = case.make().learn(4)
    assert model.learn(N - 4, reset_num_timesteps=False).num_timesteps == N
    assert adam_steps(model.optimizer) == {N - case.n_updates_before_policy}
    assert model.learn(2).num_timesteps == 2


# Without random numbers: all batches are equal, and PREFINE's counterfactuals have no weight.
@pytest.mark.parametrize("name", ["SFT-PPO", "BC-PPO", "PPL-SAC", "CPL-PPO"])
def test_two_calls_of_learn_equal_one_call(name):
    [case] = [case for case in CASES if case.name == name]
    data = case.make_data(*(trajectories(GOOD, n_episodes=1, length=1, seed=seed) for seed in range(2)))
    once, twice = case.make(**data).learn(N), case.make(**data).learn(4)
    twice.learn(N - 4, reset_num_timesteps=False)
    assert_same_weights(weights(once.policy), weights(twice.policy))


@every_case
def test_a_callback_stops_training(case):
    model = case.make().learn(100, Counter(stop_at=7))
    assert model.num_timesteps == 7
    assert_same_weights(case.weights_of(model), case.weights_of(case.make().learn(7)))


@pytest.mark.filterwarnings("ignore:rich is experimental")
@each_algorithm
def test_checkpoints_and_progress_bar_need_no_environment(case, tmp_path):
    checkpoints = CheckpointCallback(save_freq=5, save_path=str(tmp_path))
    case.make(make_model(SAC), env=None).learn(N, callback=[checkpoints], progress_bar=True)
    loaded = case.algorithm.load(tmp_path / "rl_model_5_steps.zip", device="cpu")
    assert loaded.num_timesteps == 5
    assert_same_weights(case.weights_of(loaded), case.weights_of(case.make(make_model(SAC)).learn(5)))


@every_case
def test_training_does_not_touch_the_environment(case):
    env = RandomEnv()
    model = case.make(env=env).learn(3)
    assert model.get_env() is not None
    assert not hasattr(env, "steps")


@every_case
def test_the_learning_rate_follows_its_schedule(case):
    recorder, model = RecordingLogger(), case.make(learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    model.set_logger(recorder)
    model.learn(4, log_interval=1)
    np.testing.assert_allclose([row["train/learning_rate"] for row in recorder.rows], [1e-3, 7.5e-4, 5e-4, 2.5e-4])


@every_case
def test_a_learning_rate_of_zero_changes_nothing(case):
    model = case.make(learning_rate=0.0)
    before = weights(model.policy)
    assert_same_weights(weights(model.learn(N).policy), before)


@every_case
def test_max_grad_norm_bounds_the_step_of_every_network(case):
    """Adam's first step is lr g / (|g| + 1e-8): a gradient of norm 1e-12 moves a weight by at most lr / 10,000."""

    def moved(max_grad_norm: float | None) -> tuple[float, float]:
        recorder, model = RecordingLogger(), case.make(max_grad_norm=max_grad_norm)
        model.set_logger(recorder)
        before = case.weights_of(model)
        model.learn(1, log_interval=1)
        after = case.weights_of(model)
        distances = [(after[name] - before[name]).abs().max() for name in after if name not in case.multipliers]
        return float(max(distances)), recorder.rows[0]["train/grad_norm"]

    (free, norm), (bounded, clipped_norm) = moved(None), moved(1e-12)
    assert bounded < 1e-6 < 1e-5 < free
    # Logged before clipping. CPQ measures it after the step of its critics.
    assert norm > 1e-3
    assert clipped_norm == pytest.approx(norm, rel=0.1)


@pytest.mark.parametrize("name", ["PREFINE-PPO", "BC-PPO", "PPL-PPO", "CPL-PPO"])
def test_optimizer_kwargs_reach_adam(name):
    [case] = [case for case in CASES if case.name == name]
    with_decay, without = (case.make(optimizer_kwargs=kwargs).learn(N) for kwargs in ({"weight_decay": 0.5}, None))
    assert with_decay.optimizer.param_groups[0]["weight_decay"] == 0.5
    first, second = weights(with_decay.policy), weights(without.policy)
    assert any(not torch.equal(first[name], second[name]) for name in first)


# The first one is in the first stage of SafeDICE's training.
@pytest.mark.parametrize("update", [3, 8])
@every_case
def test_a_gradient_that_is_not_finite_stops_all_later_updates(case, update):
    """The gradients are NaN in two updates, and finite again afterwards."""
    model, hooks = case.make(), []

    def poison(_locals: dict, _globals: dict) -> bool:
        if model.num_timesteps == update - 1:
            for network in case.networks:
                trained = [weight for weight in getattr(model, network).parameters() if weight.requires_grad]
                hooks.extend(weight.register_hook(lambda gradient: gradient * torch.nan) for weight in trained)
        elif model.num_timesteps == update + 1:
            for hook in hooks:
                hook.remove()
        return True

    with pytest.raises(FloatingPointError, match=rf"in update {update} of this call"):
        model.learn(20, callback=poison)
    good = case.weights_of(case.make().learn(update - 1))
    for name, weight in case.weights_of(model).items():
        # Target networks approach the critics, which keep their last good weights.
        if "target" not in name:
            assert torch.equal(weight, good[name]), name


@every_case
def test_weights_stay_finite_if_training_diverges(case):
    model = case.make(learning_rate=1e25)
    with pytest.raises(FloatingPointError, match=r"in update \d+ of this call"):
        model.learn(100)
    assert all(torch.isfinite(weight).all() for weight in case.weights_of(model).values())


@each_algorithm
def test_new_data_are_learned_from_in_the_next_call(case):
    one, other = case.make().learn(1), case.make().learn(1)
    setattr(other, case.data_name, case.make_data(trajectories([0.0, 2.0, 0.0]))[case.data_name])
    first, second = (case.weights_of(model.learn(N)) for model in (one, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)
