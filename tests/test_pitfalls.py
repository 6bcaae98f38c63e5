"""
Fifteen ways to misuse a policy of SB3, and the tests that would fail.

1.  The log-prob of a sample with gradient has no gradient in the mean: ``sample()`` of a Gaussian is ``rsample()``.
    -> test_pitfalls::test_no_gradient_flows_through_the_sample
2.  ``get_distribution`` returns the same object every time, and the next call changes it.
    -> test_pitfalls::test_a_batch_does_not_change_the_params_of_another
3.  ``deepcopy`` fails with gSDE, and saved policies do not say whether their extractors are separate.
    -> test_prefine::test_gsde_policies_learn_and_are_saved_and_exported
    -> test_pitfalls::test_separate_extractors_are_rebuilt
4.  The squashed log-prob is NaN beyond the bounds.
    -> policies/test_gaussian::test_actions_on_and_beyond_the_bound_have_a_finite_log_prob
5.  atanh(tanh(x)) loses a saturated sample.
    -> policies/test_gaussian::test_saturated_sample_keeps_its_log_prob
    -> test_pitfalls::test_a_saturated_sample_is_not_pulled_back
6.  Actions are scaled to [-1, 1] where the policy squashes, and only there.
    -> policies/test_gaussian::test_diagonal_gaussian_scores_as_sb3_does
    -> policies/test_gaussian::test_squashed_gaussian_scores_as_sb3_does
7.  The environment clips PPO's actions, but a clipped sample does not follow the density that scores it.
    -> policies/test_gaussian::test_samples_have_the_mean_and_std_of_the_policy
    -> policies/test_gaussian::test_mean_gradient_of_the_log_prob_of_samples_is_zero
8.  gSDE's noise matrix gives equal samples for equal states.
    -> policies/test_gaussian::test_equal_states_get_different_samples_with_gsde
9.  A column of discrete actions broadcasts to (N, N) log-probs.
    -> policies/test_discrete::test_column_of_discrete_actions_does_not_broadcast
10. PPO's log-std can fall to minus infinity.
    -> policies/test_gaussian::test_log_std_has_a_floor
11. CrossQ's scores differ in training mode, and ``predict`` changes the mode.
    -> sb3_contract/test_train_eval_mode::test_model_in_training_mode_is_opened_in_evaluation_mode
    -> sb3_contract/test_train_eval_mode::test_predict_does_not_change_the_mode_during_training
12. The loss must train the actor alone.
    -> policies/test_likelihood::test_only_the_parameters_of_the_actor_are_trainable
13. The reference must be in evaluation mode, without gradients, and must not be a part of the policy.
    -> algorithms/test_training::test_the_reference_stays_equal_to_the_last_bit
    -> sb3_contract/test_base_class::test_model_and_reference_share_no_parameters
    -> sb3_contract/test_train_eval_mode::test_predict_does_not_change_the_mode_during_training
14. The logits of masked options, -1e8, make log-ratios explode.
    -> data/test_space_checks::test_an_action_has_to_be_allowed_by_its_own_mask
    -> policies/test_discrete::test_counterfactual_is_never_a_forbidden_action
    -> policies/test_discrete::test_log_prob_does_not_depend_on_forbidden_logits
15. Images are channel-first bytes, and are divided by 255 once.
    -> data/test_preferences::test_images_have_to_be_unscaled_and_channel_first
    -> test_pitfalls::test_bytes_are_divided_once
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.policies.base import actor_latent
from sb3_prefine.policies.likelihood import likelihood_of
from tests.families import ImageEnv
from tests.worlds import ACTIONS, STATES, env_with_actions, make_model, preferences

TESTS = Path(__file__).parent


def test_every_pitfall_names_existing_tests():
    pitfalls = re.split(r"^(\d+)\. ", __doc__, flags=re.MULTILINE)[1:]
    assert pitfalls[::2] == [str(number) for number in range(1, 16)]
    for text in pitfalls[1::2]:
        named = re.findall(r"-> (\S+)::(\w+)", text)
        assert named, text
        for file, test in named:
            assert f"\ndef {test}(" in (TESTS / f"{file}.py").read_text(), f"{file}::{test}"


def gaussian_of_sb3(policy: Any, states: torch.Tensor) -> Normal:
    """The distribution of the action, before any squashing."""
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(states)
        return Normal(mean, log_std.exp())
    return policy.get_distribution(states).distribution


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_no_gradient_flows_through_the_sample(algorithm):
    """
    Away from the reference, the gradient of a step equals that of Eq. 7 and 8 with constant counterfactuals.

    With a gradient through the sample, log π(a') would have none in the mean, and the reference's log-prob one.
    """
    beta, n = 0.8, 16
    source = make_model(algorithm)
    model = PREFINE(
        source, preferences(), learning_rate=0.0, beta=beta, sft_coef=0.0, batch_size=n, seed=0, device="cpu"
    )
    trained = model.optimizer.param_groups[0]["params"]
    with torch.no_grad():
        for index, weight in enumerate(trained):
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)))
    batch = next(model.current_tables().batches(n, torch.Generator().manual_seed(0)))
    generator = torch.Generator()
    generator.set_state(model.generator.get_state())
    model.train(batch)
    found = [weight.grad.clone() for weight in trained]

    source.policy.set_training_mode(False)
    dist, reference = gaussian_of_sb3(model.policy, batch.inputs), gaussian_of_sb3(source.policy, batch.inputs)
    noise = torch.randn((2 * n, ACTIONS), generator=generator)
    counterfactual = (dist.mean + dist.stddev * noise).detach()
    # The Jacobian of the squashing cancels in the ratios.
    ratios = [
        (dist.log_prob(actions) - reference.log_prob(actions).detach()).sum(dim=1)
        for actions in (batch.actions, counterfactual)
    ]
    delta = torch.where(batch.sets.is_preferred, 1.0, -1.0) * (ratios[0] - ratios[1])
    expected = torch.autograd.grad(-logsigmoid(beta * delta).sum() / n, trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


MODELS = {
    "PPO": lambda: make_model(PPO),
    "PPO, gSDE": lambda: make_model(PPO, use_sde=True),
    "PPO, Discrete": lambda: make_model(PPO, env_with_actions(spaces.Discrete(4))()),
    "SAC": lambda: make_model(SAC, buffer_size=10),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_batch_does_not_change_the_params_of_another(make):
    """SB3's distribution does change, so its parameters have to be kept as numbers."""
    policy = make().policy
    policy.set_training_mode(False)
    likelihood = likelihood_of(policy, -5.0)
    one, other = torch.as_tensor(STATES[:8]), torch.as_tensor(STATES[8:16])
    with torch.no_grad():
        params = likelihood.params(policy, one)
        actions = likelihood.sample(params, torch.Generator().manual_seed(0))
        scores, kept = likelihood.log_prob(params, actions), params.clone()
        others = likelihood.params(policy, other)
        assert not torch.allclose(others, kept)
        if not hasattr(policy, "actor"):
            shared = policy.get_distribution(one)
            assert policy.get_distribution(other) is shared
    torch.testing.assert_close(params, kept, rtol=0, atol=0)
    torch.testing.assert_close(likelihood.log_prob(params, actions), scores, rtol=0, atol=0)


@pytest.mark.parametrize("share", [True, False])
def test_separate_extractors_are_rebuilt(share, tmp_path):
    """If separate extractors were built as one, the critic's weights would overwrite the actor's."""
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": share}
    source: Any = PPO("CnnPolicy", ImageEnv(), policy_kwargs=kwargs, seed=0, device="cpu")
    with torch.no_grad():
        for weight in source.policy.vf_features_extractor.parameters():
            weight.add_(0.1)
    source.save(tmp_path / "source")
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 36, 36), dtype=np.uint8)
    expected = source.predict(images, deterministic=True)[0]
    for given in (source, source.policy, tmp_path / "source"):
        reference = load_reference(given)
        assert reference.policy.share_features_extractor is share
        copy: Any = reference.trainable_copy()
        for policy in (reference.policy, copy):
            np.testing.assert_array_equal(policy.predict(images, deterministic=True)[0], expected)
        assert (copy.pi_features_extractor is copy.vf_features_extractor) is share


