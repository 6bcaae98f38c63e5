"""Whether data fit the policy that is to learn from them."""

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from sb3_prefine.columns import Observations
from sb3_prefine.trajectories import Trajectories

SUPPORTED_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
BOUNDS_TOLERANCE = 1e-6


def check_fit(
    name: str, trajectories: Trajectories, observation_space: spaces.Space, action_space: spaces.Space
) -> None:
    """
    Refuse data that are not of a policy's spaces.

    :param name: what to call the data in errors
    :param observation_space: the policy's own, behind all wrappers
    :param action_space: the policy's own
    :raises TypeError: for spaces other than Box, Discrete, MultiDiscrete and MultiBinary, and Dict of them for
        observations
    :raises ValueError: if shapes differ, Box actions are out of bounds by more than 1e-6, discrete observations or
        actions are not whole numbers of the space, or an action was taken that its mask forbids
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
        _check_allowed(name, trajectories.actions, trajectories.action_masks, action_space)


def _check_observations(name: str, found: Observations, space: spaces.Space) -> None:
    if not isinstance(space, spaces.Dict):
        if isinstance(found, Mapping):
            raise ValueError(f"{name} are a dict of {', '.join(found)}, the policy expects one array of {space.shape}.")
        _check_column(name, found, space)
        return
    if not isinstance(found, Mapping) or set(found) != set(space.spaces):
        parts = ", ".join(found) if isinstance(found, Mapping) else "one array"
        raise ValueError(f"{name} are {parts}, the policy expects a dict of {', '.join(space.spaces)}.")
    for key, part in space.spaces.items():
        _check_column(f"{name}[{key!r}]", found[key], part)


def _check_column(name: str, column: np.ndarray, space: spaces.Space) -> None:
    """Refuse a column whose rows are not of the space's shape, or not its kind of numbers."""
    found, expected = column.shape[1:], space.shape
    if found != expected:
        raise ValueError(f"{name} have shape {found}, the policy expects {expected}. {_shape_hint(found, expected)}")
    if isinstance(space, spaces.Box):
        if np.issubdtype(space.dtype, np.integer) and column.dtype.kind == "f":
            raise ValueError(f"{name} are {column.dtype}, the policy expects {space.dtype}. Give them unscaled.")
        return
    if column.dtype.kind == "f":
        raise ValueError(f"{name} are {column.dtype}, but {space} holds whole numbers. Convert them to integers.")
    low, high = _whole_number_range(space)
    outside = ((column < low) | (column > high)).reshape(len(column), -1).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{name}: {outside.sum()} of {len(column)} rows are not in {space} (first: row {row}, {column[row]}). "
            "Record them in the environment that the policy is for."
        )


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...] | None) -> str:
    if expected is not None and len(found) == len(expected) == 1 and abs(found[0] - expected[0]) == 1:
        return (
            "A TimeFeatureWrapper adds one: collect the data with collect(reference, env), which applies the "
            "reference's wrappers."
        )
    if expected == () and found == (1,):
        return "Give one number for each transition, (N,): array[:, 0]."
    if len(found) == 3 and found[-1:] + found[:-1] == expected:
        return "SB3 policies take images channel-first: np.moveaxis(images, -1, 1)."
    return "Record them in the environment that the policy is for, behind the same wrappers."


def _whole_number_range(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest number of a discrete space, for each entry."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return np.asarray(0), np.asarray(1)  # MultiBinary


def _check_bounds(name: str, actions: np.ndarray, space: spaces.Box) -> None:
    # The bounds as the float32 numbers that the actions were stored in, so that rounding puts none outside.
    low, high = (bound.astype(np.float32).astype(np.float64) for bound in (space.low, space.high))
    excess = np.maximum(low - actions, actions - high)
    if not (excess > BOUNDS_TOLERANCE).any():
        return
    n_outside = (excess > BOUNDS_TOLERANCE).reshape(len(actions), -1).any(axis=1).sum()
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    raise ValueError(
        f"{name}: {n_outside} of {len(actions)} rows lie outside the action space by more than {BOUNDS_TOLERANCE:g} "
        f"(worst: row {worst[0]}, {float(actions[worst]):g}, where the bounds are {low[worst[1:]]:g} and "
        f"{high[worst[1:]]:g}). Clip them if the environment did (np.clip(actions, low, high)), or rescale them."
    )


def _check_allowed(name: str, actions: np.ndarray, masks: np.ndarray, space: spaces.Space) -> None:
    """Refuse masks of another length than the options of the actions, and actions that a mask forbids."""
    if isinstance(space, spaces.Box):
        raise ValueError(f"{name}: action_masks were given, but the actions are continuous. Leave them out.")
    low, high = _whole_number_range(space)
    sizes = np.broadcast_to(high - low + 1, space.shape or ()).reshape(-1)
    if masks.shape[1] != sizes.sum():
        raise ValueError(
            f"{name}: action_masks have {masks.shape[1]} flags a row, {space} has {sizes.sum()} options. Give one for "
            "each option of each choice."
        )
    options = (actions - low).reshape(len(actions), -1) + np.cumsum([0, *sizes[:-1]])
    forbidden = ~np.take_along_axis(masks, options, axis=1).all(axis=1)
    if forbidden.any():
        row = int(np.argmax(forbidden))
        raise ValueError(
            f"{name}: {forbidden.sum()} of {len(actions)} actions were forbidden by their own mask (first: row {row}, "
            f"action {actions[row]}). Masks and actions are shifted against each other, or of different environments."
        )
