"""Fused Adam steps that stop at the first non-finite loss or gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class FiniteGuard:
    """
    Skip all updates from the first non-finite value on, without waiting for the device at every update.

    The device remembers whether a value was not finite. The host asks for it at intervals (``errors``).

    :param device: Device of the values.
    :param shape: Shape of a value: () for one run; (R,) for R runs, each of which stops independently.
    """

    def __init__(self, device: torch.device, shape: tuple[int, ...] = ()) -> None:
        # 0 while every value was finite, then NaN.
        self._sum = torch.zeros(shape, device=device)
        self._n_skipped = torch.zeros(shape, device=device)
        self._n_updates = 0

    def check(self, value: Tensor) -> Tensor:
        """
        Check the last value of an update.

        :param value: A scalar for each run.
        :return: 0.0 while every value was finite, then 1.0. Torch's fused optimizers take this as ``found_inf`` and
            change neither weights nor moments if it is 1.0.
        """
        stopped = self.check_part(value)
        self._n_skipped += stopped
        self._n_updates += 1
        return stopped

    def check_part(self, value: Tensor) -> Tensor:
        """
        Check a value of an update that will check further values.

        :param value: A scalar for each run.
        :return: As for ``check``.
        """
        self._sum += value - value
        return self.stopped

    @property
    def stopped(self) -> Tensor:
        """0.0 while every value was finite, then 1.0."""
        return (self._sum != 0).to(self._sum.dtype)

    def errors(self) -> list[FloatingPointError | None]:
        """
        Ask the device whether a value was not finite.

        :return: An error for each run that was stopped, None for the others.
        """
        return [
            _not_finite(self._n_updates - int(n_skipped) + 1) if n_skipped else None
            for n_skipped in self._n_skipped.view(-1).tolist()
        ]

    def error(self) -> FloatingPointError | None:
        """
        Ask the device whether a value of the only run was not finite.

        :return: An error if the run was stopped, otherwise None.
        """
        [error] = self.errors()
        return error

    def select_runs(self, runs: Sequence[int]) -> None:
        """
        Continue with some of the R runs.

        :param runs: Positions of these runs.
        """
        self._sum, self._n_skipped = self._sum[list(runs)], self._n_skipped[list(runs)]


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
    Step all optimizers on one loss. After a non-finite loss or gradient, every later step is skipped.

    :param optimizers: Fused optimizers with one parameter group each.
    :param loss: Scalar loss: the sum of the losses of all optimizers.
    :param check: Method of :class:`FiniteGuard`: ``check``, or ``check_part`` if the same update makes further steps.
    :param max_grad_norm: Bound of the gradient norm of each optimizer, or None for no clipping.
    :return: The gradient norm of each optimizer before clipping.
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
    Make the step of ``optimizer.step()`` in half the time, most of which is bookkeeping for a small network.

    :param optimizer: A fused optimizer with one parameter group.
    :param found_inf: 0.0, or 1.0 to leave weights and moments unchanged.
    """
    [group] = optimizer.param_groups
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    states = [optimizer.state[parameter] for parameter in parameters]
    if not all(states):
        # Torch's own first step creates the states.
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        optimizer.step()
        return
    # Older versions of torch do not have this argument.
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
    """
    Clip the gradient.

    :return: The norm of the gradient before clipping.
    """
    # This is three times as fast as torch.nn.utils.get_total_norm.
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
    grad_norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    return grad_norm
