"""The one loop that steps environments: a policy acts, whole episodes come out."""

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from tqdm.auto import tqdm

import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids with gymnasium)
from sb3_prefine.randomness import OwnRandomState
from sb3_prefine.reference import load_reference

Policy: TypeAlias = PolicyPredictor | str | Path
EnvSource: TypeAlias = str | Callable[[], gym.Env] | gym.Env | VecEnv
Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]
ActionTransform: TypeAlias = Callable[[np.ndarray], np.ndarray]

# An episode this long is taken for one that never ends, unless the environment's own time limit is longer.
MAX_EPISODE_STEPS = 100_000

# Wrappers that may be taken off: the policies here take raw observations, and rewards are measured raw.
_TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan, VecTransposeImage)


@dataclass(frozen=True, eq=False)
class Episode:
    """
    One whole episode of T steps.

    :param index: Its number, from 0 to ``n_episodes - 1``.
    :param observations: (T + 1, ...) what the environment returned, the final observation included; a dict of
        such arrays for a Dict observation space.
    :param actions: (T, ...) what the environment received.
    :param rewards: (T,)
    :param costs: (T,) ``info["cost"]`` of each step, 0 where a step left it out. All NaN ("unknown") if no step of
        the episode had one.
    :param terminated: Whether the episode ended in a terminal state.
    :param truncated: Whether it was cut off, by a time limit for example.
    :param action_masks: (T, n_options), bool: which actions were allowed, if the policy takes masks.
    """

    index: int
    observations: Observation
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminated: bool
    truncated: bool
    action_masks: np.ndarray | None = None


def rollout(
    policy: Policy,
    env: EnvSource,
    n_episodes: int,
    *,
    n_envs: int = 16,
    deterministic: bool,
    seed: int,
    action_transform: ActionTransform | None = None,
) -> Iterator[Episode]:
    """
    Run a policy for ``n_episodes`` episodes and yield each one as it finishes.

    The environments are stepped one after the other in this process, with one batched ``predict`` a step. Every
    episode is started once, with its own seed, and run to its end, so that short episodes are not over-represented
    (the bias of https://github.com/DLR-RM/stable-baselines3/issues/402). The same arguments give the same episodes.
    The caller's random states (torch, numpy, random) are left as they were.

    :param policy: Anything with SB3's ``predict``. An SB3 model, or the path of a zip or an RL-Zoo folder, is opened
        by :func:`~sb3_prefine.reference.load_reference`, so that a missing observation normaliser is an error.
    :param env: An id, a callable that returns a new environment, an environment (then there is only this one,
        whatever ``n_envs``), or a ``DummyVecEnv`` (then its environments are used, without SB3's wrappers). Without
        the env wrappers that the policy was trained behind: its ``wrap_env`` applies them here. What is made here is
        closed at the end; what was passed in is not, and an episode it was in is lost.
    :param n_episodes: How many episodes to run.
    :param n_envs: How many environments to make for an id or a callable, ``n_episodes`` at most.
    :param deterministic: Whether the policy acts by its mode instead of sampling.
    :param seed: Episode i is reset with a seed that depends on ``seed`` and i alone.
    :param action_transform: Called on each (n, ...) batch of actions before they are clipped to their bounds.
    :return: Episodes in the order in which they finish; ``Episode.index`` has their number.
    :raises TypeError: If the policy or the environment is not one of those named above.
    :raises ValueError: If the id is unknown, a number is out of range, or an observation, action or reward is NaN
        or infinite or does not fit its space.
    :raises RuntimeError: If an episode does not end within 100,000 steps.
    """
    n_episodes = _positive("n_episodes", n_episodes)
    n_envs = min(_positive("n_envs", n_envs), n_episodes)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative. Pass 0 or more.")
    with OwnRandomState(seed):  # opening builds networks, whose first weights are drawn
        predictor = _open_policy(policy)
    randomness = OwnRandomState(seed)
    indices = iter(range(n_episodes))

    with contextlib.ExitStack() as stack:
        with randomness:
            masked = bool(getattr(predictor, "takes_action_masks", False))
            runners = [_Runner(e, masked) for e in _open_envs(env, n_envs, stack, predictor)[:n_episodes]]
            for runner in runners:
                index = next(indices)
                runner.start(index, _episode_seed(seed, index))
        state: tuple[np.ndarray, ...] | None = None
        starts = np.ones(len(runners), dtype=bool)
        while any(runner.running for runner in runners):
            finished: list[Episode] = []
            with randomness:
                while not finished:
                    # Idle runners stay in the batch: a recurrent state keeps its rows, whatever its layout.
                    observations = _stack([runner.observation for runner in runners])
                    allowed = {"action_masks": np.stack([runner.action_mask for runner in runners])} if masked else {}
                    actions, state = predictor.predict(
                        cast(Any, observations),
                        state=state,
                        episode_start=starts,
                        deterministic=deterministic,
                        **allowed,
                    )
                    if action_transform is not None:
                        actions = action_transform(actions)
                    actions = _fit_to_space(actions, runners[0].env.action_space, len(runners))
                    starts = np.zeros(len(runners), dtype=bool)
                    for row, runner in enumerate(runners):
                        if runner.running and runner.step(actions[row]):
                            finished.append(runner.episode())
                            if (next_index := next(indices, None)) is not None:
                                runner.start(next_index, _episode_seed(seed, next_index))
                                starts[row] = True
            # Outside of the random state: the code between two episodes is the caller's.
            yield from finished


