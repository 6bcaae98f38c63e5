"""Check the action masks that the caller of ``predict`` passes."""

from typing import Any

import numpy as np


def check_action_masks(action_masks: np.ndarray, policy: Any, takes_action_masks: bool) -> None:
    """
    Check that action masks fit a policy.

    :param action_masks: One flag for each option of each choice, (n_options,) or (B, n_options).
    :param policy: The policy that is to act.
    :param takes_action_masks: Whether this policy accepts masks.
    :raises ValueError: If the policy accepts no masks, or has another number of options.
    """
    if not takes_action_masks:
        raise ValueError(
            f"action_masks: {type(policy).__name__} takes none. Leave them out, or fine-tune a policy of MaskablePPO."
        )
    n_options, shape = policy.action_net.out_features, np.shape(action_masks)
    if shape[-1:] != (n_options,):
        raise ValueError(
            f"action_masks: the shape is {shape}, the policy has {n_options} options. Give a flag for each option "
            f"of each choice, ({n_options},) or (B, {n_options})."
        )
