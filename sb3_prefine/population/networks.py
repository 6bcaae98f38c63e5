"""The networks of many runs: computed one after the other, or as one batched network."""

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.utils.observations import map_arrays


class Networks:
    """
    The networks of R runs with the same architecture.

    They are computed one after the other. After ``batch`` they are one network, whose weights have a leading dimension
    R: on CUDA, this launches as many operations as one network.

    :param policies: Policies, (R,).
    :param likelihoods: Likelihood of each policy, (R,).
    """

    def __init__(self, policies: Sequence[nn.Module], likelihoods: Sequence[Likelihood]) -> None:
        self._params = [_Params(*pair) for pair in zip(policies, likelihoods, strict=True)]
        self._log_probs = [_LogProb(*pair) for pair in zip(policies, likelihoods, strict=True)]
        self._likelihood = likelihoods[0]
        self._scores_with_weights = isinstance(policies[0], HasLikelihood)
        # Weights of the batched network by name, (R, …) each, without those that are equal in all runs.
        self._batched_weights: dict[str, Tensor] | None = None
        # Trained weights of the batched network, and those of each run.
        self._trained: list[tuple[Tensor, list[Tensor]]] = []

    def batch(self, trained: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """
        Make them one batched network.

        :param trained: Weights of the first run that are trained.
        :param gradients: Tensors that collect the gradients of these weights for all runs, (R, …) each.
        """
        tensors = [{**dict(module.named_parameters()), **dict(module.named_buffers())} for module in self._params]
        positions = {id(weight): position for position, weight in enumerate(trained)}
        self._batched_weights = {}
        for name, tensor in tensors[0].items():
            rows = [tensors_of_run[name].detach() for tensors_of_run in tensors]
            if id(tensor) in positions:
                weight = torch.empty_like(torch.stack(rows)).requires_grad_()
                weight.grad = gradients[positions[id(tensor)]]
                self._batched_weights[name] = weight
                self._trained.append((weight.detach(), rows))
            elif not all(torch.equal(rows[0], row) for row in rows):
                self._batched_weights[name] = torch.stack(rows)

    def copy_trained_weights(self) -> None:
        """Copy the weights that the runs' optimizers stepped into the batched network, if there is one."""
        for batched, rows in self._trained:
            torch.stack(rows, out=batched)

    def params(self, inputs: Inputs) -> Tensor:
        """
        Compute the parameters of each policy's distribution, with gradient.

        :param inputs: Inputs of the likelihood, (R, B, …).
        :return: Parameters, (R, B, P).
        """
        parts = (inputs.observations, inputs.action_masks) if isinstance(inputs, MaskedInputs) else (inputs,)
        return self._call(self._params, *parts)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        Compute log-probs.

        :param params: Parameters of each policy's distribution, (R, B, P).
        :param actions: Encoded actions, (K, R, B, A).
        :return: Log-probs in nats, (K, R, B).
        """
        if self._scores_with_weights:
            return self._call(self._log_probs, params, actions.transpose(0, 1)).transpose(0, 1)
        # log_prob uses no weights and works row by row, so that one call serves all runs.
        flat = self._likelihood.log_prob(params.flatten(0, 1), actions.flatten(1, 2))
        return flat.unflatten(1, params.shape[:2])

    def _call(self, modules: Sequence[nn.Module], *inputs: Any) -> Tensor:
        """
        Call the module of each run with the inputs of this run.

        :param modules: Modules, (R,).
        :param inputs: Tensors (R, …), or dicts of such tensors.
        :return: Results of all runs, (R, …).
        """
        if self._batched_weights is None:
            return torch.stack([m(*(_at_run(part, run) for part in inputs)) for run, m in enumerate(modules)])

        def call(weights: dict[str, Tensor], *inputs: Any) -> Tensor:
            # SB3's policies hold one features extractor under three names. With tie_weights, torch would swap its
            # weights once for each name and not restore the first ones.
            return torch.func.functional_call(modules[0], weights, inputs, tie_weights=False)

        return torch.vmap(call)(self._batched_weights, *inputs)


class _Params(nn.Module):
    """A policy's ``params`` as the forward pass of a module, because ``functional_call`` needs one."""

    def __init__(self, policy: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.policy = policy
        self.likelihood = likelihood

    def forward(self, observations: PyTorchObs, action_masks: Tensor | None = None) -> Tensor:
        inputs = observations if action_masks is None else MaskedInputs(observations, action_masks)
        return self.likelihood.params(self.policy, inputs)


class _LogProb(nn.Module):
    """A policy's ``log_prob`` as the forward pass of a module. The policy is part of it because its weights are."""

    def __init__(self, policy: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.policy = policy
        self.likelihood = likelihood

    def forward(self, params: Tensor, actions: Tensor) -> Tensor:
        return self.likelihood.log_prob(params, actions)


def _at_run(inputs: PyTorchObs, run: int) -> PyTorchObs:
    return map_arrays(lambda part: part[run], inputs)
