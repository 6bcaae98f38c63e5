"""Which likelihood a policy has, and which of its parameters the likelihood depends on."""

import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from sb3_prefine.policies.base import MaskedInputs, SequenceInputs
from sb3_prefine.policies.likelihood import (
    example_inputs,
    gaussian_around_mode,
    likelihood_of,
    trainable_parameters,
)
from tests.families import masked_env_with_actions
from tests.worlds import OBSERVATIONS, RandomEnv, env_with_actions, make_model


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: make_model(TD3), r"TD3Policy .*fixed_std=0\.1"),
        (lambda: make_model(DQN, env_with_actions(spaces.Discrete(4))()), r"DQNPolicy .*temperature=1\.0"),
        (lambda: QRDQN("MlpPolicy", "CartPole-v1", device="cpu"), r"QRDQNPolicy .*temperature=1\.0"),
        (lambda: make_model(PPO, env_with_actions(spaces.Discrete(4, start=2))()), "its actions start at 2"),
        (lambda: ARS("LinearPolicy", "Pendulum-v1", device="cpu"), "ARSLinearPolicy"),
    ],
)
def test_policy_without_a_likelihood_is_refused(model, found):
    with pytest.raises(TypeError, match=f"^policy: {found}"):
        likelihood_of(model().policy, log_std_min=-5.0)


def test_module_without_a_likelihood_is_refused():
    with pytest.raises(TypeError, match=r"^policy: Linear"):
        likelihood_of(torch.nn.Linear(2, 2), log_std_min=-5.0)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: make_model(PPO), {"fixed_std": 0.1}, "fixed_std: 0.1 .*ActorCriticPolicy"),
        (lambda: make_model(SAC), {"temperature": 2.0}, "temperature: 2.0 .*SACPolicy"),
        (lambda: make_model(TD3), {"fixed_std": 0.1, "temperature": 2.0}, "temperature: 2.0 .*TD3Policy"),
        (
            lambda: make_model(DQN, env_with_actions(spaces.Discrete(4))()),
            {"fixed_std": 0.1, "temperature": 2.0},
            "fixed_std: 0.1 .*DQNPolicy",
        ),
        (lambda: make_model(TD3), {"temperature": 2.0}, "temperature: 2.0 .*TD3Policy"),
    ],
)
def test_option_for_other_policies_is_refused(model, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        likelihood_of(model().policy, -5.0, **options)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_gaussian_around_the_mode_of_discrete_actions_is_refused(algorithm):
    policy = make_model(algorithm, env_with_actions(spaces.Discrete(4))()).policy
    with pytest.raises(TypeError, match=rf"^fixed_std: 0\.5 .*{type(policy).__name__}"):
        gaussian_around_mode(policy, std=0.5)


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, SAC, TQC, CrossQ])
def test_only_the_parameters_of_the_actor_are_trainable(algorithm):
    policy = make_model(algorithm).policy.eval()
    trainable = trainable_parameters(policy, likelihood_of(policy, -5.0), torch.randn(7, OBSERVATIONS))
    names = {name for name, parameter in policy.named_parameters() if any(parameter is other for other in trainable)}
    if algorithm in (PPO, A2C, TRPO):
        expected = {name for name in dict(policy.named_parameters()) if "value" not in name}
    else:
        expected = {name for name in dict(policy.named_parameters()) if name.startswith("actor.")}
    assert names == expected


def test_looking_for_trainable_parameters_keeps_the_random_state():
    policy, observations = make_model(PPO).policy.eval(), torch.randn(7, OBSERVATIONS)
    before = torch.get_rng_state()
    trainable_parameters(policy, likelihood_of(policy, -5.0), observations)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: make_model(SAC), torch.Tensor),
        (lambda: make_model(MaskablePPO, masked_env_with_actions(spaces.MultiDiscrete([3, 2]))()), MaskedInputs),
        (lambda: RecurrentPPO("MlpLstmPolicy", RandomEnv(), seed=0, device="cpu"), SequenceInputs),
    ],
    ids=["observations", "masks", "sequences"],
)
def test_example_inputs_are_of_the_kind_that_the_likelihood_needs(model, kind):
    policy = model().policy
    likelihood = likelihood_of(policy, -5.0)
    inputs = example_inputs(policy, likelihood, torch.randn(2, OBSERVATIONS))
    assert isinstance(inputs, kind)
    params = likelihood.params(policy, inputs)
    assert len(params) == 2
    assert torch.isfinite(params).all()
    if kind is MaskedInputs:
        assert inputs.action_masks.shape == (2, 5)
        assert inputs.action_masks.all()