def show_progress(episodes: Iterator[Episode], n_episodes: int, progress_bar: bool) -> Iterator[Episode]:
    """
    Pass episodes on behind a progress bar that shows the mean return and cost so far.

    :param episodes: What :func:`rollout` yields.
    :param n_episodes: How many there will be.
    :param progress_bar: Whether to show it.
    :return: The same episodes.
    """
    total_reward = total_cost = 0.0
    with tqdm(total=n_episodes, unit="episode", disable=not progress_bar) as bar:
        for count, episode in enumerate(episodes, start=1):
            total_reward += float(episode.rewards.sum())
            total_cost += float(episode.costs.sum())
            cost = "unknown" if np.isnan(total_cost) else f"{total_cost / count:,.1f}"
            bar.set_postfix_str(f"return {total_reward / count:,.1f}, cost {cost}", refresh=False)
            bar.update()
            yield episode


class _Runner:
    """One environment and the episode it is in."""

    def __init__(self, env: gym.Env, masked: bool):
        self.env = env
        self.running = False
        self._masked = masked
        time_limit = getattr(env.spec, "max_episode_steps", None) or 0
        self._max_steps = max(MAX_EPISODE_STEPS, time_limit)

    def start(self, index: int, seed: int) -> None:
        self._index = index
        self._observations: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._costs: list[float | None] = []
        self._masks: list[np.ndarray] = []
        self._terminated = self._truncated = False
        self.running = True
        observation, _ = self.env.reset(seed=seed)
        self._observe(observation)

    def step(self, action: np.ndarray) -> bool:
        """Take one step and say whether it was the episode's last."""
        if len(self._actions) >= self._max_steps:
            raise RuntimeError(
                f"env: episode {self._index} has not ended after {self._max_steps:,} steps. Give the environment a "
                "time limit (gymnasium.wrappers.TimeLimit)."
            )
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(action)
        self._rewards.append(float(reward))
        self._costs.append(info.get("cost"))
        self._terminated, self._truncated = bool(terminated), bool(truncated)
        self._observe(observation)
        self.running = not (terminated or truncated)
        return not self.running

    @property
    def observation(self) -> Observation:
        return self._observations[-1]

    @property
    def action_mask(self) -> np.ndarray:
        """What the environment allows now."""
        return self._masks[-1]

    def episode(self) -> Episode:
        rewards = np.array(self._rewards)
        self._check_finite("reward", rewards)
        known = any(cost is not None for cost in self._costs)
        missing = 0.0 if known else np.nan
        return Episode(
            index=self._index,
            observations=_stack(self._observations),
            actions=np.stack(self._actions),
            rewards=rewards,
            costs=np.array([missing if cost is None else cost for cost in self._costs], dtype=np.float64),
            terminated=self._terminated,
            truncated=self._truncated,
            # The last one belongs to the observation that the episode ended in.
            action_masks=np.stack(self._masks[: len(rewards)]) if self._masked else None,
        )

    def _observe(self, observation: Any) -> None:
        # A copy: some environments return the same array at every step and write into it.
        copy: Observation
        if isinstance(observation, dict):
            copy = {key: np.array(value) for key, value in observation.items()}
            for value in copy.values():
                self._check_finite("observation", value)
        else:
            copy = np.array(observation)
            self._check_finite("observation", copy)
        self._observations.append(copy)
        if self._masked:
            self._masks.append(self._ask_for_mask())

    def _ask_for_mask(self) -> np.ndarray:
        if not self.env.has_wrapper_attr("action_masks"):
            raise ValueError(
                "env: the policy takes action masks, and the environment has no action_masks() method. Give the "
                "environment that it was trained on, behind the same wrappers (sb3-contrib's ActionMasker adds it)."
            )
        return np.array(self.env.get_wrapper_attr("action_masks")(), dtype=bool).reshape(-1)

    def _check_finite(self, name: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"env: a NaN or infinite {name} in episode {self._index}, by step {len(self._actions)}. The simulation "
                "diverged: check the actions it was given, or roll out with another seed."
            )


