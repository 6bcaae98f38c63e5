"""The cost gap (paper, Fig. 2): the cost of a policy's own actions at the states of recorded episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_prefine.data.columns import Observations, episode_sums
from sb3_prefine.data.space_checks import check_against_spaces
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.reference.reference import Reference
from sb3_prefine.rollout.fast_predict import fast_predict
from sb3_prefine.rollout.predictor import action_converter, open_policy
from sb3_prefine.utils.observations import map_arrays
from sb3_prefine.utils.randomness import IsolatedRandomState

# (observations, actions) -> costs (N,): raw observations, and actions as an environment receives them, in the layout of
# Trajectories.
CostFunction: TypeAlias = Callable[[Observations, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class CostGap:
    """
    The costs of recorded episodes, and of a policy's actions at the same states.

    :param recorded: Sum of the recorded costs of each episode, (n_episodes,); its violations, if costs are 0 or 1.
    :param sampled: Sum of the costs of the policy's actions at the same states, (n_episodes,).
    """

    recorded: np.ndarray
    sampled: np.ndarray

    @property
    def mean(self) -> float:
        """Mean absolute gap of an episode, which does not tell which of the two costs more."""
        return float(np.abs(self.recorded - self.sampled).mean())


def cost_gap(
    policy: BaseAlgorithm | Reference | str | Path, trajectories: Trajectories, cost_fn: CostFunction, seed: int = 0
) -> CostGap:
    """
    Compare the cost of recorded episodes with that of a policy's actions at their states.

    The paper (section 3.2) compares an episode with actions that are sampled from the policy at the episode's states.
    This is not a rollout: each action is followed for one step only. Actions are those of
    ``predict(deterministic=False)``; a policy without noise (TD3's) gives its only action. A recurrent policy runs
    along each episode from its start.

    :param policy: A PREFINE or another SB3 model, a reference or the path of one.
    :param trajectories: Episodes with known costs.
    :param cost_fn: Function from N observations and actions to their costs, (N,).
        :func:`~sb3_prefine.evaluation.one_step_cost.one_step_costs` makes one for MuJoCo's robots.
    :param seed: Seed of the actions. The caller's random states are restored.
    :return: The costs of each episode.
    :raises ValueError: If a recorded cost is unknown, the episodes do not fit the policy, or ``cost_fn`` does not
        return a cost for each action.
    """
    recorded = trajectories.episode_costs
    unknown = int(np.isnan(recorded).sum())
    if unknown:
        raise ValueError(
            f"trajectories: the cost of {unknown} of {len(recorded)} episodes is unknown (NaN), so a gap cannot be "
            "computed. Leave them out, or fill in their costs."
        )
    randomness = IsolatedRandomState(seed)
    with randomness:  # opening builds networks, which draws initial weights
        predictor = cast(Reference, open_policy(policy))
    spaces = predictor.observation_space, predictor.action_space
    check_against_spaces("trajectories", trajectories, *spaces, predictor.takes_action_masks)
    with randomness:
        actions = _sample_actions(predictor, trajectories)
    costs = _checked(cost_fn(trajectories.observations, actions), len(actions))
    return CostGap(recorded, episode_sums(costs, trajectories.episode_starts))


def _sample_actions(policy: Reference, trajectories: Trajectories) -> np.ndarray:
    """The policy's action at each observation, in the layout of the recorded actions."""
    starts, lengths = trajectories.episode_starts, trajectories.episode_lengths
    actions = np.empty(trajectories.actions.shape, trajectories.actions.dtype)
    predict, to_env_actions = fast_predict(policy), action_converter(policy.action_space, len(starts))
    state: tuple[np.ndarray, ...] | None = None
    for step in range(int(lengths.max())):
        # Ended episodes stay in the batch at their last state, so that the rows of a recurrent state keep their places.
        rows, running = starts + np.minimum(step, lengths - 1), step < lengths
        masks: dict[str, Any] = {}
        if trajectories.action_masks is not None:
            masks["action_masks"] = trajectories.action_masks[rows]
        chosen, state = predict(
            map_arrays(itemgetter(rows), trajectories.observations),
            state=state,
            episode_start=np.full(len(starts), step == 0),
            deterministic=False,
            **masks,
        )
        actions[rows[running]] = to_env_actions(chosen)[running].reshape(-1, *actions.shape[1:])
    return actions


def _checked(costs: np.ndarray, n: int) -> np.ndarray:
    costs = np.asarray(costs)
    if costs.shape != (n,):
        raise ValueError(f"cost_fn: it returned the shape {costs.shape}. Return one cost for each action, ({n},).")
    if not (np.isfinite(costs) & (costs >= 0)).all():
        row = int(np.argmin(np.isfinite(costs) & (costs >= 0)))
        raise ValueError(f"cost_fn: it returned {costs[row]} for action {row}. A cost is a finite number, 0 or more.")
    return costs
