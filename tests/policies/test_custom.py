"""Policies of your own: a plain module, a subclass of SB3's policies, and the errors for mistakes in them."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_prefine import PREFINE, PreferenceBuffer, load_reference
from sb3_prefine.policies.custom import ModulePolicy, check_shapes, likelihood_of_custom
from sb3_prefine.policies.likelihood import likelihood_of, trainable_parameters
from tests.families import Mixture
from tests.worlds import ACTIONS, GOOD, OBSERVATIONS, STATES, RandomEnv, env_with_actions, preferences, trajectories


class Chooser(nn.Module):
    """A categorical policy without ``mode``."""

    observation_space, action_space = RandomEnv.observation_space, spaces.Discrete(4)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(OBSERVATIONS, 4)

    def params(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations).log_softmax(-1)

    def log_prob(self, params: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return params.expand(*actions.shape[:-1], 4).gather(-1, actions).squeeze(-1)

    def sample(self, params: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return torch.multinomial(params.exp(), 1, generator=generator)


class OwnPolicy(BasePolicy):
    """The mixture as a subclass of SB3's policies."""

    def __init__(self, observation_space: Any, action_space: Any, lr_schedule: Any = None, **kwargs: Any) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        self.mixture = Mixture()

    def params(self, observations: torch.Tensor) -> torch.Tensor:
        return self.mixture.params(observations)

    def log_prob(self, params: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.mixture.log_prob(params, actions)

    def sample(self, params: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return self.mixture.sample(params, generator)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.mixture.mode(self.params(observation))


def as_policy(module: Any) -> ModulePolicy:
    return ModulePolicy(module.observation_space, module.action_space, module=module)


# The likelihood


def test_likelihood_uses_the_methods_of_the_module():
    module = Mixture()
    likelihood = likelihood_of(as_policy(module), -5.0)
    assert likelihood.family == "Mixture's own"
    assert likelihood.needs == "observations"
    observations = torch.as_tensor(STATES[:6])
    params = likelihood.params(as_policy(module), observations)
    torch.testing.assert_close(params, module.params(observations))
    actions = torch.rand(2, 6, ACTIONS)
    torch.testing.assert_close(likelihood.log_prob(params, actions), module.log_prob(params, actions))
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    torch.testing.assert_close(likelihood.sample(params, seeds[0]), module.sample(params, seeds[1]))


def test_parameters_come_from_the_policy_in_the_call():
    """One likelihood computes the parameters of the reference and of the trained policy."""
    one, other = as_policy(Mixture()), as_policy(Mixture())
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1.0)
    observations = torch.as_tensor(STATES[:6])
    found = likelihood_of_custom(one).params(other, observations)
    torch.testing.assert_close(found, other.module.params(observations))
    assert not torch.allclose(found, one.module.params(observations))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_continuous_actions_are_encoded_as_floats_in_rows(dtype):
    likelihood = likelihood_of_custom(as_policy(Mixture()))
    encoded = likelihood.encode(torch.as_tensor(np.ones((4, ACTIONS), dtype)))
    assert (encoded.dtype, encoded.shape) == (torch.float32, (4, ACTIONS))


@pytest.mark.parametrize("given", [np.array([2, 0, 1]), np.array([[2], [0], [1]]), np.array([2, 0, 1], np.uint8)])
def test_discrete_actions_are_encoded_as_integers_in_rows(given):
    encoded = likelihood_of_custom(as_policy(Chooser())).encode(torch.as_tensor(given))
    assert (encoded.dtype, encoded.tolist()) == (torch.int64, [[2], [0], [1]])


def test_discrete_module_learns():
    def always(action: int) -> Any:
        given = trajectories(GOOD)
        columns = ("observations", "next_observations", "rewards", "costs", "terminals", "timeouts")
        return type(given)(**{name: getattr(given, name) for name in columns}, actions=np.full(40, action))

    data = PreferenceBuffer(always(2), always(0))
    model = PREFINE(Chooser(), data, learning_rate=3e-2, batch_size=32, seed=0, device="cpu").learn(100)
    probabilities = model.policy.params(torch.as_tensor(STATES)).exp().mean(0)
    assert probabilities[2] > 0.9
    assert probabilities[0] < 0.05


def test_subclass_of_an_sb3_policy_learns_and_is_exported(tmp_path):
    policy = OwnPolicy(RandomEnv.observation_space, RandomEnv.action_space)
    model = PREFINE(policy, preferences(), learning_rate=1e-2, batch_size=16, seed=0, device="cpu").learn(20)
    actions = model.predict(STATES, deterministic=True)[0]
    assert not np.allclose(actions, policy.predict(STATES, deterministic=True)[0])
    exported = OwnPolicy.load(model.export(tmp_path / "own"), device="cpu")
    np.testing.assert_array_equal(exported.predict(STATES, deterministic=True)[0], actions)


def test_only_parameters_of_the_likelihood_are_trainable():
    module = Mixture()
    module.critic = nn.Linear(OBSERVATIONS, 1)
    policy = as_policy(module)
    trainable = trainable_parameters(policy, likelihood_of(policy, -5.0), torch.as_tensor(STATES[:2]))
    assert {id(p) for p in trainable} == {id(p) for p in module.net.parameters()}


# Actions


def test_module_predicts_its_mode_or_a_sample():
    module = Mixture()
    model = PREFINE(module, device="cpu")
    deterministic = model.predict(STATES, deterministic=True)[0]
    with torch.no_grad():
        expected = module.mode(module.params(torch.as_tensor(STATES))).numpy()
    low, high = RandomEnv.action_space.low, RandomEnv.action_space.high
    np.testing.assert_allclose(deterministic, np.clip(expected, low, high), rtol=1e-6)
    samples = [model.predict(STATES)[0] for _ in range(2)]
    assert samples[0].shape == (len(STATES), ACTIONS)
    assert not np.array_equal(*samples)


def test_module_without_a_mode_predicts_samples_only():
    model = PREFINE(Chooser(), device="cpu")
    actions = model.predict(STATES)[0]
    assert actions.shape == (len(STATES),)
    assert set(actions.tolist()) <= set(range(4))
    assert model.predict(STATES[0])[0].shape == ()
    with pytest.raises(TypeError, match=r"^policy: Chooser .*mode"):
        model.predict(STATES, deterministic=True)


# Errors


@pytest.mark.parametrize("method", ["params", "log_prob", "sample"])
def test_module_without_one_of_the_methods_is_refused(method):
    class Lacking(nn.Module):
        observation_space, action_space = RandomEnv.observation_space, RandomEnv.action_space

    for name in {"params", "log_prob", "sample"} - {method}:
        setattr(Lacking, name, getattr(Mixture, name))
    with pytest.raises(TypeError, match=r"^policy: Lacking"):
        load_reference(Lacking())


def test_module_without_spaces_needs_an_environment():
    module = Mixture()
    module.observation_space = None
    with pytest.raises(ValueError, match=r"^env: Mixture"):
        PREFINE(module)
    assert PREFINE(module, env=RandomEnv(), device="cpu").observation_space == RandomEnv.observation_space


def test_right_shapes_pass():
    for module in (Mixture(), Chooser()):
        policy = as_policy(module)
        check_shapes(likelihood_of_custom(policy), policy, torch.as_tensor(STATES[:3]), 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"params": lambda self, o: self.net(o).sum(1)}, r"params .*\(2,\)"),
        ({"params": lambda self, o: self.net(o)[:1]}, r"params .*\(1, 14\)"),
        ({"sample": lambda self, p, g: torch.zeros(2)}, r"sample .*\(2,\)"),
        ({"sample": lambda self, p, g: torch.zeros(1, 3)}, r"sample .*\(1, 3\)"),
        ({"log_prob": lambda self, p, a: a}, r"log_prob .*\(3, 2, 3\)"),
        ({"log_prob": lambda self, p, a: a.sum((0, 2))}, r"log_prob .*\(2,\)"),
        ({"log_prob": lambda self, p, a: a.sum()}, r"log_prob .*\(\)"),
    ],
)
def test_method_with_a_wrong_shape_is_named(wrong, message):
    module = type("Wrong", (Mixture,), wrong)()
    with pytest.raises(ValueError, match=rf"^policy: its {message}"):
        PREFINE(module, preferences(), device="cpu")


@pytest.mark.parametrize("option", ["fixed_std", "temperature"])
def test_options_of_other_policies_are_refused(option):
    with pytest.raises(ValueError, match=rf"^{option}: 0\.1 .*ModulePolicy"):
        PREFINE(Mixture(), device="cpu", **{option: 0.1})


def test_data_with_other_actions_are_refused():
    with pytest.raises(ValueError, match=r"^preferred: actions .*\(3,\)"):
        PREFINE(Chooser(), preferences(), device="cpu")
    assert PREFINE(Chooser(), env=env_with_actions(spaces.Discrete(4))(), device="cpu").action_space == spaces.Discrete(
        4
    )
