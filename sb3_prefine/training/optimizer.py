"""Fused Adam steps that stop at the first loss or gradient that is not finite."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class FiniteGuard:
    """
    Stops updates at the first value that is not finite, on the device; the host asks later.

    :param device: where the values are
    :param shape: of the values: () of one run, (R,) of R runs, each of which stops by itself
    """

    def __init__(self, device: torch.device, shape: tuple[int, ...] = ()) -> None:
        # 0, and NaN ever after a value that was not finite.
        self._sum = torch.zeros(shape, device=device)
        self._bad_updates = torch.zeros(shape, device=device)
        self._updates = 0

    def check(self, value: Tensor) -> Tensor:
        """
        :param value: a scalar a run, the last one of an update
        :return: 0.0 while every value was finite, 1.0 ever after: what torch's fused optimizers take as ``found_inf``,
            at which they leave weights and moments alone
        """
        stopped = self.check_part(value)
        self._bad_updates += stopped
        self._updates += 1
        return stopped

    def check_part(self, value: Tensor) -> Tensor:
        """
        ``check``, of an update whose last value is still to come.

        :param value: a scalar a run
        """
        self._sum += value - value
        return self.stopped

    @property
    def stopped(self) -> Tensor:
        """What ``check`` returned last."""
        return (self._sum != 0).to(self._sum.dtype)

    def errors(self) -> list[FloatingPointError | None]:
        """
        Ask the device.

        :return: for each run, the error if a value was not finite
        """
        return [
            _not_finite(self._updates - int(bad) + 1) if bad else None for bad in self._bad_updates.view(-1).tolist()
        ]

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
        self._sum, self._bad_updates = self._sum[list(runs)], self._bad_updates[list(runs)]


def _not_finite(update: int) -> FloatingPointError:
    return FloatingPointError(
        f"The loss or its gradient was not finite in update {update} of this call of learn. No update was made from "
        "there on: the policy holds the last good weights. Lower learning_rate or beta, or set max_grad_norm."
    )


def descend(
    optimizers: Sequence[torch.optim.Adam],
    loss: Tensor,
    check: Callable[[Tensor], Tensor],
    max_grad_norm: float | None,
) -> list[Tensor]:
    """
    One step of each optimizer down one loss; none of any ever after a loss or gradient that is not finite.

    :param optimizers: fused, with one group of parameters each
    :param loss: a scalar: the sum of what each of them is to lower
    :param check: of :class:`FiniteGuard`: its ``check``, or its ``check_part`` where another step
        of the same update is to come
    :param max_grad_norm: clip the gradient's norm at this value, that of each optimizer by itself; None does not clip
    :return: for each optimizer the norm of its gradient, before it is clipped
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    norms = [_clip(optimizer.param_groups[0]["params"], max_grad_norm) for optimizer in optimizers]
    found_inf = check(sum(norms, start=loss.detach()))
    for optimizer in optimizers:
        adam_step(optimizer, found_inf)
    return norms


@torch.no_grad()
def adam_step(optimizer: torch.optim.Adam, found_inf: Tensor) -> None:
    """
    One step as ``optimizer.step()`` makes it, in half the time: for a small network most of that is bookkeeping.

    :param optimizer: fused, with one group of parameters
    :param found_inf: 0.0, or 1.0 to leave weights and moments as they are
    """
    [group] = optimizer.param_groups
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    states = [optimizer.state[parameter] for parameter in parameters]
    if not all(states):
        # The first step makes them.
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        optimizer.step()
        return
    # Older versions of torch do not know it.
    decoupled: dict[str, Any] = {"decoupled_weight_decay": True} if group.get("decoupled_weight_decay") else {}
    adam(
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        fused=True,
        found_inf=found_inf,
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
        **decoupled,
    )


def _clip(parameters: Sequence[Tensor], max_grad_norm: float | None) -> Tensor:
    """The norm of the gradient, before it is clipped."""
    # torch.nn.utils.get_total_norm, three times as fast.
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
    grad_norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    return grad_norm
