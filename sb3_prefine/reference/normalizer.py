"""The frozen statistics of a ``VecNormalize``: read without running what a pickle carries, applied, written again."""

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

    :param observations: the statistics of the observations; for a Dict observation space by its keys, those that are
        normalised
    :param epsilon: added to the variance
    :param clip_obs: normalised values are clipped to ±clip_obs
    :param rewards: what VecNormalize keeps for rewards: carried along so that RL can go on from an exported policy
    """

    observations: "Moments | Mapping[str, Moments]"
    epsilon: float
    clip_obs: float
    rewards: "RewardStatistics"

    def __call__(self, observations: Any) -> Any:
        """
        :param observations: raw, one observation or a batch of them; a dict of arrays for a Dict observation space
        :return: normalised, float32, the same shapes; parts of a dict that are not normalised as they were
        """
        if isinstance(self.observations, Moments):
            return self._normalize(observations, self.observations)
        moments = self.observations
        return {
            key: self._normalize(part, moments[key]) if key in moments else part for key, part in observations.items()
        }

    def fits(self, observation_space: spaces.Space) -> bool:
        """Whether its statistics are of the shapes of the space."""
        if isinstance(self.observations, Moments):
            return self.observations.mean.shape == observation_space.shape
        return isinstance(observation_space, spaces.Dict) and all(
            key in observation_space.spaces and moments.mean.shape == observation_space[key].shape
            for key, moments in self.observations.items()
        )

    def to_vec_normalize(self, observation_space: spaces.Space, action_space: spaces.Space) -> VecNormalize:
        """A ``VecNormalize`` with these statistics, not updating them: what ``.save()`` and SB3 work with."""
        venv = DummyVecEnv([lambda: _SpacesOnly(observation_space, action_space)])
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
            _running(self.observations)
            if isinstance(self.observations, Moments)
            else {key: _running(moments) for key, moments in self.observations.items()}
        )
        vec_normalize.obs_rms = running
        vec_normalize.ret_rms = _running(self.rewards.returns)
        return vec_normalize

    def _normalize(self, observations: np.ndarray, moments: "Moments") -> np.ndarray:
        normalized = (observations - moments.mean) / np.sqrt(moments.var + self.epsilon)
        return np.clip(normalized, -self.clip_obs, self.clip_obs).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Moments:
    """
    Running statistics.

    :param mean: of the shape of one observation, or a number
    :param var: variance, the same shape
    :param count: how many values they were taken over
    """

    mean: np.ndarray
    var: np.ndarray
    count: float


@dataclass(frozen=True)
class RewardStatistics:
    """The part of a ``VecNormalize`` that scales rewards, by the statistics of the discounted return."""

    returns: Moments
    clip_reward: float
    gamma: float
    norm_reward: bool


def normalizer_of(observations: Any, observation_space: spaces.Space) -> Normalizer | None:
    """
    A normaliser by the mean and variance of data.

    Boxes of floats are normalised; images, and whatever else is of integers, are not.

    :param observations: (N, …), or a dict of such arrays
    :return: None if there is nothing to normalise
    """
    if isinstance(observation_space, spaces.Dict):
        parts = {key: observations[key] for key, space in observation_space.spaces.items() if _holds_floats(space)}
        moments: Any = {key: _moments_of(part) for key, part in parts.items()}
    else:
        moments = _moments_of(observations) if _holds_floats(observation_space) else {}
    if not moments:
        return None
    # VecNormalize's values, but for the epsilon: its 1e-8 would blow up 10,000-fold what is constant in the data.
    untouched = RewardStatistics(Moments(np.array(0.0), np.array(1.0), 1e-4), 10.0, 0.99, norm_reward=False)
    return Normalizer(moments, epsilon=1e-6, clip_obs=10.0, rewards=untouched)


def read_normalizer(source: VecNormalize | str | Path | bytes, name: str = "normalizer") -> Normalizer | None:
    """
    Read the statistics of a ``VecNormalize``, from the object, its pickle's path, or the pickle itself.

    A pickle is read by an unpickler that rebuilds numbers and arrays and nothing else: no code of its own runs.

    :param name: what the source is called in errors
    :return: the statistics; None if it does not normalise observations (``norm_obs=False``)
    :raises FileNotFoundError: no such file
    :raises ValueError: not the pickle of a ``VecNormalize``, or statistics that cannot be used
    """
    if isinstance(source, VecNormalize):
        source = pickle.dumps(source)
    elif isinstance(source, (str, Path)):
        name = f"{name} {source}"
        source = Path(source).read_bytes()
    try:
        inert = _NumbersOnly(io.BytesIO(source)).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{name} is not the pickle of a VecNormalize: {error}. Give the vecnormalize.pkl.") from error
    state = getattr(inert, "state", None)
    if not isinstance(state, dict) or "norm_obs" not in state:
        raise ValueError(f"{name} is not the pickle of a VecNormalize. Give the vecnormalize.pkl.")
    if not state["norm_obs"]:
        return None
    found, returns = state["obs_rms"], state["ret_rms"]
    observations: Moments | Mapping[str, Moments]
    if isinstance(found, dict):
        observations = {str(key): _moments(part, name) for key, part in found.items()}
    else:
        observations = _moments(found, name)
    return Normalizer(
        observations=observations,
        epsilon=float(state["epsilon"]),
        clip_obs=float(state["clip_obs"]),
        rewards=RewardStatistics(
            returns=_moments(returns, name),
            clip_reward=float(state["clip_reward"]),
            gamma=float(state["gamma"]),
            norm_reward=bool(state["norm_reward"]),
        ),
    )


def _holds_floats(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _moments_of(column: np.ndarray) -> Moments:
    mean, var = column.mean(axis=0, dtype=np.float64), column.var(axis=0, dtype=np.float64)
    mean.flags.writeable = var.flags.writeable = False
    return Moments(mean, var, float(len(column)))


def _moments(running: "_Inert", name: str) -> Moments:
    state: Any = running.state
    mean, var = np.array(state["mean"], dtype=np.float64), np.array(state["var"], dtype=np.float64)
    if mean.shape != var.shape or not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise ValueError(f"{name}: its mean and variance are not finite, or differ in shape. Save it again.")
    mean.flags.writeable = var.flags.writeable = False
    return Moments(mean, var, float(state["count"]))


class _Inert:
    """Stands for any object in a pickle that is not a number or an array; holds its state, runs nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *args: object) -> "_Inert":
        return _Inert(*args)


class _NumbersOnly(pickle.Unpickler):
    """Rebuilds NumPy arrays and scalars; every other class or function in the pickle becomes an inert record."""

    # NumPy's own constructors, taken from its pickling so that their private home, which moves, is not named here.
    _NUMPY: ClassVar[dict[str, Any]] = {
        "dtype": np.dtype,
        "ndarray": np.ndarray,
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "scalar": np.float64(0).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict  # SB3 keeps the last observation of a Dict space in one
        if module == "numpy" or module.startswith(("numpy.core.", "numpy._core.")):
            return self._NUMPY.get(name, _Inert)
        return _Inert


class _SpacesOnly(gym.Env):
    """An environment that is only its spaces: what VecNormalize asks for."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def _running(moments: Moments) -> RunningMeanStd:
    running = RunningMeanStd(shape=moments.mean.shape)
    running.mean, running.var, running.count = moments.mean.copy(), moments.var.copy(), moments.count
    return running
