"""Updates of many runs, compared with separate runs: every policy family, loss and option."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

from sb3_prefine import PREFINE, PreferenceBuffer, Reference, Trajectories, collect, load_reference
from sb3_prefine.population.batched_update import should_batch_networks
from sb3_prefine.population.networks import Networks
from sb3_prefine.population.population import Population
from tests.families import FAMILIES, Family
from tests.worlds import BAD, GOOD, RecordingLogger, make_model, preferences, trajectories

# One family for each kind of parameters, log-probs and observations.
KINDS = (
    "PPO",
    "PPO, gSDE, squashed",
    "PPO, Discrete",
    "A2C, MultiDiscrete",
    "PPO, MultiBinary",
    "PPO, Dict",
    "SAC",
    "SAC, gSDE",
    "CrossQ",
    "MaskablePPO, MultiDiscrete",
    "TD3",
    "QR-DQN",
    "your own nn.Module",
)
CPU = {"device": "cpu"}


def networks_batched(batched: bool) -> AbstractContextManager:
    """Compute the networks of populations as one batched network, or one after the other, on every device."""
    return mock.patch("sb3_prefine.population.population.should_batch_networks", return_value=batched)


def assert_runs_equal_separate_runs(
    models: list[PREFINE], twins: list[PREFINE], n_updates: int, batched: bool, log_interval: int = 4
) -> None:
    """
    Train models as a population and their twins separately, and compare weights, moments, logs and generators.

    :param models: Untrained models.
    :param twins: Models made in the same way.
    """
    for model in (*models, *twins):
        model.set_logger(RecordingLogger())
    with networks_batched(batched):
        Population(models).learn(n_updates, log_interval=log_interval)
    for model, twin in zip(models, twins, strict=True):
        twin.learn(n_updates, log_interval=log_interval)
        weights, expected = model.policy.state_dict(), twin.policy.state_dict()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
        assert any(not torch.allclose(t, model.reference.policy.state_dict()[n], atol=1e-4) for n, t in weights.items())
        moments, expected_moments = (m.optimizer.state_dict()["state"] for m in (model, twin))
        assert moments.keys() == expected_moments.keys()
        for key, state in moments.items():
            torch.testing.assert_close(state, expected_moments[key], rtol=1e-3, atol=1e-5)
        assert torch.equal(model.generator.get_state(), twin.generator.get_state())
        assert_same_rows(model.logger.rows, twin.logger.rows)


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare logs, except for durations."""
    assert len(found) == len(expected) > 0
    for row, expected_row in zip(found, expected, strict=True):
        assert row.keys() == expected_row.keys()
        for name in row.keys() - {"time/fps", "time/time_elapsed"}:
            assert row[name] == pytest.approx(expected_row[name], rel=1e-3, abs=1e-4), name


def recorded(family: Family, reference: Reference, seed: int, scale: float) -> Trajectories:
    """Collect episodes of the policy, with scaled actions if they are continuous."""
    transform = (lambda actions: scale * actions) if hasattr(reference.action_space, "low") else None
    return collect(reference, family.env, 2, n_envs=2, seed=seed, action_transform=transform, progress_bar=False)


def runs_of(name: str) -> Callable[[], list[PREFINE]]:
    """Return a function that makes three models of a family, with two datasets."""
    family = next(family for family in FAMILIES if family.name == name)
    reference = load_reference(family.make())
    draws = [
        PreferenceBuffer(recorded(family, reference, seed, 0.7), recorded(family, reference, seed + 10, 1.0))
        for seed in (0, 1)
    ]

    def models() -> list[PREFINE]:
        shared = {"batch_size": 16, "learning_rate": 1e-3, "device": "cpu", **family.options}
        return [
            PREFINE(reference, draws[0], beta=0.05, seed=0, **shared),
            PREFINE(reference, draws[1], beta=0.4, seed=1, sft_coef=0.3, **shared),
            PREFINE(reference, draws[0], beta=0.1, seed=2, max_grad_norm=0.1, **shared),
        ]

    return models


@pytest.mark.parametrize("name", KINDS)
def test_runs_of_every_family_equal_separate_runs(name):
    models = runs_of(name)
    for batched in (False, True):
        assert_runs_equal_separate_runs(models(), models(), 5, batched)


def test_first_update_of_cvae_policies_equals_that_of_separate_runs():
    """The noise depends on the exact samples, so that only the first update is equal up to rounding errors."""
    models = runs_of("CVAEPolicy")
    assert_runs_equal_separate_runs(models(), models(), 1, batched=False, log_interval=1)


