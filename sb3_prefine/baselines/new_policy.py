"""The policy that a baseline starts from: a new one for the data, or one that is there already."""

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
    A new policy for the environment or for the data, with a normaliser by the data; or one that is there already.

    :param policy: an alias or a class of a new policy (:func:`~sb3_prefine.policies.make_policy`), or what
        ``load_reference`` takes
    :param trajectories: what the policy is to learn from; a new one needs them
    :param env: gives the spaces of a new policy; without, they are read off the data
    :param normalize: normalise a new policy's observations by the mean and variance of the data
    :param policy_kwargs: of a new policy
    :param seed: of a new policy's weights; None goes on from torch's global state
    :raises ValueError: there are no data, or they do not tell their spaces, or do not fit those of the environment
    """
    # A text that ends so is meant for an alias: make_policy says which there are.
    if isinstance(policy, type) or (isinstance(policy, str) and (policy in ALIASES or policy.endswith("Policy"))):
        return _new(policy, trajectories, env, normalize, policy_kwargs, seed)
    if policy_kwargs:
        raise ValueError("policy_kwargs: they are for a new policy, and there is one already. Leave them out.")
    return load_reference(policy, env=env if isinstance(policy, torch.nn.Module) else None)


def _new(
    policy: str | type[BasePolicy],
    trajectories: Trajectories | None,
    env: GymEnv | str | None,
    normalize: bool,
    policy_kwargs: Mapping[str, Any] | None,
    seed: int | None,
) -> Reference:
    if trajectories is None:
        raise ValueError("trajectories: a new policy needs the data that it is for. Give them with it.")
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
    The spaces that recorded data are of: observations without bounds (images: bytes), actions in [-1, 1].

    :raises ValueError: they do not tell; says what to give
    """
    observations, actions = trajectories.observations, trajectories.actions
    if isinstance(observations, Mapping):
        observation_space: spaces.Space = spaces.Dict({key: _box_of(part) for key, part in observations.items()})
    else:
        observation_space = _box_of(observations)
    if actions.dtype.kind != "f":
        raise ValueError(
            "env: the actions are whole numbers, which do not tell how many options there are. Pass env=<the "
            "environment or its id>."
        )
    largest = actions.flat[np.abs(actions).argmax()]
    if abs(largest) > 1.0 + BOUNDS_TOLERANCE:
        raise ValueError(
            f"env: without one, actions are taken to be in [-1, 1], and there is one of {largest:g}. Pass env=<the "
            "environment or its id>, or scale the actions."
        )
    return observation_space, spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)


def _box_of(column: np.ndarray) -> spaces.Box:
    if column.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, column.shape[1:], np.float32)
    if column.dtype == np.uint8 and column.ndim == 4:
        return spaces.Box(0, 255, column.shape[1:], np.uint8)
    raise ValueError(
        f"env: observations of {column.dtype} do not tell their space, unless they are images. Pass env=<the "
        "environment or its id>."
    )
