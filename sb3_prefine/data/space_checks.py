"""Check that data match the observation and action spaces of a policy, before it is trained on them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_prefine.data.columns import Observations
from sb3_prefine.data.memory_map import find_rows, row_slices
from sb3_prefine.data.trajectories import Trajectories

SUPPORTED_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
# Actions may exceed their bounds by this much, because float32 rounds.
BOUNDS_TOLERANCE = 1e-6
_RECORD_AGAIN = "Record them in the environment that the policy is for, behind the same wrappers."


def check_against_spaces(
    name: str,
    trajectories: Trajectories,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    takes_action_masks: bool,
) -> None:
    """
    Check that a policy with these spaces can be trained on the data.

    :param name: The name of the data in messages.
    :param trajectories: The data.
    :param observation_space: The observation space of the policy, behind all wrappers.
    :param action_space: The action space of the policy.
    :param takes_action_masks: Whether the policy uses the data's action masks.
    :raises TypeError: If a space is not Box, Discrete, MultiDiscrete or MultiBinary (or a Dict of these, for
        observations).
    :raises ValueError: If shapes differ, Box actions exceed their bounds by more than 1e-6, integers are not in the
        space, a mask forbids the action that was taken, or the policy does not use the data's masks.
    """
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for kind, space in (*(("observation", part) for part in parts), ("action", action_space)):
        if not isinstance(space, SUPPORTED_SPACES):
            also = " (or, for observations, a flat Dict of them)"
            raise TypeError(
                f"{kind}_space: {type(space).__name__} is not supported. The policy has to have a Box, Discrete, "
                f"MultiDiscrete or MultiBinary {kind} space{also if kind == 'observation' else ''}."
            )
    _check_observations(name, "observations", trajectories.observations, observation_space)
    _check_observations(name, "next_observations", trajectories.next_observations, observation_space)
    _check_column(name, "actions", trajectories.actions, action_space)
    if isinstance(action_space, spaces.Box):
        _check_bounds(name, trajectories.actions, action_space)
    if trajectories.action_masks is not None:
        if not takes_action_masks:
            raise ValueError(
                f"{name}: there are action_masks, and the policy takes none, so it would ignore them. Leave them "
                "out (action_masks=None), or fine-tune a policy of MaskablePPO."
            )
        _check_allowed(name, trajectories.actions, trajectories.action_masks, action_space)


def _check_observations(name: str, column: str, found: Observations, space: spaces.Space) -> None:
    """Check that the parts of observations have the shapes and the numbers of the space."""
    if not isinstance(space, spaces.Dict):
        if isinstance(found, Mapping):
            raise ValueError(
                f"{name}: {column} are a dict of {', '.join(found)}, the policy expects one array of {space.shape}. "
                f"{_RECORD_AGAIN}"
            )
        if found.ndim == 2 and (space.shape or ()) in ((found.shape[1] - 1,), (found.shape[1] + 1,)):
            raise ValueError(
                f"{name}: {column} have shape {found.shape[1:]}, the policy expects {space.shape}. A "
                "TimeFeatureWrapper adds one: collect the data with collect(reference, env), which applies the "
                "reference's wrappers."
            )
        _check_column(name, column, found, space)
        return
    if not isinstance(found, Mapping) or set(found) != set(space.spaces):
        parts = f"a dict of {', '.join(found)}" if isinstance(found, Mapping) else "one array"
        raise ValueError(
            f"{name}: {column} are {parts}, the policy expects a dict of {', '.join(space.spaces)}. {_RECORD_AGAIN}"
        )
    for key, part in space.spaces.items():
        _check_column(name, f"{column}[{key!r}]", found[key], part)


def _check_column(name: str, column: str, values: np.ndarray, space: spaces.Space) -> None:
    """Check that the rows of a column have the shape of the space, and are numbers of it."""
    found, expected = values.shape[1:], space.shape
    if found != expected:
        hint = _shape_hint(found, expected)
        raise ValueError(f"{name}: {column} have shape {found}, the policy expects {expected}. {hint}")
    if values.dtype.kind == "f":
        if np.issubdtype(space.dtype, np.floating):
            return
        advice = "Give them unscaled." if isinstance(space, spaces.Box) else "Convert them to integers."
        raise ValueError(f"{name}: {column} are {values.dtype}, the policy expects {space.dtype}. {advice}")
    low, high = _range(space)
    if values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        if (low <= info.min).all() and (info.max <= high).all():
            return  # All values of the dtype are in the space, as for images of bytes.

    def is_outside(rows: np.ndarray) -> Any:
        return ((rows < low) | (rows > high)).reshape(len(rows), -1)

    n_outside, row = find_rows(lambda rows: is_outside(rows).any(axis=1), values)
    if n_outside:
        entry = np.argmax(is_outside(values[row : row + 1]))
        value = f"{values[row]}" if values.ndim <= 2 else f"{values[row].flat[entry]} in it"
        raise ValueError(
            f"{name}: {column}: {n_outside} of {len(values)} rows are not in {space} (first: row {row}, {value}). "
            "Record them in the environment that the policy is for."
        )


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...] | None) -> str:
    if expected == () and found == (1,):
        return "Give one number for each transition, (N,): array[:, 0]."
    if len(found) == 3 and found[-1:] + found[:-1] == expected:
        return "SB3 policies take images channel-first: np.moveaxis(images, -1, 1)."
    return _RECORD_AGAIN


def _range(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest number of a space, for each entry."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return np.asarray(0), np.asarray(1)  # MultiBinary


def _check_bounds(name: str, actions: np.ndarray, space: spaces.Box) -> None:
    """Check that actions are within their bounds."""
    # The bounds are rounded to float32, as the actions are, so that no action is outside because of rounding.
    low, high = (bound.astype(np.float32).astype(np.float64) for bound in (space.low, space.high))

    def excess(rows: np.ndarray) -> Any:
        return np.maximum(low - rows, rows - high).reshape(len(rows), -1)

    n_outside, _ = find_rows(lambda rows: (excess(rows) > BOUNDS_TOLERANCE).any(axis=1), actions)
    if not n_outside:
        return
    worst = max(row_slices(actions), key=lambda rows: excess(actions[rows]).max())
    row = worst.start + int(np.argmax(excess(actions[worst]).max(axis=1)))
    entry = np.unravel_index(np.argmax(excess(actions[row : row + 1])), actions.shape[1:])
    raise ValueError(
        f"{name}: actions: {n_outside} of {len(actions)} rows are outside of the action space by more than "
        f"{BOUNDS_TOLERANCE:g} (worst: row {row}, {float(actions[row][entry]):g}, where the bounds are {low[entry]:g} "
        f"and {high[entry]:g}). "
        "Clip them if the environment did (np.clip(actions, low, high)), or rescale them."
    )


def _check_allowed(name: str, actions: np.ndarray, masks: np.ndarray, space: spaces.Space) -> None:
    """Check that masks have one flag for each option of the actions, and allow the action that was taken."""
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
            f"action {actions[row]}). Record masks and actions of the same step, in one environment."
        )
