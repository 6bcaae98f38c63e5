"""Data are checked against the spaces of a policy. Box and discrete spaces are in test_preferences.py."""

import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.data.space_checks import check_against_spaces
from tests.families import SMALL, DictEnv, ImageEnv, masked_env_with_actions
from tests.worlds import RandomEnv, env_with_actions, make_model

N = 10
DICT = DictEnv.observation_space
VECTOR, BOX = RandomEnv.observation_space, RandomEnv.action_space
FOUR = spaces.Discrete(4)


def data(**replaced: Any) -> Trajectories:
    n = len(replaced.get("actions", np.zeros(N)))
    observations = replaced.pop("observations", np.ones((n, 5), np.float32))
    return Trajectories(
        **{
            "observations": observations,
            "next_observations": observations,
            "actions": np.zeros((n, 3), np.float32),
            "rewards": np.ones(n),
            "costs": np.zeros(n),
            "terminals": np.zeros(n, bool),
            "timeouts": np.arange(n) == n - 1,
            **replaced,
        }
    )


def parts(**replaced: Any) -> dict[str, Any]:
    return {"camera": np.full((N, 1, 36, 36), 200, np.uint8), "speed": np.ones((N, 2), np.float32), **replaced}


def refused(message: str, trajectories: Trajectories, *spaces_and_masks: Any) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"preferred: {message}")):
        check_against_spaces("preferred", trajectories, *spaces_and_masks)


# Dict observations


def test_matching_dict_observations_pass():
    check_against_spaces("preferred", data(observations=parts()), DICT, BOX, False)
    # The order of the parts and the kind of integers do not matter.
    check_against_spaces("preferred", data(observations=dict(reversed(parts().items()))), DICT, BOX, False)
    check_against_spaces(
        "preferred", data(observations=parts(camera=parts()["camera"].astype(np.int64))), DICT, BOX, False
    )


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"speed": parts()["speed"]},
            "are a dict of speed, the policy expects a dict of camera, speed.",
        ),
        (parts(more=np.ones(N)), "are a dict of camera, speed, more, the policy expects"),
        (np.ones((N, 2), np.float32), "are one array, the policy expects"),
        (parts(speed=np.ones((N, 3))), "['speed'] have shape (3,), the policy expects (2,)."),
        (parts(speed=np.ones(N)), "['speed'] have shape (), the policy expects (2,)."),
        (
            parts(camera=np.zeros((N, 36, 36, 1), np.uint8)),
            "['camera'] have shape (36, 36, 1), the policy expects (1, 36, 36).",
        ),
        (
            parts(camera=np.zeros((N, 1, 36, 36))),
            "['camera'] are float32, the policy expects uint8.",
        ),
        (
            parts(camera=np.full((N, 1, 36, 36), 256)),
            "['camera']: 10 of 10 rows are not in Box(0, 255, (1, 36, 36), uint8) (first: row 0, 256 in it)",
        ),
    ],
)
def test_wrong_dict_observations_are_refused_by_part(found, message):
    between = "" if message.startswith("[") else " "
    refused(f"observations{between}{message}", data(observations=found), DICT, BOX, False)


def test_dict_observations_are_refused_for_a_box_space():
    refused(
        "observations are a dict of camera, speed, the policy expects one array of (5,).",
        data(observations=parts()),
        VECTOR,
        BOX,
        False,
    )


def test_the_time_feature_hint_is_for_observations_only():
    refused("actions have shape (3,), the policy expects (2,). Record", data(), VECTOR, spaces.Box(-1, 1, (2,)), False)
    with pytest.raises(ValueError, match=r"^preferred: observations .*\(5,\).*TimeFeatureWrapper"):
        check_against_spaces("preferred", data(), spaces.Box(-1, 1, (6,)), BOX, False)


# Integers in a Box


@given(st.integers(-300, 600), st.sampled_from([np.int16, np.int32, np.int64]), st.integers(0, N - 1))
def test_pixels_of_any_dtype_must_be_in_the_space(value, dtype, row):
    images = np.full((N, 3, 8, 8), 255, dtype)
    images[row, 1, 2, 3] = value
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    if 0 <= value <= 255:
        check_against_spaces("preferred", data(observations=images), space, BOX, False)
    else:
        message = f"observations: 1 of 10 rows are not in {space} (first: row {row}, {value} in it)"
        refused(message, data(observations=images), space, BOX, False)


def test_next_observations_of_images_are_checked():
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    images = np.zeros((N, 3, 8, 8), np.int64)
    refused(
        "next_observations: 10 of 10 rows", data(observations=images, next_observations=images - 1), space, BOX, False
    )


def test_unscaled_images_are_refused_for_a_scaled_space():
    """A policy with normalize_images=False gets the images as they are."""
    space = spaces.Box(0.0, 1.0, (3, 8, 8), np.float32)
    images = np.full((N, 3, 8, 8), 255, np.uint8)
    refused(
        f"observations: 10 of 10 rows are not in {space} (first: row 0, 255 in it)",
        data(observations=images),
        space,
        BOX,
        False,
    )
    check_against_spaces("preferred", data(observations=images / 255), space, BOX, False)


