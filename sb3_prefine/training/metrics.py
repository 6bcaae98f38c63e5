"""Running means of metrics, which stay on the device until they are asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Numbers that wait until the metrics of many updates are computed together: 2 MB.
_MOST_WAITING = 500_000


class MetricMeans:
    """Means of scalars over the updates since they were last asked for; adding does not wait for the device."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | float = 0.0
        self._count = 0
        self._compute: tuple[Callable[..., dict[str, Tensor]], object] | None = None
        self._waiting: list[Sequence[Tensor | None]] = []
        self._room = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """:param metrics: scalars, or (R,) those of R runs, under the same names every time"""
        self._names = list(metrics)
        self._sums = self._sums + torch.stack(list(metrics.values()))
        self._count += 1

    def add_later(
        self, compute: Callable[..., dict[str, Tensor]], settings: object, tensors: Sequence[Tensor | None]
    ) -> None:
        """
        ``add(compute(settings, *tensors))``, put off: what is many small operations for each update is as many larger
        ones for a hundred of them.

        :param compute: of tensors to scalars; ``torch.vmap`` can batch it
        :param settings: its first argument, compared by value
        :param tensors: of the same shapes every time, without gradient
        """
        if self._compute != (compute, settings) or len(self._waiting) >= self._room:
            self._add_waiting()
            self._compute = (compute, settings)
            self._room = _MOST_WAITING // sum(tensor.numel() for tensor in tensors if tensor is not None)
        self._waiting.append(tensors)

    def take(self) -> dict[str, float]:
        """The means, which then start anew; empty if nothing was added."""
        self._add_waiting()
        means = [] if isinstance(self._sums, float) else (self._sums / self._count).tolist()
        names = self._names
        self.__init__()  # type: ignore[misc]
        return dict(zip(names, means, strict=True))

    def hand_out(self, runs: Sequence["MetricMeans"]) -> None:
        """
        Add what was added of R runs to each run's own, and start anew.

        :param runs: (R,), to take the means from
        """
        for run in runs:
            run._add_waiting()
        if isinstance(self._sums, Tensor):
            # One wait for the device, not one a run.
            for run, sums in zip(runs, self._sums.T.cpu(), strict=True):
                run._names, run._sums, run._count = self._names, run._sums + sums, run._count + self._count
        self.__init__()  # type: ignore[misc]

    @torch.no_grad()
    def _add_waiting(self) -> None:
        if self._compute is None or not self._waiting:
            return
        compute, settings = self._compute
        columns: list[Any] = []
        dims: list[int | None] = []
        for column in zip(*self._waiting, strict=True):
            is_shared = all(tensor is column[0] for tensor in column)
            columns.append(column[0] if is_shared else torch.stack(column))
            dims.append(None if is_shared else 0)
        count = len(self._waiting)
        self._waiting = []
        if all(dim is None for dim in dims):
            metrics = compute(settings, *columns)
        else:
            metrics = torch.vmap(compute, (None, *dims))(settings, *columns)
        self._names = list(metrics)
        means = torch.stack([values.mean() for values in metrics.values()])
        self._sums = self._sums + count * means
        self._count += count
