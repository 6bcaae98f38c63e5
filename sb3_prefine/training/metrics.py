"""Running means of metrics, which stay on the device until they are logged."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Bound of the numbers that wait to be computed together: 2 MB in float32.
_MAX_DEFERRED_NUMBERS = 500_000


class MetricMeans:
    """Means of scalar metrics over the updates since the last log. Adding does not wait for the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything that was added."""
        self._names: list[str] = []
        self._sums: Tensor | float = 0.0
        self._n_updates = 0
        self._compute: tuple[Callable[..., dict[str, Tensor]], object] | None = None
        self._deferred: list[Sequence[Tensor | None]] = []
        self._max_deferred = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """
        Add the metrics of one update.

        :param metrics: Scalars, or tensors (R,) for R runs, with the same names at every update.
        """
        self._names = list(metrics)
        self._sums = self._sums + torch.stack(list(metrics.values()))
        self._n_updates += 1

    def defer(
        self, compute: Callable[..., dict[str, Tensor]], settings: object, tensors: Sequence[Tensor | None]
    ) -> None:
        """
        Add ``compute(settings, *tensors)`` later, together with that of other updates.

        Metrics are many small operations. Computed for a hundred updates at once, they cost about as much as for one.

        :param compute: Function from tensors to scalar metrics, which ``torch.vmap`` can batch.
        :param settings: First argument of ``compute``. Updates with equal settings are computed together.
        :param tensors: Other arguments of ``compute``, without gradients and with the same shapes at every update.
        """
        if self._compute != (compute, settings) or len(self._deferred) >= self._max_deferred:
            self._compute_deferred()
            self._compute = (compute, settings)
            self._max_deferred = _MAX_DEFERRED_NUMBERS // sum(t.numel() for t in tensors if t is not None)
        self._deferred.append(tensors)

    def pop(self) -> dict[str, float]:
        """
        Return the means and reset.

        :return: Mean of each metric by its name; empty if nothing was added.
        """
        self._compute_deferred()
        means = [] if isinstance(self._sums, float) else (self._sums / self._n_updates).tolist()
        named = dict(zip(self._names, means, strict=True))
        self.reset()
        return named

    def distribute(self, runs: Sequence["MetricMeans"]) -> None:
        """
        Add the metrics of R runs to the means of each run, and reset.

        :param runs: Means of each run, (R,).
        """
        for run in runs:
            run._compute_deferred()
        if isinstance(self._sums, Tensor):
            # Copying all at once waits for the device once, not once for each run.
            for run, sums in zip(runs, self._sums.T.cpu(), strict=True):
                run._names, run._sums = self._names, run._sums + sums
                run._n_updates += self._n_updates
        self.reset()

    @torch.no_grad()
    def _compute_deferred(self) -> None:
        if self._compute is None or not self._deferred:
            return
        compute, settings = self._compute
        arguments: list[Any] = []
        dims: list[int | None] = []
        for column in zip(*self._deferred, strict=True):
            is_shared = all(tensor is column[0] for tensor in column)
            arguments.append(column[0] if is_shared else torch.stack(column))
            dims.append(None if is_shared else 0)
        n_updates = len(self._deferred)
        self._deferred = []
        if all(dim is None for dim in dims):
            metrics = compute(settings, *arguments)
        else:
            metrics = torch.vmap(compute, (None, *dims))(settings, *arguments)
        self._names = list(metrics)
        means = torch.stack([values.mean() for values in metrics.values()])
        self._sums = self._sums + n_updates * means
        self._n_updates += n_updates
