"""One update of many runs at once: their networks, their losses, their steps of Adam."""

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_prefine.objective import prefine_loss
from sb3_prefine.policies.base import Inputs, Likelihood, MaskedInputs
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.prefine import PREFINE
from sb3_prefine.training.metrics import MetricMeans
from sb3_prefine.training.optimizer import FiniteGuard, adam_step
from sb3_prefine.training.transition_tables import Batch
from sb3_prefine.utils.observations import map_arrays


class BatchedUpdate:
    """
    R runs that make their updates together.

    Whatever is a few numbers a state (log-probs, the loss, the metrics, the guard) is computed for all runs at once,
    and the networks too where ``batched`` says so. Each run's own generator draws its counterfactuals, and its own Adam
    steps its weights.

    :param models: (R,), as :func:`~sb3_prefine.population.compatibility.check_compatible` demands them
    :param guard: of these runs
    :param batched: whether the networks are one batched network, see :func:`should_batch_networks`
    """

    def __init__(self, models: Sequence[PREFINE], guard: FiniteGuard, batched: bool) -> None:
        self.models = models
        self.guard = guard
        self.metrics = MetricMeans()
        self._batched = batched
        weights = [_trained_weights(model) for model in models]
        # (R, …) of every weight, so that they are measured and clipped for all runs at once.
        self._gradients = [
            torch.stack([torch.zeros_like(weight) for weight in row]) for row in zip(*weights, strict=True)
        ]
        for run, row in enumerate(weights):
            for weight, gradient in zip(row, self._gradients, strict=True):
                weight.grad = gradient[run]
        self._policies = _Networks([m.policy for m in models], [m._likelihood for m in models])
        self._references = self._policies
        frozen = [model._policy_ref for model in models if model._policy_ref is not None]
        if frozen:
            self._references = _Networks(frozen, [m._likelihood_ref for m in models])
        if batched:
            self._policies.batch(weights[0], self._gradients)
            if frozen:
                self._references.batch([], [])
        self._columns: dict[str, tuple[list[float], Tensor]] = {}

    def train(self, batch: Batch) -> None:
        """
        One update of every run, each as :meth:`PREFINE.train` makes it.

        :param batch: (R, B, …) of everything but ``sets.is_preferred``, which is (B,)
        """
        for gradient in self._gradients:
            gradient.zero_()
        self._policies.take_weights()
        params = self._policies.params(batch.inputs)
        rows = zip(self.models, batch.actions, params, batch.params_ref, strict=True)
        drawn = [model._with_counterfactuals(data, p, ref, model._generator) for model, data, p, ref in rows]
        actions = torch.stack(drawn, dim=1)
        with torch.no_grad():
            logp_ref = self._references.log_prob(batch.params_ref, actions)
        logp = self._policies.log_prob(params, actions)
        losses, metrics = self._losses(logp, logp_ref, batch)
        # No run's loss depends on the weights of another: the gradient of the sum is that of each.
        losses.sum().backward()
        self._descend(losses.detach(), metrics)

    def keep(self, runs: Sequence[int]) -> "BatchedUpdate":
        """These of the runs, which go on without the others."""
        self.hand_out_metrics()
        self.release()
        self.guard.keep(runs)
        return BatchedUpdate([self.models[run] for run in runs], self.guard, self._batched)

    def hand_out_metrics(self) -> None:
        """Give each model its own, for its logs."""
        self.metrics.hand_out([model._metrics for model in self.models])

    def release(self) -> None:
        """Forget the gradients."""
        for model in self.models:
            model.optimizer.zero_grad()

    def _losses(self, logp: Tensor, logp_ref: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        :param logp: log-probs of the data's actions and K counterfactuals, (1 + K, R, B)
        :return: the losses (R,), and the metrics, (R,) each
        """
        first = self.models[0]
        coefficients = ["beta", "sft_coef", *([] if first.log_ratio_bound is None else ["log_ratio_bound"])]
        by_run = {name: self._column(name, [getattr(model, name) for model in self.models]) for name in coefficients}
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
        """One step of every run's optimizer; none ever after a loss or gradient of that run that is not finite."""
        norms_of_weights = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in self._gradients]
        norms = torch.linalg.vector_norm(torch.stack(norms_of_weights), dim=0)
        bounds = [torch.inf if model.max_grad_norm is None else model.max_grad_norm for model in self.models]
        if min(bounds) < torch.inf:
            # What torch.nn.utils.clip_grad_norm_ does to the gradients of one.
            factors = (self._column("max_grad_norm", bounds) / (norms + 1e-6)).clamp(max=1.0)
            for gradient in self._gradients:
                gradient.mul_(factors.view(-1, *(1,) * (gradient.dim() - 1)))
        for model, found_inf in zip(self.models, self.guard.check(losses + norms), strict=True):
            adam_step(model.optimizer, found_inf)
        self.metrics.add({**metrics, "train/grad_norm": norms})

    def _column(self, name: str, values: list[float]) -> Tensor:
        """A hyperparameter of every run on the device, (R,): sent there anew when a callback has changed it."""
        if name not in self._columns or self._columns[name][0] != values:
            self._columns[name] = (values, torch.tensor(values, dtype=torch.float32, device=self._gradients[0].device))
        return self._columns[name][1]


