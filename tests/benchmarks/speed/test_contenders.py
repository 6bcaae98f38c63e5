"""The training loops that are compared."""

from copy import deepcopy

import pytest
import torch

from benchmarks.speed.contenders import (
    BETA,
    SFT_COEF,
    SB3Policy,
    Workload,
    algorithm_1_loss,
    floor_loop,
    plain_loop,
    prefine_loop,
)
from sb3_prefine.objective import prefine_loss
from tests.worlds import weights

SMALL = {"episodes": (2, 1), "batch_size": 16, "widths": (8, 8)}
FAMILIES = ("gaussian", "squashed", "categorical")


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_loop_has_the_loss_of_the_paper(family, monkeypatch):
    workload = Workload(family, **SMALL)
    policy = SB3Policy(workload)
    reference = deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.actor_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batches = [policy.batch(16), policy.batch(16)]
    counterfactuals = [policy.batch(16)[1], policy.batch(16)[1]]
    drawn = iter(counterfactuals)
    monkeypatch.setattr(policy, "sample", lambda _: next(drawn))
    loss = algorithm_1_loss(policy, reference, batches)

    states = torch.cat([states for states, _ in batches])
    log_probs = [
        scorer.log_prob(scorer.distribution(states), torch.cat(actions))
        for actions in ([actions for _, actions in batches], counterfactuals)
        for scorer in (policy, reference)
    ]
    expected, _ = prefine_loss(*log_probs, torch.arange(32) < 16, beta=BETA, sft_coef=SFT_COEF)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [floor_loop, prefine_loop, plain_loop])
def test_every_loop_makes_the_given_number_of_steps(family, make, monkeypatch):
    losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: losses.append(self.item()) or backward(self))
    run = make(Workload(family, **SMALL))
    run(3)
    run(2)
    assert len(losses) == len(set(losses)) == 5


def test_floor_loop_clones_its_batch(monkeypatch):
    torch.manual_seed(0)
    losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: losses.append(self.item()) or backward(self))
    floor_loop(Workload(**SMALL))(50)
    assert losses[-1] < losses[0] - 0.01


def test_workload_has_data_of_its_family():
    for family in FAMILIES:
        workload = Workload(family, **SMALL)
        preferences = workload.make_preferences()
        assert (preferences.preferred.n_transitions, preferences.dispreferred.n_transitions) == (2_000, 1_000)
        before = weights(workload.make_reference().policy)
        assert all(tensor.isfinite().all() for tensor in before.values())
