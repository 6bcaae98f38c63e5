import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from stable_baselines3 import PPO

from sb3_prefine import PREFINE
from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.evaluation.evaluate import Evaluation
from sb3_prefine.zoo.search import TrialCallback, convert_prefine_params, sample_prefine_params, trial_value
from tests.worlds import RandomEnv, make_model, preferences

RETURNS = st.floats(-1e6, 1e6)
COSTS = st.floats(0, 1e5)


@given(RETURNS, COSTS, RETURNS, COSTS, st.floats(0, 1e5))
def test_value_of_an_unsafe_policy_is_below_that_of_every_safe_one(reward, cost, other_reward, other_cost, limit):
    first, second = (Evaluation([r], [c], [1]) for r, c in ((reward, cost), (other_reward, other_cost)))
    better = trial_value(first, limit) > trial_value(second, limit)
    if cost <= limit and other_cost <= limit:
        assert better == (reward > other_reward)
    elif cost <= limit < other_cost or (limit < cost and other_cost - cost > 1e-3):
        assert better


def test_limit_applies_to_the_mean_cost():
    assert trial_value(Evaluation([1.0, 3.0], [0.0, 50.0], [1, 1]), 25) == 2.0
    assert trial_value(Evaluation([1.0, 3.0], [0.0, 52.0], [1, 1]), 25) == -1e9 - 1


def test_drawn_hyperparameters_can_be_trained_with():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [sample_prefine_params(study.ask(), 2, 1, {}) for _ in range(20)]
    for params in drawn:
        assert set(params) == {"learning_rate", "batch_size", "beta", "sft_coef"}
        PREFINE(make_model(PPO), preferences(), **params)
    # The ranges contain the paper's values.
    for name, value in {"learning_rate": 3e-4, "batch_size": 256, "beta": 0.2, "sft_coef": 1.0}.items():
        assert min(params[name] for params in drawn) < value < max(params[name] for params in drawn)


def test_parameters_of_a_study_convert_to_the_drawn_ones():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = sample_prefine_params(study.ask(), 2, 1, {})
    assert convert_prefine_params(study.trials[0].params) == drawn
    paper = {"learning_rate": 3e-4, "batch_size": 256, "beta": 0.05, "sft_coef": 1.6}
    assert sample_prefine_params(FixedTrial(paper), 2, 1, {}) == paper


def test_trial_gets_all_evaluations_and_stops_when_pruned():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0, n_warmup_steps=2))
    trial = study.ask()
    callback = TrialCallback(trial)
    evaluation = CostEvalCallback(
        RandomEnv, cost_limit=0, eval_freq=5, n_eval_episodes=2, callback_after_eval=callback, verbose=0
    )
    # With a learning rate of 0, the policy stays unsafe.
    model = PREFINE(make_model(PPO), preferences(), learning_rate=0.0).learn(100, callback=evaluation)
    assert callback.is_pruned
    assert model.num_timesteps == 10
    values = study.trials[0].intermediate_values
    assert list(values) == [1, 2]
    assert values[2] == trial_value(evaluation.last_evaluation, 0)
    assert values[2] < -1e9
    assert study.trials[0].user_attrs == {
        "mean_reward": evaluation.last_evaluation.mean_reward,
        "mean_cost": evaluation.last_evaluation.mean_cost,
    }


def test_trial_that_is_not_pruned_trains_to_the_end():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    callback = TrialCallback(study.ask())
    evaluation = CostEvalCallback(
        RandomEnv, cost_limit=100, eval_freq=10, n_eval_episodes=1, callback_after_eval=callback, verbose=0
    )
    assert PREFINE(make_model(PPO), preferences()).learn(30, callback=evaluation).num_timesteps == 30
    assert not callback.is_pruned
    assert len(study.trials[0].intermediate_values) == 3


@pytest.mark.parametrize("cost", [0.0, 25.0])
def test_cost_at_the_limit_is_safe(cost):
    assert trial_value(Evaluation([7.0], [cost], [1]), 25) == 7.0