def should_batch_networks(model: PREFINE) -> bool:
    """
    Whether the networks of runs like this one should be one batched network.

    On the CPU it is faster to run them one after the other, where what one computes stays in the cache. A module of
    one's own may hold what ``torch.vmap`` cannot batch.
    """
    is_known = not isinstance(model.policy, HasLikelihood) or isinstance(model.policy, CVAEPolicy)
    return model.device.type == "cuda" and is_known


class _Networks:
    """
    The networks of R runs, of one architecture: they run one after the other, or, after ``batch``, as one.

    :param policies: (R,)
    :param likelihoods: theirs
    """

    def __init__(self, policies: Sequence[nn.Module], likelihoods: Sequence[Likelihood]) -> None:
        self._scorers = [_Scorer(*pair) for pair in zip(policies, likelihoods, strict=True)]
        self._likelihood = likelihoods[0]
        self._has_own_weights = isinstance(policies[0], HasLikelihood)
        # Of the batched network, (R, …) each, by name. What is not here is the same in all runs.
        self._weights: dict[str, Tensor] | None = None
        self._trained: list[tuple[Tensor, list[Tensor]]] = []

    def batch(self, trained: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """
        Make them one network, whose weights have a leading dimension.

        :param trained: the weights of the first that are trained
        :param gradients: where to add up theirs, (R, …) each
        """
        tensors = [{**dict(scorer.named_parameters()), **dict(scorer.named_buffers())} for scorer in self._scorers]
        positions = {id(weight): position for position, weight in enumerate(trained)}
        self._weights = {}
        for name, tensor in tensors[0].items():
            rows = [of_run[name].detach() for of_run in tensors]
            if id(tensor) in positions:
                weight = torch.empty_like(torch.stack(rows)).requires_grad_()
                weight.grad = gradients[positions[id(tensor)]]
                self._weights[name] = weight
                self._trained.append((weight.detach(), rows))
            elif not all(torch.equal(rows[0], row) for row in rows):
                self._weights[name] = torch.stack(rows)

    def take_weights(self) -> None:
        """Take over what the runs' own optimizers have made of the weights."""
        for stacked, rows in self._trained:
            torch.stack(rows, out=stacked)

    def params(self, inputs: Inputs) -> Tensor:
        """
        :param inputs: (R, B, …) of what the likelihood needs
        :return: parameters of the distributions, (R, B, P), with gradient
        """
        parts = (inputs.observations, inputs.action_masks) if isinstance(inputs, MaskedInputs) else (inputs,)
        return self._each("params", *parts)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """
        :param params: (R, B, P)
        :param actions: (K, R, B, A)
        :return: (K, R, B), nats
        """
        if self._has_own_weights:
            return self._each("log_prob", params, actions.transpose(0, 1)).transpose(0, 1)
        # Arithmetic on rows, whosesoever they are.
        flat = self._likelihood.log_prob(params.flatten(0, 1), actions.flatten(1, 2))
        return flat.unflatten(1, params.shape[:2])

    def _each(self, method: str, *inputs: Any) -> Tensor:
        """A method of every run's scorer, of inputs (R, …) or dicts of them, stacked: (R, …)."""
        if self._weights is None:
            return torch.stack(
                [scorer(method, *(_row(part, run) for part in inputs)) for run, scorer in enumerate(self._scorers)]
            )

        def score(weights: dict[str, Tensor], *inputs: Any) -> Tensor:
            # SB3's policies hold one features extractor under three names. With tie_weights torch would swap its
            # weights once for each name, and not get back to those that it had.
            return torch.func.functional_call(self._scorers[0], weights, (method, *inputs), tie_weights=False)

        return torch.vmap(score)(self._weights, *inputs)


class _Scorer(nn.Module):
    """A policy and its likelihood as one module, which ``functional_call`` can give other weights."""

    def __init__(self, policy: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.policy = policy
        self.likelihood = likelihood

    def forward(self, method: str, *inputs: Any) -> Tensor:
        return getattr(self, method)(*inputs)

    def params(self, observations: PyTorchObs, action_masks: Tensor | None = None) -> Tensor:
        inputs = observations if action_masks is None else MaskedInputs(observations, action_masks)
        return self.likelihood.params(self.policy, inputs)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return self.likelihood.log_prob(params, actions)


def _trained_weights(model: PREFINE) -> list[nn.Parameter]:
    return model.optimizer.param_groups[0]["params"]


def _row(inputs: PyTorchObs, run: int) -> PyTorchObs:
    """One run's, (R, …) -> (…)."""
    return map_arrays(lambda part: part[run], inputs)
