"""Measure a policy's returns and costs: ``evaluate_policy(...) -> Evaluation``."""

import math
from dataclasses import dataclass

import numpy as np

from sb3_prefine.rollout.generate import generate_episodes, show_progress
from sb3_prefine.rollout.make_envs import EnvSource
from sb3_prefine.rollout.predictor import PolicyLike

_N_RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 100  # bounds the memory that the bootstrap of many episodes takes


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    Undiscounted returns and costs of evaluated episodes. The arrays are read-only and sorted by episode.

    The cost of an episode is NaN ("unknown") if the environment reported no ``info["cost"]`` in it. Every statistic of
    unknown costs is NaN, never 0.

    :param episode_rewards: Sum of the rewards of each episode, (n_episodes,).
    :param episode_costs: Sum of the costs of each episode, (n_episodes,).
    :param episode_lengths: Number of steps of each episode, (n_episodes,).
    :raises ValueError: If there are no episodes, or the arrays differ in length.
    """

    episode_rewards: np.ndarray
    episode_costs: np.ndarray
    episode_lengths: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (
            ("episode_rewards", np.float64),
            ("episode_costs", np.float64),
            ("episode_lengths", np.int64),
        ):
            values = np.array(getattr(self, name), dtype=dtype)
            if values.ndim != 1 or len(values) == 0 or len(values) != len(self.episode_rewards):
                raise ValueError(
                    f"{name}: shape {values.shape}. Pass three arrays of shape (n_episodes,) with at least one episode."
                )
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.episode_rewards)

    def __str__(self) -> str:
        reward = _with_interval(self.mean_reward, self.reward_interval, len(self))
        cost = _with_interval(self.mean_cost, self.cost_interval, len(self))
        return f"reward {reward}, cost {cost}, {len(self):,} episode{'s' if len(self) > 1 else ''}"

    @property
    def mean_reward(self) -> float:
        """Mean episode return."""
        return float(self.episode_rewards.mean())

    @property
    def mean_cost(self) -> float:
        """Mean episode cost."""
        return float(self.episode_costs.mean())

    @property
    def reward_interval(self) -> tuple[float, float]:
        """95% interval of the mean episode return: percentile bootstrap, 10,000 resamples, fixed seed."""
        return _bootstrap_interval(self.episode_rewards)

    @property
    def cost_interval(self) -> tuple[float, float]:
        """95% interval of the mean episode cost: percentile bootstrap, 10,000 resamples, fixed seed."""
        return _bootstrap_interval(self.episode_costs)

    def violation_rate(self, cost_limit: float) -> float:
        """
        Share of episodes that cost more than the limit.

        An episode at the limit is safe, as in DSRL, where a normalised cost of 1 is safe.

        :param cost_limit: Highest cost of a safe episode.
        :return: A number in [0, 1], or NaN if a cost is unknown.
        :raises ValueError: If the limit is negative or NaN.
        """
        check_cost_limit(cost_limit)
        if np.isnan(self.episode_costs).any():
            return math.nan
        return float((self.episode_costs > cost_limit).mean())

    def cvar_cost(self, alpha: float = 0.1) -> float:
        """
        Mean cost of the worst episodes, the conditional value at risk (CVaR).

        :param alpha: Share of the episodes that counts as the worst: the mean is over ``ceil(alpha * n_episodes)``.
        :return: The mean of the highest episode costs, or NaN if a cost is unknown.
        :raises ValueError: If alpha is not in (0, 1].
        """
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha: {alpha} is not in (0, 1]. Pass the share of worst episodes, 0.1 for a tenth.")
        # Rounded first: 0.07 * 100 is 7.000000000000001, which are 7 episodes and not 8.
        n_worst = math.ceil(round(alpha * len(self), 9))
        return float(np.sort(self.episode_costs)[-n_worst:].mean())


def evaluate_policy(
    policy: PolicyLike,
    env: EnvSource,
    n_episodes: int = 100,
    *,
    n_envs: int = 32,
    n_workers: int = 1,
    deterministic: bool = True,
    seed: int = 0,
    progress_bar: bool = False,
) -> Evaluation:
    """
    Measure the episode returns and costs of a policy.

    Rewards, costs and lengths come from the environment itself, without ``Monitor`` and without normalisation. The
    caller's random states are restored, so that an evaluation during training does not change the training.

    :param policy: A PREFINE or another SB3 model, a reference or the path of one (:func:`~sb3_prefine.load_reference`),
        or any object with SB3's ``predict`` that takes raw observations.
    :param env: An environment id, a callable that returns a new environment, an environment, or a ``DummyVecEnv``.
    :param n_episodes: Number of episodes, each of which runs to its end.
    :param n_envs: Number of environments to make. 16 for each worker take the least time per step.
    :param n_workers: Number of processes that step them, this one included. The episodes do not depend on it. See
        :func:`~sb3_prefine.rollout.generate_episodes` for what more than one process requires of a script.
    :param deterministic: Whether to use deterministic or stochastic actions.
    :param seed: Seed of the episodes: the same seed gives the same episodes.
    :param progress_bar: Whether to show a progress bar.
    :return: The measured episodes.
    :raises TypeError: If the policy or the environment is not one of those named above.
    :raises ValueError: If the id is unknown, a number is out of its range, or the simulation diverges.
    :raises RuntimeError: If an episode does not end within 100,000 steps, or a worker process is killed.
    """
    episodes = generate_episodes(
        policy, env, n_episodes, n_envs=n_envs, n_workers=n_workers, deterministic=deterministic, seed=seed
    )
    sums = sorted(
        (episode.index, episode.rewards.sum(), episode.costs.sum(), len(episode.rewards))
        for episode in show_progress(episodes, n_episodes, progress_bar)
    )
    _, rewards, costs, lengths = zip(*sums, strict=True)
    return Evaluation(np.array(rewards), np.array(costs), np.array(lengths))


def check_cost_limit(cost_limit: float) -> None:
    """
    Refuse a number that cannot be a cost limit.

    :param cost_limit: Highest cost of a safe episode.
    :raises ValueError: If it is negative or NaN.
    """
    if not cost_limit >= 0:
        raise ValueError(
            f"cost_limit: {cost_limit} is not a limit. Pass the highest cost of a safe episode, 0 or more."
        )


def _bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    shape = (_RESAMPLES_AT_ONCE, len(values))
    means = [values[generator.integers(len(values), size=shape)].mean(axis=1) for _ in range(_N_RESAMPLES // shape[0])]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def _with_interval(mean: float, interval: tuple[float, float], n_episodes: int) -> str:
    if math.isnan(mean):
        return "unknown"
    if n_episodes == 1:
        return f"{mean:,.1f}"  # one episode tells nothing about the spread
    return f"{mean:,.1f} [{interval[0]:,.1f}, {interval[1]:,.1f}]"
