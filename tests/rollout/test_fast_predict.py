import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.policies.gsde import renew_noise
from sb3_prefine.rollout.fast_predict import fast_predict
from sb3_prefine.rollout.predictor import open_policy
from tests.families import FAMILIES, Family
from tests.worlds import STATES, RandomEnv, make_model, preferences


def assert_same_actions(policy, observations, **masks):
    """
    Assert that ``predict`` and ``fast_predict`` agree in deterministic actions and in three consecutive samples.

    The caller of ``predict`` draws gSDE's noise.
    """
    n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    for deterministic, calls in ((True, 1), (False, 3)):
        found = []
        for predict in (policy.predict, fast_predict(open_policy(policy))):
            torch.manual_seed(5)
            found.append([])
            for _ in range(calls):
                if predict == policy.predict and not deterministic:
                    renew_noise(getattr(policy, "policy", policy), n)
                found[-1].append(predict(observations, deterministic=deterministic, **masks)[0])
        expected, actions = (np.stack(part) for part in found)
        assert actions.dtype == expected.dtype
        np.testing.assert_array_equal(actions, expected)


def batch_of(space: gym.Space, n: int):
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def modules_told(policy, predict, monkeypatch):
    """Number of calls of the modules' ``train`` in three calls of ``predict``."""
    told = []
    monkeypatch.setattr(type(policy), "train", lambda self, mode=True: told.append(mode) or nn.Module.train(self, mode))
    for _ in range(3):
        predict(STATES[:4])
    monkeypatch.undo()
    return len(told)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_actions_equal_those_of_predict_to_the_last_bit(family: Family):
    env = family.env()
    env.reset(seed=0)
    reference = load_reference(family.make())
    # Torch draws 16 numbers and more in another way than fewer.
    for n in (1, 3, 40):
        masks = {"action_masks": np.stack([env.action_masks()] * n)} if reference.takes_action_masks else {}
        for policy in (reference, reference.policy):
            assert_same_actions(policy, batch_of(env.observation_space, n), **masks)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_normaliser_and_trained_weights_are_used(algorithm):
    venv = VecNormalize(DummyVecEnv([RandomEnv]))
    venv.reset()
    for _ in range(50):
        venv.step(np.zeros((1, 3), np.float32))
    reference = load_reference(make_model(algorithm, venv))
    model = PREFINE(reference, preferences(), learning_rate=1e-2, batch_size=8, seed=0, device="cpu").learn(5)
    for policy in (reference, model):
        assert_same_actions(policy, STATES)
    before, after = (fast_predict(open_policy(p))(STATES, deterministic=True)[0] for p in (reference, model))
    raw, _ = fast_predict(reference.policy)(STATES, deterministic=True)
    assert not np.array_equal(before, after)
    assert not np.array_equal(before, raw)


def test_evaluation_mode_is_set_once(monkeypatch):
    policy = make_model(PPO).policy
    assert modules_told(policy, policy.predict, monkeypatch) == 3
    assert modules_told(policy, fast_predict(policy), monkeypatch) == 0


def test_a_policy_in_training_acts_without_dropout():
    model = make_model(PPO, policy_kwargs={"net_arch": [16], "activation_fn": nn.Dropout})
    model.policy.set_training_mode(True)
    actions, _ = fast_predict(model.policy)(STATES, deterministic=True)
    assert not model.policy.training
    np.testing.assert_array_equal(actions, model.policy.predict(STATES, deterministic=True)[0])


class Doubled(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return 2 * super()._predict(observation, deterministic)


class Shifted(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(obs + 1)


class Upside(ActorCriticPolicy):
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return -actions, state


@pytest.mark.parametrize("kind", [Doubled, Shifted, Upside])
def test_methods_overridden_in_a_class_are_called(kind):
    policy = PPO(kind, RandomEnv(), seed=0, device="cpu").policy
    assert_same_actions(policy, STATES)
    plain = PPO("MlpPolicy", RandomEnv(), seed=0, device="cpu").policy
    plain.load_state_dict(policy.state_dict())
    actions, usual = (fast_predict(p)(STATES, deterministic=True)[0] for p in (policy, plain))
    assert not np.array_equal(actions, usual)


@pytest.mark.parametrize(("owner", "method"), [("policy", "_predict"), ("actor", "forward")])
def test_methods_replaced_on_an_instance_are_called(owner, method, monkeypatch):
    policy = make_model(SAC).policy
    replaced = policy if owner == "policy" else policy.actor
    monkeypatch.setattr(replaced, method, lambda observation, deterministic=False: torch.zeros(len(observation), 3))
    actions, _ = fast_predict(policy)(STATES)
    space = RandomEnv.action_space
    np.testing.assert_array_equal(actions, np.tile((space.low + space.high) / 2, (len(STATES), 1)))


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (SAC, "actor"),
        (SAC, "actor.latent_pi"),
        (SAC, "actor.mu"),
        (PPO, "mlp_extractor.policy_net.0"),
        (PPO, "action_net"),
    ],
)
def test_hooks_are_called(algorithm, name):
    policy = make_model(algorithm).policy
    seen = []
    handle = policy.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output))
    fast_predict(policy)(STATES)
    handle.remove()
    fast_predict(policy)(STATES)
    assert len(seen) == 1


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.ELU, nn.Softsign])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_other_activations_and_weight_norm_give_the_same_actions(algorithm, activation):
    policy = make_model(algorithm, policy_kwargs={"net_arch": [16, 16], "activation_fn": activation}).policy
    layers = policy.mlp_extractor.policy_net if algorithm is PPO else policy.actor.latent_pi
    nn.utils.parametrizations.weight_norm(layers[0])
    nn.utils.spectral_norm(layers[2])
    assert_same_actions(policy, STATES)


def test_gradients_are_not_recorded_and_training_continues():
    model = make_model(PPO)
    fast_predict(model.policy)(STATES)
    values, log_prob, _ = model.policy.evaluate_actions(torch.as_tensor(STATES), torch.zeros(len(STATES), 3))
    (values.sum() + log_prob.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.policy.parameters())


def test_observations_of_another_shape_are_refused_as_sb3_does():
    policy = make_model(PPO).policy
    with pytest.raises(ValueError, match="Unexpected observation shape") as expected:
        policy.predict(STATES[:, :4])
    with pytest.raises(ValueError, match="Unexpected observation shape") as found:
        fast_predict(policy)(STATES[:, :4])
    assert str(found.value) == str(expected.value)
