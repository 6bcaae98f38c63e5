"""What training keeps on the device until somebody asks: running means of its metrics, and whether all was finite."""

import torch
from torch import Tensor


class MetricMeans:
    """Means of scalars over the updates since they were last asked for; adding does not wait for the device."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | float = 0.0
        self._count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """:param metrics: scalars, under the same names every time"""
        self._names = list(metrics)
        self._sums = self._sums + torch.stack(list(metrics.values()))
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, which then start anew; empty if nothing was added."""
        means = [] if isinstance(self._sums, float) else (self._sums / self._count).tolist()
        names = self._names
        self.__init__()  # type: ignore[misc]
        return dict(zip(names, means, strict=True))


class FiniteGuard:
    """
    Stops updates at the first value that is not finite, on the device; the host asks later.

    :param device: where the values are
    """

    def __init__(self, device: torch.device) -> None:
        self._stopped = torch.zeros((), dtype=torch.bool, device=device)
        self._good_updates = torch.zeros((), dtype=torch.int64, device=device)

    def check(self, value: Tensor) -> Tensor:
        """
        :param value: a scalar
        :return: 0.0 while every value was finite, 1.0 ever after: what torch's fused optimizers take as ``found_inf``,
            at which they leave weights and moments alone
        """
        self._stopped |= ~torch.isfinite(value)
        self._good_updates += ~self._stopped
        return self._stopped.float()

    def raise_if_stopped(self) -> None:
        """
        Ask the device.

        :raises FloatingPointError: a value was not finite
        """
        if self._stopped:
            raise FloatingPointError(
                f"The loss or its gradient was not finite in update {int(self._good_updates) + 1} of this call of "
                "learn. No update was made from there on: the policy holds the last good weights. Lower learning_rate "
                "or beta, or set max_grad_norm."
            )
