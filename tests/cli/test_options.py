import inspect

import pytest

from sb3_prefine import PREFINE, PreferenceBuffer
from sb3_prefine.cli.options import EvaluationOptions, Hyperparameters, RolloutOptions, SelectionOptions


def test_hyperparameters_are_those_of_the_constructor():
    parameters = dict(inspect.signature(PREFINE).parameters)
    for name in ("policy", "preferences", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"):
        del parameters[name]
    del parameters["stats_window_size"]  # unused
    del parameters["optimizer_kwargs"]  # a dictionary
    assert vars(Hyperparameters()) == {name: parameter.default for name, parameter in parameters.items()}


def test_selection_options_are_those_of_from_costs():
    parameters = inspect.signature(PreferenceBuffer.from_costs).parameters
    assert vars(SelectionOptions()) == {
        name: parameters[name].default for name in parameters if name not in ("trajectories", "cost_limit", "seed")
    }


@pytest.mark.parametrize(
    ("rollout", "deterministic_by_default", "stochastic_by_default"),
    [
        (RolloutOptions(), True, False),
        (RolloutOptions(deterministic=True), True, True),
        (RolloutOptions(stochastic=True), False, False),
    ],
)
def test_command_decides_how_to_act_if_no_option_does(rollout, deterministic_by_default, stochastic_by_default):
    assert rollout.is_deterministic(default=True) is deterministic_by_default
    assert rollout.is_deterministic(default=False) is stochastic_by_default


def test_evaluation_options_contain_rollout_options():
    options = EvaluationOptions(eval_episodes=3, eval_n_envs=4, eval_n_workers=2, eval_seed=9)
    assert options.rollout == RolloutOptions(episodes=3, n_envs=4, n_workers=2, seed=9)
