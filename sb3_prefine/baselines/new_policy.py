"""The policy that a baseline starts from: a new one for the data, or an existing one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import set_random_seed

from sb3_prefine.data.space_checks import BOUNDS_TOLERANCE, check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.policies.aliases import ALIASES, make_policy
from sb3_prefine.reference.load import Source, load_reference, spaces_of
from sb3_prefine.reference.normalizer import normalizer_of
from sb3_prefine.reference.reference import Reference


def open_or_create_policy(
    policy: str | type[BasePolicy] | Reference | Source,
    trajectories: Trajectories | None,
    env: GymEnv | str | None,
    normalize: bool,
    policy_kwargs: Mapping[str, Any] | None,
    seed: int | None,
) -> Reference:
    """
    Open an existing policy, or create one for the environment or the data, with a normaliser from the data.

    :param policy: Alias or class of a new policy (:func:`~sb3_prefine.policies.make_policy`), or an existing policy, in
        any form that ``load_reference`` takes.
    :param trajectories: Data that the policy will learn from. A new policy needs them.
    :param env: Environment or id that determines the spaces of a new policy. None takes them from the data.
    :param normalize: Whether to normalise a new policy's observations by the mean and variance of the data.
    :param policy_kwargs: Keyword arguments of a new policy.
    :param seed: Seed of a new policy's weights. None uses torch's global random state.
    :return: The policy to start from, with its normaliser.
    :raises ValueError: If the data are missing, do not determine their spaces, or do not fit the environment.
    """
    # A text with this ending is meant as an alias: make_policy lists the known ones.
    if isinstance(policy, type) or (isinstance(policy, str) and (policy in ALIASES or policy.endswith("Policy"))):
        return _create(policy, trajectories, env, normalize, policy_kwargs, seed)
    if policy_kwargs:
        raise ValueError(
            f"policy_kwargs: {dict(policy_kwargs)} are for a new policy, and the policy exists. Leave them out."
        )
    return load_reference(policy, env=env if isinstance(policy, torch.nn.Module) else None)


def _create(
    policy: str | type[BasePolicy],
    trajectories: Trajectories | None,
    env: GymEnv | str | None,
    normalize: bool,
    policy_kwargs: Mapping[str, Any] | None,
    seed: int | None,
) -> Reference:
    if trajectories is None:
        raise ValueError("trajectories: none were given, and a new policy needs them. Pass them with it.")
    observation_space, action_space = spaces_of_data(trajectories) if env is None else spaces_of(env)
    check_against_spaces("trajectories", trajectories, observation_space, action_space, takes_action_masks=False)
    if seed is not None:
        set_random_seed(seed)
    reference = load_reference(make_policy(policy, observation_space, action_space, policy_kwargs))
    if not normalize:
        return reference
    return replace(reference, normalizer=normalizer_of(trajectories.observations, observation_space))


def spaces_of_data(trajectories: Trajectories) -> tuple[spaces.Space, spaces.Space]:
    """
    Determine the spaces of recorded data: observations without bounds (bytes for images), actions in [-1, 1].

    :param trajectories: The data.
    :return: Observation space and action space.
    :raises ValueError: If the data do not determine their spaces.
    """
    observations, actions = trajectories.observations, trajectories.actions
    if isinstance(observations, Mapping):
        observation_space: spaces.Space = spaces.Dict({key: _box_of(part) for key, part in observations.items()})
    else:
        observation_space = _box_of(observations)
    if actions.dtype.kind != "f":
        raise ValueError(
            "env: none was given, and the actions are whole numbers, which do not tell the number of options. Pass "
            "env=<the environment or its id>."
        )
    largest = actions.flat[np.abs(actions).argmax()]
    if abs(largest) > 1.0 + BOUNDS_TOLERANCE:
        raise ValueError(
            f"env: none was given, so actions should be in [-1, 1], found {largest:g}. Pass env=<the environment or "
            "its id>, or scale the actions."
        )
    return observation_space, spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)


def _box_of(column: np.ndarray) -> spaces.Box:
    if column.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, column.shape[1:], np.float32)
    if column.dtype == np.uint8 and column.ndim == 4:
        return spaces.Box(0, 255, column.shape[1:], np.uint8)
    raise ValueError(
        f"env: none was given, and observations of {column.dtype} do not tell their space, unless they are images. "
        "Pass env=<the environment or its id>."
    )