def _open_policy(policy: Policy) -> PolicyPredictor:
    if isinstance(policy, str | Path) or (isinstance(policy, BaseAlgorithm) and not hasattr(policy, "wrap_env")):
        return load_reference(policy)
    if not callable(getattr(policy, "predict", None)):
        raise TypeError(
            f"policy: {type(policy).__name__} has no predict(observation, state, episode_start, deterministic). Pass a "
            "PREFINE or another SB3 model, what load_reference() returns, or the path of a saved model."
        )
    return policy


def _open_envs(env: EnvSource, n_envs: int, stack: contextlib.ExitStack, policy: PolicyPredictor) -> list[gym.Env]:
    if isinstance(env, VecEnv):
        envs = _inner_envs(env)
    elif isinstance(env, gym.Env):
        envs = [env]
    elif isinstance(env, str) or callable(env):
        envs = []
        for _ in range(n_envs):
            envs.append(_make_env(env))
            stack.callback(envs[-1].close)
        if len({id(e) for e in envs}) < len(envs):
            raise ValueError("env: the callable returned one environment twice. It has to make a new one each time.")
    else:
        raise TypeError(
            f"env: {type(env).__name__} is neither an environment id, a callable that returns a gymnasium.Env, a "
            "gymnasium.Env, nor a DummyVecEnv."
        )
    wrap_env = getattr(policy, "wrap_env", None)
    wrapped = envs if wrap_env is None else [wrap_env(e) for e in envs]
    _check_observations(getattr(policy, "observation_space", None), wrapped[0].observation_space)
    return wrapped


def _check_observations(expected: gym.Space | None, found: gym.Space) -> None:
    """Refuse vectors of another length than the policy's, before a step is taken."""
    spaces = (expected, found)
    if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
        return
    if cast(gym.Space, expected).shape != found.shape:
        raise ValueError(
            f"env: its observations have shape {found.shape}, the policy expects {cast(gym.Space, expected).shape}. "
            "If the policy was trained behind an env wrapper (a TimeFeatureWrapper adds one number), open it with the "
            "config.yml beside it, which names the wrapper, or wrap the environment yourself; an environment that is "
            "wrapped already must not be wrapped again."
        )


def _make_env(source: str | Callable[[], gym.Env]) -> gym.Env:
    if isinstance(source, str):
        try:
            # The checker costs time at every step.
            return gym.make(source, disable_env_checker=True)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(
                f"env: gymnasium knows no environment {source!r} ({error}) If a package of yours registers it, import "
                "that package first."
            ) from error
    env = source()
    if not isinstance(env, gym.Env):
        raise TypeError(f"env: the callable returned a {type(env).__name__}, not a gymnasium.Env.")
    return env


def _inner_envs(vec_env: VecEnv) -> list[gym.Env]:
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, _TRANSPARENT_WRAPPERS):
            raise TypeError(
                f"env: {type(vec_env).__name__} changes what the policy sees or what is measured, and is not applied "
                "here. Pass the id, or a callable that returns the environment with gymnasium wrappers."
            )
        vec_env = vec_env.venv
    if not isinstance(vec_env, DummyVecEnv):
        raise TypeError(
            f"env: the environments of a {type(vec_env).__name__} cannot be stepped from here. Pass the id or a "
            "callable that returns a gymnasium.Env."
        )
    return vec_env.envs


def _fit_to_space(actions: Any, space: gym.Space, n: int) -> np.ndarray:
    """What the environment receives: clipped to a Box's bounds, in the dtype of the space."""
    actions = np.asarray(actions)
    shape = (n, *(space.shape or ()))
    if actions.shape != shape:
        raise ValueError(f"policy: its actions have shape {actions.shape}, those of {space} have shape {shape}.")
    if isinstance(space, gym.spaces.MultiBinary) and np.isin(actions, (0, 1)).all():
        actions = actions.astype(space.dtype)  # SB3 gives them as floats
    if not np.can_cast(actions.dtype, cast(Any, space.dtype), casting="same_kind"):
        raise ValueError(f"policy: its actions are {actions.dtype}, those of {space} are {space.dtype}.")
    if not np.isfinite(actions).all():
        row = int(np.argmin(np.isfinite(actions).reshape(n, -1).all(axis=1)))
        raise ValueError(f"policy: a NaN or infinite action, {actions[row]}. Its weights or its normaliser are broken.")
    if isinstance(space, gym.spaces.Box):
        actions = np.clip(actions, space.low, space.high)
    return actions.astype(space.dtype)


def _stack(observations: list[Observation]) -> Observation:
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.stack([cast(dict, o)[key] for o in observations]) for key in first}
    return np.stack(cast(list[np.ndarray], observations))


def _episode_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0])


def _positive(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}: {number} is not positive.")
    return number
