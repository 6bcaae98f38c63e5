"""One gradient step of many runs at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sb3_prefine.objective import prefine_loss
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.population.networks import Networks
from sb3_prefine.prefine import PREFINE
from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.optimizer import FiniteGuard, adam_step
from sb3_prefine.training.transition_tables import Batch


class BatchedUpdate:
    """
    Makes the gradient steps of R runs together.

    Everything that takes a few numbers per state (log-probs, loss, metrics, the check for non-finite values) is
    computed for all runs at once, and so are the networks if ``batch_networks``. Each run keeps its own generator,
    which draws its counterfactuals, and its own Adam, which steps its weights.

    :param models: Models that :func:`~sb3_prefine.population.compatibility.check_compatible` accepts, (R,).
    :param guard: Checks the R runs for non-finite values.
    :param batch_networks: Whether the networks are computed as one batched network; see :func:`should_batch_networks`.
    """

    def __init__(self, models: Sequence[PREFINE], guard: FiniteGuard, batch_networks: bool) -> None:
        self.models = models
        self.guard = guard
        self.metrics = MetricMeans()
        self._batch_networks = batch_networks
        weights = [_trained_weights(model) for model in models]
        # Gradients of each weight for all runs, (R, …): one operation measures or clips those of all runs.
        self._gradients = [
            torch.stack([torch.zeros_like(weight) for weight in row]) for row in zip(*weights, strict=True)
        ]
        for run, row in enumerate(weights):
            for weight, gradient in zip(row, self._gradients, strict=True):
                weight.grad = gradient[run]
        self._policies = Networks([m.policy for m in models], [m.likelihood for m in models])
        self._references = self._policies
        frozen = [model.policy_ref for model in models if model.policy_ref is not None]
        if frozen:
            self._references = Networks(frozen, [m.likelihood_ref for m in models])
        if batch_networks:
            self._policies.batch(weights[0], self._gradients)
            if frozen:
                self._references.batch([], [])
        self._device_values: dict[str, tuple[list[float], Tensor]] = {}

    def train(self, batch: Batch) -> None:
        """
        Make one gradient step of every run, as :meth:`PREFINE.train <sb3_prefine.prefine.PREFINE.train>` does.

        :param batch: A batch of each run: all tensors are (R, B, …), except ``sets.is_preferred``, which is (B,).
        """
        for gradient in self._gradients:
            gradient.zero_()
        self._policies.copy_trained_weights()
        params = self._policies.params(batch.inputs)
        rows = zip(self.models, batch.actions, params, batch.params_ref, strict=True)
        sampled = [model.with_counterfactuals(data, p, ref, model.generator) for model, data, p, ref in rows]
        actions = torch.stack(sampled, dim=1)
        with torch.no_grad():
            logp_ref = self._references.log_prob(batch.params_ref, actions)
        logp = self._policies.log_prob(params, actions)
        losses, metrics = self._losses(logp, logp_ref, batch)
        # A run's loss depends on its own weights only, so that the gradient of the sum is the gradient of each loss.
        losses.sum().backward()
        self._descend(losses.detach(), metrics)

    def select_runs(self, runs: Sequence[int]) -> "BatchedUpdate":
        """
        Continue with some of the runs.

        :param runs: Positions of these runs.
        :return: The update of these runs, which replaces this one.
        """
        self.distribute_metrics()
        self.clear_gradients()
        self.guard.select_runs(runs)
        return BatchedUpdate([self.models[run] for run in runs], self.guard, self._batch_networks)

    def distribute_metrics(self) -> None:
        """Add the metrics of each run to those of its model, which logs them."""
        self.metrics.distribute([model.metrics for model in self.models])

    def clear_gradients(self) -> None:
        """Detach the models' weights from the shared gradients."""
        for model in self.models:
            model.optimizer.zero_grad()

    def _losses(self, logp: Tensor, logp_ref: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Compute the losses and metrics of all runs.

        :param logp: Log-probs log π_θ of the data's actions and K counterfactuals, (1 + K, R, B).
        :param logp_ref: Log-probs log π_ref of the same actions, (1 + K, R, B).
        :param batch: A batch of each run.
        :return: The losses (R,), and the metrics, (R,) each.
        """
        first = self.models[0]
        coefficients = ["beta", "sft_coef", *([] if first.log_ratio_bound is None else ["log_ratio_bound"])]
        by_run = {name: self._on_device(name, [getattr(model, name) for model in self.models]) for name in coefficients}
        for name, rows in (("weights", batch.sets.weights), ("labels", batch.labels)):
            if rows is not None:
                by_run[name] = rows

        def loss(logp: Tensor, logp_ref: Tensor, by_run: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            return prefine_loss(
                logp[0],
                logp_ref[0],
                logp[1:],
                logp_ref[1:],
                batch.sets.is_preferred,
                loss_type=first.loss_type,
                label_smoothing=first.label_smoothing,
                lengths=batch.actions.shape[-1],
                **by_run,
            )

        return torch.vmap(loss, in_dims=(1, 1, 0))(logp, logp_ref, by_run)

    def _descend(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        """Step every run's optimizer. After a non-finite loss or gradient, every later step of that run is skipped."""
        norms_of_weights = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in self._gradients]
        norms = torch.linalg.vector_norm(torch.stack(norms_of_weights), dim=0)
        bounds = [torch.inf if model.max_grad_norm is None else model.max_grad_norm for model in self.models]
        if min(bounds) < torch.inf:
            # As torch.nn.utils.clip_grad_norm_ does for one run.
            factors = (self._on_device("max_grad_norm", bounds) / (norms + 1e-6)).clamp(max=1.0)
            for gradient in self._gradients:
                gradient.mul_(factors.view(-1, *(1,) * (gradient.dim() - 1)))
        for model, found_inf in zip(self.models, self.guard.check(losses + norms), strict=True):
            adam_step(model.optimizer, found_inf)
        self.metrics.add({**metrics, "train/grad_norm": norms})

    def _on_device(self, name: str, values: list[float]) -> Tensor:
        """Copy a hyperparameter of all runs to the device, (R,), unless it has not changed since the last update."""
        if name not in self._device_values or self._device_values[name][0] != values:
            tensor = torch.tensor(values, dtype=torch.float32, device=self._gradients[0].device)
            self._device_values[name] = (values, tensor)
        return self._device_values[name][1]


def should_batch_networks(model: PREFINE) -> bool:
    """
    Decide whether the networks of runs like this one should be computed as one batched network.

    On the CPU, networks are faster one after the other, because the results of each stay in the cache. A custom module
    may contain operations that ``torch.vmap`` cannot batch.

    :param model: A model of the population.
    :return: True for known policies on CUDA.
    """
    is_known = not isinstance(model.policy, HasLikelihood) or isinstance(model.policy, CVAEPolicy)
    return model.device.type == "cuda" and is_known


def _trained_weights(model: PREFINE) -> list[nn.Parameter]:
    return model.optimizer.param_groups[0]["params"]
