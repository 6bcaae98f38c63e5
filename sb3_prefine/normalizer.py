"""The frozen statistics of a ``VecNormalize``: read without running what a pickle carries, applied, written again."""

import io
import pickle
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

    :param mean: mean of the observations, the shape of one observation
    :param var: variance of the observations, the same shape
    :param count: how many observations they were taken over
    :param epsilon: added to the variance
    :param clip_obs: normalised values are clipped to ±clip_obs
    :param rewards: what VecNormalize keeps for rewards: carried along so that RL can go on from an exported policy
    """

    mean: np.ndarray
    var: np.ndarray
    count: float
    epsilon: float
    clip_obs: float
    rewards: "RewardStatistics"

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: raw, one observation or a batch of them
        :return: normalised, float32, the same shape
        """
        normalized = (observations - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(normalized, -self.clip_obs, self.clip_obs).astype(np.float32)

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
        )
        vec_normalize.obs_rms = _running(self.mean, self.var, self.count)  # type: ignore[assignment]
        vec_normalize.ret_rms = _running(self.rewards.mean, self.rewards.var, self.rewards.count)
        return vec_normalize


@dataclass(frozen=True)
class RewardStatistics:
    """The part of a ``VecNormalize`` that scales rewards: running statistics of the discounted return."""

    mean: float
    var: float
    count: float
    clip_reward: float
    gamma: float
    norm_reward: bool


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
    if isinstance(state["obs_rms"], dict):
        raise ValueError(f"{name} normalises a Dict observation space, which is not supported. Give a Box observation.")
    return _from_state(state, name)


def _from_state(state: dict[str, Any], name: str) -> Normalizer:
    observations, returns = state["obs_rms"].state, state["ret_rms"].state
    mean = np.array(observations["mean"], dtype=np.float64)
    var = np.array(observations["var"], dtype=np.float64)
    if mean.shape != var.shape or not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise ValueError(f"{name}: its mean and variance are not finite, or differ in shape. Save it again.")
    mean.flags.writeable = var.flags.writeable = False
    return Normalizer(
        mean=mean,
        var=var,
        count=float(observations["count"]),
        epsilon=float(state["epsilon"]),
        clip_obs=float(state["clip_obs"]),
        rewards=RewardStatistics(
            mean=float(returns["mean"]),
            var=float(returns["var"]),
            count=float(returns["count"]),
            clip_reward=float(state["clip_reward"]),
            gamma=float(state["gamma"]),
            norm_reward=bool(state["norm_reward"]),
        ),
    )


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
        if module == "numpy" or module.startswith(("numpy.core.", "numpy._core.")):
            return self._NUMPY.get(name, _Inert)
        return _Inert


class _SpacesOnly(gym.Env):
    """An environment that is only its spaces: what VecNormalize asks for."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def _running(mean: np.ndarray | float, var: np.ndarray | float, count: float) -> RunningMeanStd:
    running = RunningMeanStd(shape=np.shape(mean))
    running.mean, running.var, running.count = np.array(mean), np.array(var), count
    return running
