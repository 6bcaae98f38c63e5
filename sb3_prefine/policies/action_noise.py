"""Pseudo-random numbers that are a function of actions, so that two networks can score them with the same noise."""

import torch
from torch import Tensor


def uniform_from_actions(actions: Tensor, dim: int) -> Tensor:
    """
    Compute pseudo-random numbers from actions.

    Each number depends on every bit of the actions, on those of its own row and on those of the whole batch. A random
    generator instead would have a state that policy and reference must share, and a seed that the host must fetch.

    :param actions: Actions (…, B, A).
    :param dim: Number of values for each action.
    :return: Numbers in [0, 1), (…, B, dim).
    """
    n_actions = actions.shape[-1]
    # Odd multipliers lose no bit modulo 2^64. These are odd multiples of the multiplier of Knuth's generator MMIX.
    factors = torch.arange(1, 2 * dim * n_actions, 2, device=actions.device).view(dim, n_actions) * 6364136223846793005
    bits = actions.detach().float().contiguous().view(torch.int32).long()
    hashed = _mix_bits((bits.unsqueeze(-2) * factors).sum(dim=-1))
    hashed = _mix_bits(hashed + hashed.flatten(0, -2).sum(dim=0))
    # The low bits, because torch's right shift copies the sign into the high ones.
    return (hashed & 0xFFFFFF).float() / 2**24


def _mix_bits(bits: Tensor) -> Tensor:
    """Spread every bit over all 64: the output function of SplitMix64 (Steele et al. 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> 31)
