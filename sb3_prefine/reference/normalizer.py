"""The frozen statistics of a ``VecNormalize``: read without running the pickle's code, applied, and written."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


@dataclass(frozen=True, eq=False)
class Normalizer:
    """
    Normalises raw observations with frozen statistics, as ``VecNormalize.normalize_obs`` does.

    The result is (observation - mean) / √(variance + epsilon), clipped.

    :param observations: Statistics of the observations; for a Dict observation space, those of each normalised key.
    :param epsilon: Number added to the variance.
    :param clip_obs: Bound of the normalised values, ±clip_obs.
    :param rewards: Statistics of the rewards. They are only kept, so that RL can continue from an exported policy.
    """

    observations: "Moments | Mapping[str, Moments]"
    epsilon: float
    clip_obs: float
    rewards: "RewardStatistics"

    def __call__(self, observations: Any) -> Any:
        """
        Normalise observations.

        :param observations: One raw observation or a batch of them; a dict of arrays for a Dict observation space.
        :return: Normalised observations of the same shape, float32. Keys of a dict without statistics are unchanged.
        """
        if isinstance(self.observations, Moments):
            return self._normalize(observations, self.observations)
        moments = self.observations
        return {
            key: self._normalize(part, moments[key]) if key in moments else part for key, part in observations.items()
        }

    def matches(self, observation_space: spaces.Space) -> bool:
        """
        Whether the statistics have the shape of a space.

        :param observation_space: Space of the raw observations.
        """
        if isinstance(self.observations, Moments):
            return self.observations.mean.shape == observation_space.shape
        return isinstance(observation_space, spaces.Dict) and all(
            key in observation_space.spaces and moments.mean.shape == observation_space[key].shape
            for key, moments in self.observations.items()
        )

    def to_vec_normalize(self, observation_space: spaces.Space, action_space: spaces.Space) -> VecNormalize:
        """
        Make a ``VecNormalize`` with these statistics, frozen, which SB3 can save and load.

        :param observation_space: Space of the raw observations.
        :param action_space: Space of the actions.
        """
        venv = DummyVecEnv([lambda: _EnvOfSpaces(observation_space, action_space)])
        vec_normalize = VecNormalize(
            venv,
            training=False,
            norm_reward=self.rewards.norm_reward,
            clip_obs=self.clip_obs,
            clip_reward=self.rewards.clip_reward,
            gamma=self.rewards.gamma,
            epsilon=self.epsilon,
            norm_obs_keys=None if isinstance(self.observations, Moments) else list(self.observations),
        )
        running: Any = (
            _to_running_mean_std(self.observations)
            if isinstance(self.observations, Moments)
            else {key: _to_running_mean_std(moments) for key, moments in self.observations.items()}
        )
        vec_normalize.obs_rms = running
        vec_normalize.ret_rms = _to_running_mean_std(self.rewards.returns)
        return vec_normalize

    def _normalize(self, observations: np.ndarray, moments: "Moments") -> np.ndarray:
        normalized = (observations - moments.mean) / np.sqrt(moments.var + self.epsilon)
        return np.clip(normalized, -self.clip_obs, self.clip_obs).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Moments:
    """
    Mean and variance of observations or returns.

    :param mean: Mean, with the shape of one observation, or a number.
    :param var: Variance, with the same shape.
    :param count: Number of values that were averaged.
    """

    mean: np.ndarray
    var: np.ndarray
    count: float


@dataclass(frozen=True)
class RewardStatistics:
    """
    The part of a ``VecNormalize`` that scales rewards.

    :param returns: Mean and variance of the discounted return.
    :param clip_reward: Bound of the scaled rewards, ±clip_reward.
    :param gamma: Discount factor.
    :param norm_reward: Whether rewards were scaled.
    """

    returns: Moments
    clip_reward: float
    gamma: float
    norm_reward: bool


def normalizer_of(observations: Any, observation_space: spaces.Space) -> Normalizer | None:
    """
    Make a normaliser with the mean and variance of data.

    It normalises Boxes of floats, but not images and other integers.

    :param observations: N observations, (N, …), or a dict of such arrays.
    :param observation_space: Space of the observations.
    :return: The normaliser; None if no part of the space is a Box of floats.
    """
    if isinstance(observation_space, spaces.Dict):
        parts = {key: observations[key] for key, space in observation_space.spaces.items() if _holds_floats(space)}
        moments: Any = {key: _moments_from_data(part) for key, part in parts.items()}
    else:
        moments = _moments_from_data(observations) if _holds_floats(observation_space) else {}
    if not moments:
        return None
    # VecNormalize's defaults except for epsilon: 1e-8 would scale components that are constant in the data by 10,000.
    rewards = RewardStatistics(Moments(np.array(0.0), np.array(1.0), 1e-4), 10.0, 0.99, norm_reward=False)
    return Normalizer(moments, epsilon=1e-6, clip_obs=10.0, rewards=rewards)


def read_normalizer(source: VecNormalize | str | Path | bytes, name: str = "normalizer") -> Normalizer | None:
    """
    Read the statistics of a ``VecNormalize``.

    The unpickler rebuilds only numbers and arrays, so no code of the pickle runs.

    :param source: The object, the path of its pickle, or the bytes of the pickle.
    :param name: Name of the source in error messages.
    :return: The statistics; None if the object does not normalise observations (``norm_obs=False``).
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If the source is not the pickle of a ``VecNormalize``, or its statistics are not finite.
    """
    if isinstance(source, VecNormalize):
        source = pickle.dumps(source)
    elif isinstance(source, (str, Path)):
        name = f"{name} {source}"
        source = Path(source).read_bytes()
    try:
        unpickled = _NumbersUnpickler(io.BytesIO(source)).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{name} is not the pickle of a VecNormalize: {error}. Give the vecnormalize.pkl.") from error
    state = getattr(unpickled, "state", None)
    if not isinstance(state, dict) or "norm_obs" not in state:
        raise ValueError(f"{name} is not the pickle of a VecNormalize. Give the vecnormalize.pkl.")
    if not state["norm_obs"]:
        return None
    found, returns = state["obs_rms"], state["ret_rms"]
    observations: Moments | Mapping[str, Moments]
    if isinstance(found, dict):
        observations = {str(key): _read_moments(part, name) for key, part in found.items()}
    else:
        observations = _read_moments(found, name)
    return Normalizer(
        observations=observations,
        epsilon=float(state["epsilon"]),
        clip_obs=float(state["clip_obs"]),
        rewards=RewardStatistics(
            returns=_read_moments(returns, name),
            clip_reward=float(state["clip_reward"]),
            gamma=float(state["gamma"]),
            norm_reward=bool(state["norm_reward"]),
        ),
    )


def _holds_floats(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _moments_from_data(column: np.ndarray) -> Moments:
    mean, var = column.mean(axis=0, dtype=np.float64), column.var(axis=0, dtype=np.float64)
    mean.flags.writeable = var.flags.writeable = False
    return Moments(mean, var, float(len(column)))


def _read_moments(running: "_Placeholder", name: str) -> Moments:
    state: Any = running.state
    mean, var = np.array(state["mean"], dtype=np.float64), np.array(state["var"], dtype=np.float64)
    if mean.shape != var.shape or not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise ValueError(f"{name}: its mean and variance are not finite, or differ in shape. Save it again.")
    mean.flags.writeable = var.flags.writeable = False
    return Moments(mean, var, float(state["count"]))


class _Placeholder:
    """Replaces every object of a pickle that is not a number or an array. It keeps the state and runs no code."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *args: object) -> "_Placeholder":
        return _Placeholder(*args)


class _NumbersUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and scalars. Every other class or function of the pickle becomes a placeholder."""

    # NumPy's constructors. They come from its own pickling, because their private module differs between versions.
    _NUMPY: ClassVar[dict[str, Any]] = {
        "dtype": np.dtype,
        "ndarray": np.ndarray,
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "scalar": np.float64(0).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict  # SB3 stores the last observation of a Dict space in an OrderedDict
        if module == "numpy" or module.startswith(("numpy.core.", "numpy._core.")):
            return self._NUMPY.get(name, _Placeholder)
        return _Placeholder


class _EnvOfSpaces(gym.Env):
    """An environment with spaces and no behaviour, because VecNormalize needs one."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def _to_running_mean_std(moments: Moments) -> RunningMeanStd:
    running = RunningMeanStd(shape=moments.mean.shape)
    running.mean, running.var, running.count = moments.mean.copy(), moments.var.copy(), moments.count
    return running