@pytest.mark.parametrize("mean", [9.0, -12.0])
def test_a_saturated_sample_is_not_pulled_back(mean):
    """tanh(9) rounds to about 1 in float32, so atanh of it would be 6.1 at most, with another log-prob."""
    likelihood = likelihood_of(make_model(SAC, buffer_size=10).policy, -5.0)
    params = torch.tensor([[mean] * ACTIONS + [-2.0] * ACTIONS]).expand(2_000, -1)
    samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), params[0, :ACTIONS], rtol=0, atol=0.02)
    # E[log π] = -H - E[log-Jacobian], with the Gaussian's H = 3/2 log(2πe) + Σ log σ. SB3 adds 1e-6 to the Jacobian.
    entropy = ACTIONS * (0.5 * math.log(2 * math.pi * math.e) - 2.0)
    jacobian = np.log(1.0 - np.tanh(samples.double().numpy()) ** 2 + 1e-6).sum(axis=1).mean()
    found = likelihood.log_prob(params, samples).mean().item()
    assert found == pytest.approx(-entropy - jacobian, abs=0.15)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_bytes_are_divided_once(algorithm):
    """The first convolution gets the image in [0, 1]."""
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    options = {"buffer_size": 10} if algorithm is SAC else {}
    policy: Any = algorithm("CnnPolicy", ImageEnv(), policy_kwargs=kwargs, seed=0, device="cpu", **options).policy
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 36, 36), dtype=np.uint8)
    seen = policy.obs_to_tensor(images)[0]
    assert seen.dtype == torch.uint8
    extractor = policy.actor.features_extractor if algorithm is SAC else policy.pi_features_extractor
    inputs: list[torch.Tensor] = []
    extractor.cnn[0].register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    if algorithm is PPO:
        actor_latent(policy, seen)
    likelihood_of(policy, -5.0).params(policy, seen)
    for given in inputs:
        np.testing.assert_allclose(given.numpy(), images / 255.0, rtol=1e-6)
    assert inputs
