"""Whether data fit the policy that is to learn from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_prefine.data.columns import Observations
from sb3_prefine.data.memory_map import blocks, find_rows
from sb3_prefine.data.trajectories import Trajectories

SUPPORTED_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
BOUNDS_TOLERANCE = 1e-6
_RECORD = "Record them in the environment that the policy is for, behind the same wrappers."


def check_against_spaces(
    name: str,
    trajectories: Trajectories,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    takes_action_masks: bool,
) -> None:
    """
    Refuse data that are not of a policy's spaces.

    :param name: what to call the data in errors
    :param observation_space: the policy's own, behind all wrappers
    :param action_space: the policy's own
    :param takes_action_masks: whether the policy would read the data's action masks
    :raises TypeError: for spaces other than Box, Discrete, MultiDiscrete and MultiBinary, and Dict of them for
        observations
    :raises ValueError: if shapes differ, Box actions are out of bounds by more than 1e-6, integers are not of the
        space, an action was taken that its mask forbids, or there are masks that the policy would not read
    """
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for kind, space in (*(("observation", part) for part in parts), ("action", action_space)):
        if not isinstance(space, SUPPORTED_SPACES):
            also = " (or, for observations, a flat Dict of them)"
            raise TypeError(
                f"{kind}_space: {type(space).__name__} is not supported. The policy has to have a Box, Discrete, "
                f"MultiDiscrete or MultiBinary {kind} space{also if kind == 'observation' else ''}."
            )
    _check_observations(f"{name}: observations", trajectories.observations, observation_space)
    _check_observations(f"{name}: next_observations", trajectories.next_observations, observation_space)
    _check_column(f"{name}: actions", trajectories.actions, action_space)
    if isinstance(action_space, spaces.Box):
        _check_bounds(f"{name}: actions", trajectories.actions, action_space)
    if trajectories.action_masks is not None:
        if not takes_action_masks:
            raise ValueError(
                f"{name}: there are action_masks, and the policy takes none, so it would not keep to them. Leave them "
                "out (action_masks=None), or fine-tune a policy of MaskablePPO."
            )
        _check_allowed(name, trajectories.actions, trajectories.action_masks, action_space)


def _check_observations(name: str, found: Observations, space: spaces.Space) -> None:
    if not isinstance(space, spaces.Dict):
        if isinstance(found, Mapping):
            raise ValueError(
                f"{name} are a dict of {', '.join(found)}, the policy expects one array of {space.shape}. {_RECORD}"
            )
        if found.ndim == 2 and (space.shape or ()) in ((found.shape[1] - 1,), (found.shape[1] + 1,)):
            raise ValueError(
                f"{name} have shape {found.shape[1:]}, the policy expects {space.shape}. A TimeFeatureWrapper adds "
                "one: collect the data with collect(reference, env), which applies the reference's wrappers."
            )
        _check_column(name, found, space)
        return
    if not isinstance(found, Mapping) or set(found) != set(space.spaces):
        parts = f"a dict of {', '.join(found)}" if isinstance(found, Mapping) else "one array"
        raise ValueError(f"{name} are {parts}, the policy expects a dict of {', '.join(space.spaces)}. {_RECORD}")
    for key, part in space.spaces.items():
        _check_column(f"{name}[{key!r}]", found[key], part)


def _check_column(name: str, column: np.ndarray, space: spaces.Space) -> None:
    """Refuse a column whose rows are not of the space's shape, or not its kind of numbers."""
    found, expected = column.shape[1:], space.shape
    if found != expected:
        raise ValueError(f"{name} have shape {found}, the policy expects {expected}. {_shape_hint(found, expected)}")
    if column.dtype.kind == "f":
        if np.issubdtype(space.dtype, np.floating):
            return
        if isinstance(space, spaces.Box):
            raise ValueError(f"{name} are {column.dtype}, the policy expects {space.dtype}. Give them unscaled.")
        raise ValueError(f"{name} are {column.dtype}, but {space} holds whole numbers. Convert them to integers.")
    low, high = _range(space)
    if column.dtype.kind in "iu":
        info = np.iinfo(column.dtype)
        if (low <= info.min).all() and (info.max <= high).all():  # images of bytes: nothing to look through
            return

    def is_outside(block: np.ndarray) -> Any:
        return ((block < low) | (block > high)).reshape(len(block), -1)

    n_outside, row = find_rows(lambda block: is_outside(block).any(axis=1), column)
    if n_outside:
        entry = np.argmax(is_outside(column[row : row + 1]))
        value = f"{column[row]}" if column.ndim <= 2 else f"{column[row].flat[entry]} in it"
        raise ValueError(
            f"{name}: {n_outside} of {len(column)} rows are not in {space} (first: row {row}, {value}). "
            "Record them in the environment that the policy is for."
        )


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...] | None) -> str:
    if expected == () and found == (1,):
        return "Give one number for each transition, (N,): array[:, 0]."
    if len(found) == 3 and found[-1:] + found[:-1] == expected:
        return "SB3 policies take images channel-first: np.moveaxis(images, -1, 1)."
    return _RECORD


def _range(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest number of a space, for each entry."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return np.asarray(0), np.asarray(1)  # MultiBinary


def _check_bounds(name: str, actions: np.ndarray, space: spaces.Box) -> None:
    # The bounds as the float32 numbers that the actions were stored in, so that rounding puts none outside.
    low, high = (bound.astype(np.float32).astype(np.float64) for bound in (space.low, space.high))

    def excess(block: np.ndarray) -> Any:
        return np.maximum(low - block, block - high).reshape(len(block), -1)

    n_outside, _ = find_rows(lambda block: (excess(block) > BOUNDS_TOLERANCE).any(axis=1), actions)
    if not n_outside:
        return
    worst = max(blocks(actions), key=lambda rows: excess(actions[rows]).max())
    row = worst.start + int(np.argmax(excess(actions[worst]).max(axis=1)))
    entry = np.unravel_index(np.argmax(excess(actions[row : row + 1])), actions.shape[1:])
    raise ValueError(
        f"{name}: {n_outside} of {len(actions)} rows lie outside the action space by more than {BOUNDS_TOLERANCE:g} "
        f"(worst: row {row}, {float(actions[row][entry]):g}, where the bounds are {low[entry]:g} and {high[entry]:g}). "
        "Clip them if the environment did (np.clip(actions, low, high)), or rescale them."
    )


def _check_allowed(name: str, actions: np.ndarray, masks: np.ndarray, space: spaces.Space) -> None:
    """Refuse masks of another length than the options of the actions, and actions that a mask forbids."""
    low, high = _range(space)
    sizes = np.broadcast_to(high - low + 1, space.shape or ()).reshape(-1)
    if masks.shape[1] != sizes.sum():
        raise ValueError(
            f"{name}: action_masks have {masks.shape[1]} flags a row, {space} has {sizes.sum()} options. Give one for "
            "each option of each choice."
        )
    firsts = np.cumsum([0, *sizes[:-1]])

    def is_forbidden(chosen: np.ndarray, allowed: np.ndarray) -> Any:
        options = (chosen.astype(np.int64) - low).reshape(len(chosen), -1) + firsts
        return ~np.take_along_axis(allowed, options, axis=1).all(axis=1)

    n_forbidden, row = find_rows(is_forbidden, actions, masks)
    if n_forbidden:
        raise ValueError(
            f"{name}: {n_forbidden} of {len(actions)} actions were forbidden by their own mask (first: row {row}, "
            f"action {actions[row]}). Masks and actions are shifted against each other, or of different environments."
        )
