"""
Fifteen ways to read a policy of SB3 wrongly, and the tests that fail where one is fallen into.

1.  A counterfactual sampled with gradient has none in its mean: ``sample()`` of a Gaussian is ``rsample()``.
    -> test_pitfalls::test_no_gradient_flows_through_the_sample
2.  ``get_distribution`` returns one object, which the next call changes.
    -> test_pitfalls::test_one_batch_does_not_change_another_s
3.  ``deepcopy`` fails with gSDE, and policies do not tell whether their extractors are separate.
    -> test_prefine::test_gsde_policies_learn_and_are_saved_and_exported
    -> test_pitfalls::test_separate_extractors_are_rebuilt
4.  The squashed log-prob is NaN past the bound.
    -> policies/test_likelihood::test_actions_on_and_past_the_bound_have_a_finite_score
5.  atanh(tanh(x)) loses a saturated sample.
    -> policies/test_likelihood::test_a_saturated_sample_keeps_its_log_prob
    -> test_pitfalls::test_a_saturated_sample_is_not_pulled_back
6.  Actions are scaled to [-1, 1] where the policy squashes, and only there.
    -> policies/test_likelihood::test_diagonal_gaussian_scores_as_sb3_does
    -> policies/test_likelihood::test_squashed_gaussian_scores_as_sb3_does
7.  The environment clips PPO's actions, but a clipped sample is none of the density that scores it.
    -> policies/test_likelihood::test_samples_have_the_moments_of_the_policy
    -> policies/test_likelihood::test_the_mean_gradient_of_the_log_prob_of_samples_vanishes
8.  gSDE's noise matrix gives equal states equal samples.
    -> policies/test_likelihood::test_equal_states_get_different_samples_with_gsde
9.  A column of discrete actions broadcasts to (N, N) log-probs.
    -> policies/test_likelihood::test_a_column_of_discrete_actions_does_not_broadcast
10. PPO's log-std is free to fall to minus infinity.
    -> policies/test_likelihood::test_log_std_has_a_floor
11. CrossQ scores otherwise in training mode, and ``predict`` changes the mode.
    -> sb3_contract/test_train_eval_mode::test_model_in_training_mode_is_opened_in_evaluation_mode
    -> sb3_contract/test_train_eval_mode::test_predict_does_not_change_the_mode_during_training
12. The loss is the actor's alone.
    -> policies/test_likelihood::test_only_the_actor_is_trained
13. The reference gets no gradient, is no part of the policy, and is in evaluation mode.
    -> test_prefine::test_the_reference_does_not_change_by_a_bit
    -> sb3_contract/test_base_class::test_model_and_reference_share_no_parameters
    -> sb3_contract/test_train_eval_mode::test_predict_does_not_change_the_mode_during_training
14. Logits of -1e8, of what a mask forbids, blow ratios up.
    -> data/test_space_checks::test_an_action_has_to_be_allowed_by_its_own_mask
    -> policies/test_discrete::test_a_counterfactual_is_never_a_forbidden_action
    -> policies/test_discrete::test_the_log_ratio_does_not_feel_forbidden_options
15. Images are bytes, channel-first, and divided by 255 once.
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
from tests.families import Images
from tests.worlds import ACTIONS, STATES, choosing, model_of, preferences

TESTS = Path(__file__).parent


def test_every_pitfall_has_tests_that_are_there():
    pitfalls = re.split(r"^(\d+)\. ", __doc__, flags=re.MULTILINE)[1:]
    assert pitfalls[::2] == [str(number) for number in range(1, 16)]
    for text in pitfalls[1::2]:
        named = re.findall(r"-> (\S+)::(\w+)", text)
        assert named, text
        for file, test in named:
            assert f"\ndef {test}(" in (TESTS / f"{file}.py").read_text(), f"{file}::{test}"


def gaussian_of_sb3(policy: Any, states: torch.Tensor) -> Normal:
    """Of the action, or of what is squashed to it."""
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(states)
        return Normal(mean, log_std.exp())
    return policy.get_distribution(states).distribution


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_no_gradient_flows_through_the_sample(algorithm):
    """
    The gradient of one step is that of Eq. 7 and 8 with the counterfactuals as constants, away from θ = ref.

    Through the sample, log π(a') would have no gradient in the mean, or the reference's log-prob would have one.
    """
    beta, n = 0.8, 16
    source = model_of(algorithm)
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


WORLDS = {
    "PPO": lambda: model_of(PPO),
    "PPO, gSDE": lambda: model_of(PPO, use_sde=True),
    "PPO, Discrete": lambda: model_of(PPO, choosing(spaces.Discrete(4))()),
    "SAC": lambda: model_of(SAC, buffer_size=10),
}


@pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
def test_one_batch_does_not_change_another_s(make):
    """SB3's own object does change: what is scored has to be kept as numbers."""
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
    """With extractors that have weights: built as one, the critic's would be loaded over the actor's."""
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": share}
    source: Any = PPO("CnnPolicy", Images(), policy_kwargs=kwargs, seed=0, device="cpu")
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
    """tanh(9) is 1 in float32 less 3e-8: back through atanh it would be 6.1 at most, with another log-prob."""
    likelihood = likelihood_of(model_of(SAC, buffer_size=10).policy, -5.0)
    params = torch.tensor([[mean] * ACTIONS + [-2.0] * ACTIONS]).expand(2_000, -1)
    samples = likelihood.sample(params, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), params[0, :ACTIONS], rtol=0, atol=0.02)
    # E[log π] = -H: of the Gaussian, 3/2 log(2πe) + Σ log σ, less the mean log-Jacobian, which SB3 bounds by 1e-6.
    entropy = ACTIONS * (0.5 * math.log(2 * math.pi * math.e) - 2.0)
    jacobian = np.log(1.0 - np.tanh(samples.double().numpy()) ** 2 + 1e-6).sum(axis=1).mean()
    found = likelihood.log_prob(params, samples).mean().item()
    assert found == pytest.approx(-entropy - jacobian, abs=0.15)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_bytes_are_divided_once(algorithm):
    """What the first convolution gets is the image, in [0, 1]."""
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    options = {"buffer_size": 10} if algorithm is SAC else {}
    policy: Any = algorithm("CnnPolicy", Images(), policy_kwargs=kwargs, seed=0, device="cpu", **options).policy
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