def test_integers_pass_for_an_unbounded_box():
    check_against_spaces("preferred", data(observations=np.full((N, 5), -7)), VECTOR, BOX, False)


def test_wrong_images_are_refused_when_prefine_is_made():
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = PPO("CnnPolicy", ImageEnv(), policy_kwargs=kwargs, device="cpu")
    for images, message in (
        (np.full((N, 3, 36, 36), 256), "256"),
        (np.zeros((N, 36, 36, 3), np.uint8), r"\(36, 36, 3\)"),
        (np.zeros((N, 3, 36, 36)), "float32"),
    ):
        with pytest.raises(ValueError, match=rf"^preferred: observations.*{message}"):
            PREFINE(model, PreferenceBuffer(data(observations=images), data(observations=images)), device="cpu")


# Masks

CHOICES = [
    (spaces.Discrete(4), [4]),
    (spaces.Discrete(3, start=2), [3]),
    (spaces.MultiDiscrete([3, 2, 4]), [3, 2, 4]),
    (spaces.MultiDiscrete([3, 2], start=[1, 5]), [3, 2]),
    (spaces.MultiBinary(3), [2, 2, 2]),
    (spaces.MultiBinary((2, 2)), [2, 2, 2, 2]),
]


@pytest.mark.parametrize(("space", "sizes"), CHOICES, ids=[str(space) for space, _ in CHOICES])
@given(seed=st.integers(0, 1000), dtype=st.sampled_from([np.int64, np.uint8, np.uint64]))
def test_an_action_has_to_be_allowed_by_its_own_mask(space, sizes, seed, dtype):
    """The expected rows are found one row and one choice at a time."""
    rng = np.random.default_rng(seed)
    space.seed(seed)
    actions = np.stack([space.sample() for _ in range(N)])
    choices = (actions - getattr(space, "start", 0)).reshape(N, -1)
    mask = rng.random((N, sum(sizes))) < 0.9
    mask[:, 0] |= ~mask.any(axis=1)
    forbidden = []
    for row in range(N):
        flags = np.split(mask[row], np.cumsum(sizes)[:-1])
        if not all(flag[choice] for flag, choice in zip(flags, choices[row], strict=True)):
            forbidden.append(row)
    t = data(actions=actions.astype(dtype), action_masks=mask)
    if forbidden:
        message = f"{len(forbidden)} of 10 actions were forbidden by their own mask (first: row {forbidden[0]}, "
        refused(message, t, VECTOR, space, True)
    else:
        check_against_spaces("preferred", t, VECTOR, space, True)


@pytest.mark.parametrize(("space", "sizes"), CHOICES, ids=[str(space) for space, _ in CHOICES])
def test_masks_need_a_flag_for_each_option_of_each_choice(space, sizes):
    actions = np.stack([space.sample() for _ in range(N)])
    n = sum(sizes)
    for wrong in (n - 1, n + 1):
        message = f"action_masks have {wrong} flags a row, {space} has {n} options"
        refused(message, data(actions=actions, action_masks=np.ones((N, wrong))), VECTOR, space, True)


MODELS = {
    "PPO": lambda: make_model(PPO, env_with_actions(FOUR)()),
    "RecurrentPPO": lambda: RecurrentPPO("MlpLstmPolicy", env_with_actions(FOUR)(), policy_kwargs=SMALL, device="cpu"),
    "continuous": lambda: make_model(PPO),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_masks_are_refused_if_the_policy_takes_none(make):
    """Otherwise it would silently sample counterfactual actions that were not allowed."""
    model = make()
    actions = {} if isinstance(model.action_space, spaces.Box) else {"actions": np.zeros(N, int)}
    t = data(**actions, action_masks=np.ones((N, 4)))
    message = r"^preferred: .*action_masks"
    with pytest.raises(ValueError, match=message):
        PREFINE(model, PreferenceBuffer(t, t), device="cpu")
    later = PREFINE(model, device="cpu")
    later.preferences = PreferenceBuffer(t, t)
    with pytest.raises(ValueError, match=message):
        later.learn(1)


def maskable() -> Any:
    return make_model(MaskablePPO, masked_env_with_actions(FOUR)())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((N, 3)), r"^preferred: action_masks have 3 "),
        (
            np.arange(N)[:, None] != [3, -1, -1, -1],
            r"^dispreferred: 1 of 10 actions .*row 3, action 0\)",
        ),
    ],
)
def test_wrong_masks_are_refused_when_prefine_is_made(wrong, message):
    actions = np.zeros(N, int)
    sets = [data(actions=actions, action_masks=mask) for mask in (np.ones(wrong.shape), wrong)]
    with pytest.raises(ValueError, match=message):
        PREFINE(maskable(), PreferenceBuffer(*sets), device="cpu")


def test_training_a_masked_policy_needs_masks():
    t = data(actions=np.zeros(N, int))
    with pytest.raises(ValueError, match=r"no action_masks"):
        PREFINE(maskable(), PreferenceBuffer(t, t), device="cpu").learn(1)
    everything = data(actions=np.zeros(N, int), action_masks=np.ones((N, 4)))
    assert PREFINE(maskable(), PreferenceBuffer(everything, everything), device="cpu").learn(1).num_timesteps == 1
