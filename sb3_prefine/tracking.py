"""What training keeps on the device until somebody asks: running means of its metrics, and whether all was finite."""

from collections.abc import Sequence

import torch
from torch import Tensor


class MetricMeans:
    """Means of scalars over the updates since they were last asked for; adding does not wait for the device."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | float = 0.0
        self._count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """:param metrics: scalars, or (R,) those of R runs, under the same names every time"""
        self._names = list(metrics)
        self._sums = self._sums + torch.stack(list(metrics.values()))
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, which then start anew; empty if nothing was added."""
        means = [] if isinstance(self._sums, float) else (self._sums / self._count).tolist()
        names = self._names
        self.__init__()  # type: ignore[misc]
        return dict(zip(names, means, strict=True))

    def hand_out(self, runs: Sequence["MetricMeans"]) -> None:
        """
        Add what was added of R runs to each run's own, and start anew.

        :param runs: (R,), to take the means from
        """
        if isinstance(self._sums, Tensor):
            # One wait for the device, not one a run.
            for run, sums in zip(runs, self._sums.T.cpu(), strict=True):
                run._names, run._sums, run._count = self._names, run._sums + sums, run._count + self._count
        self.__init__()  # type: ignore[misc]


class FiniteGuard:
    """
    Stops updates at the first value that is not finite, on the device; the host asks later.

    :param device: where the values are
    :param shape: of the values: () of one run, (R,) of R runs, each of which stops by itself
    """

    def __init__(self, device: torch.device, shape: tuple[int, ...] = ()) -> None:
        self._stopped = torch.zeros(shape, dtype=torch.bool, device=device)
        self._good_updates = torch.zeros(shape, dtype=torch.int64, device=device)

    def check(self, value: Tensor) -> Tensor:
        """
        :param value: a scalar a run
        :return: 0.0 while every value was finite, 1.0 ever after: what torch's fused optimizers take as ``found_inf``,
            at which they leave weights and moments alone
        """
        self._stopped |= ~torch.isfinite(value)
        self._good_updates += ~self._stopped
        return self._stopped.float()

    def errors(self) -> list[FloatingPointError | None]:
        """
        Ask the device.

        :return: for each run, the error if a value was not finite
        """
        stopped, good_updates = torch.stack((self._stopped, self._good_updates)).reshape(2, -1).tolist()
        return [_not_finite(good + 1) if bad else None for bad, good in zip(stopped, good_updates, strict=True)]

    def raise_if_stopped(self) -> None:
        """
        Ask the device, about one run.

        :raises FloatingPointError: a value was not finite
        """
        [error] = self.errors()
        if error is not None:
            raise error

    def keep(self, runs: Sequence[int]) -> None:
        """Watch these of the R runs from now on."""
        self._stopped, self._good_updates = self._stopped[list(runs)], self._good_updates[list(runs)]


def _not_finite(update: int) -> FloatingPointError:
    return FloatingPointError(
        f"The loss or its gradient was not finite in update {update} of this call of learn. No update was made from "
        "there on: the policy holds the last good weights. Lower learning_rate or beta, or set max_grad_norm."
    )