def test_batched_cvae_policies_and_references_score_as_separate_ones():
    together = runs_of("CVAEPolicy")()
    for model in together:
        model.learn(3)
    policies = Networks([model.policy for model in together], [model.likelihood for model in together])
    references = Networks([model.policy_ref for model in together], [model.likelihood_ref for model in together])
    policies.batch([], [])
    references.batch([], [])
    tables = [model.current_tables().at(torch.arange(20), torch.arange(20) < 10) for model in together]
    params = policies.params(torch.stack([batch.inputs for batch in tables]))
    actions = torch.stack([torch.stack([batch.actions, 0.5 * batch.actions]) for batch in tables], dim=1)
    logp, logp_ref = policies.log_prob(params, actions), references.log_prob(params, actions)
    assert (logp - logp_ref).abs().max() > 0.01
    for i, model in enumerate(together):
        alone = model.likelihood.params(model.policy, tables[i].inputs)
        torch.testing.assert_close(params[i], alone)
        torch.testing.assert_close(logp[:, i], model.likelihood.log_prob(alone, actions[:, i]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            logp_ref[:, i], model.likelihood_ref.log_prob(alone, actions[:, i]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "ipo", "n_counterfactuals": 3},
        {"loss_type": "hinge", "counterfactuals": "reference"},
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": "sigmoid_norm", "label_smoothing": 0.1},
    ],
    ids=lambda options: options["loss_type"],
)
def test_runs_with_every_loss_equal_separate_runs(options):
    reference = load_reference(make_model(PPO))
    data = preferences()
    weighted = PreferenceBuffer(
        trajectories(GOOD),
        trajectories(BAD, seed=5),
        preferred_weights=[1.0, 2.0, 0.5, 3.0],
        dispreferred_labels=[0.6] * 4,
    )

    def models() -> list[PREFINE]:
        # Only one run has weights and labels.
        return [
            PREFINE(reference, data, beta=0.1, log_ratio_bound=0.5, seed=0, **options, **CPU),
            PREFINE(reference, weighted, beta=0.2, log_ratio_bound=2.0, seed=1, **options, **CPU),
        ]

    for batched in (False, True):
        assert_runs_equal_separate_runs(models(), models(), 6, batched)


@pytest.mark.parametrize("batched", [False, True])
def test_runs_may_differ_in_reference_optimizer_and_schedule(batched):
    sources = [load_reference(make_model(PPO)), load_reference(model_with_half_the_weights())]

    def models() -> list[PREFINE]:
        data, shared = preferences(), {"batch_size": 16, "device": "cpu"}
        return [
            PREFINE(sources[0], data, learning_rate=LinearSchedule(3e-3, 0.0, 1.0), seed=0, **shared),
            PREFINE(sources[1], data, learning_rate=1e-3, optimizer_kwargs={"weight_decay": 0.1}, seed=0, **shared),
            PREFINE(sources[1], data, learning_rate=lambda left: 1e-4 + left * 1e-3, seed=3, **shared),
        ]

    # More than the 100 updates whose rows are drawn together.
    assert_runs_equal_separate_runs(models(), models(), 104, batched, log_interval=50)


def model_with_half_the_weights() -> PPO:
    model = make_model(PPO)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight.mul_(0.5)
    return model


def test_gradients_of_each_run_are_clipped_separately():
    def models() -> list[PREFINE]:
        return [PREFINE(make_model(PPO), preferences(), max_grad_norm=bound, seed=0, **CPU) for bound in (1e-12, None)]

    before, [clipped, free] = models()[0].policy.state_dict(), Population(models()).learn(1)
    moved = [max(float((t - before[n]).abs().max()) for n, t in m.policy.state_dict().items()) for m in (clipped, free)]
    # Adam's first step is lr * g / (|g| + 1e-8).
    assert moved[0] < 1e-6 < 1e-4 < moved[1]


def test_hyperparameters_changed_by_a_callback_take_effect():
    def anneal(locals_: dict[str, Any], _globals: dict[str, Any]) -> bool:
        locals_["self"].beta *= 1.5
        locals_["self"].sft_coef *= 0.5
        return True

    def models() -> list[PREFINE]:
        return [PREFINE(make_model(PPO), preferences(), beta=beta, seed=0, **CPU) for beta in (0.05, 0.5)]

    together = Population(models()).learn(8, callback=anneal)
    for model, twin in zip(together, models(), strict=True):
        twin.learn(8, callback=anneal)
        assert model.beta == twin.beta
        for name, tensor in twin.policy.state_dict().items():
            torch.testing.assert_close(model.policy.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_networks_are_not_batched_on_the_cpu():
    assert not should_batch_networks(PREFINE(make_model(PPO), **CPU))
