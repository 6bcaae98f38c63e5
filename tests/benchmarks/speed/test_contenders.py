"""What speed.py compares does what it says."""

from copy import deepcopy

import pytest
import torch

from benchmarks.speed.contenders import BETA, SFT_COEF, Scorer, Workload, algorithm_1, floor, learn, plain
from sb3_prefine.objective import prefine_loss
from tests.worlds import weights

SMALL = {"episodes": (2, 1), "batch_size": 16, "widths": (8, 8)}
FAMILIES = ("gaussian", "squashed", "categorical")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_loop_has_the_loss_of_the_paper(family, monkeypatch):
    workload = Workload(family, **SMALL)
    policy = Scorer(workload)
    reference = deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.actor_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batches = [policy.batch(16), policy.batch(16)]
    counterfactuals = [policy.batch(16)[1], policy.batch(16)[1]]
    drawn = iter(counterfactuals)
    monkeypatch.setattr(policy, "sample", lambda _: next(drawn))
    loss = algorithm_1(policy, reference, batches)

    states = torch.cat([states for states, _ in batches])
    log_probs = [
        scorer.log_prob(scorer.distribution(states), torch.cat(actions))
        for actions in ([actions for _, actions in batches], counterfactuals)
        for scorer in (policy, reference)
    ]
    expected, _ = prefine_loss(*log_probs, torch.arange(32) < 16, beta=BETA, sft_coef=SFT_COEF)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [floor, learn, plain])
def test_every_contender_makes_its_steps(family, make, monkeypatch):
    losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: losses.append(self.item()) or backward(self))
    run = make(Workload(family, **SMALL))
    run(3)
    run(2)
    assert len(losses) == len(set(losses)) == 5


def test_the_floor_clones_its_batch(monkeypatch):
    torch.manual_seed(0)
    losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: losses.append(self.item()) or backward(self))
    floor(Workload(**SMALL))(50)
    assert losses[-1] < losses[0] - 0.01


def test_the_data_are_of_the_family():
    for family in FAMILIES:
        workload = Workload(family, **SMALL)
        preferences = workload.preferences()
        assert (preferences.preferred.n_transitions, preferences.dispreferred.n_transitions) == (2_000, 1_000)
        before = weights(workload.algorithm().policy)
        assert all(tensor.isfinite().all() for tensor in before.values())
