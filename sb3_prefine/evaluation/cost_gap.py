"""The cost gap (paper, Fig. 2): what a policy's own actions would cost at the states of recorded episodes."""

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
from sb3_prefine.utils.randomness import OwnRandomState

# (observations, actions) -> (N,) costs. Raw observations, and actions as an environment receives them, in the layout of
# Trajectories.
CostFunction: TypeAlias = Callable[[Observations, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class CostGap:
    """
    The costs of episodes: of the actions in them, and of other actions at the same states.

    :param recorded: (n_episodes,), costs summed over each episode: with costs of 0 and 1, its violations
    :param sampled: (n_episodes,), the same of a policy's actions
    """

    recorded: np.ndarray
    sampled: np.ndarray

    @property
    def mean(self) -> float:
        """The mean absolute gap of an episode, which does not say which of the two costs more."""
        return float(np.abs(self.recorded - self.sampled).mean())


def cost_gap(
    policy: BaseAlgorithm | Reference | str | Path, trajectories: Trajectories, cost_fn: CostFunction, seed: int = 0
) -> CostGap:
    """
    Compare the cost of recorded episodes with that of a policy's actions at their states.

    What the paper compares an episode with (section 3.2) has the same states, and at each of them an action sampled
    from the policy. It is no rollout: every action is followed for one step only. Sampling is that of
    ``predict(deterministic=False)``; a policy without noise (TD3's) gives its action. A recurrent policy runs along
    each episode from its start.

    :param policy: a PREFINE or another SB3 model, what ``load_reference`` returns or opens
    :param trajectories: the episodes, of known costs
    :param cost_fn: the costs (N,) of actions at N observations. For MuJoCo's robots there is
        :func:`~sb3_prefine.evaluation.one_step_cost.one_step_costs`
    :param seed: of the actions; the caller's random states are left as they were
    :raises ValueError: a recorded cost is unknown, the episodes do not fit the policy, or ``cost_fn`` did not return a
        cost for each action
    """
    recorded = trajectories.episode_costs
    unknown = int(np.isnan(recorded).sum())
    if unknown:
        raise ValueError(
            f"trajectories: the cost of {unknown} of {len(recorded)} episodes is unknown (NaN), so there is nothing to "
            "compare with. Leave them out, or fill in their costs."
        )
    randomness = OwnRandomState(seed)
    with randomness:  # opening builds networks, whose first weights are drawn
        predictor = cast(Reference, open_policy(policy))
    spaces = predictor.observation_space, predictor.action_space
    check_against_spaces("trajectories", trajectories, *spaces, predictor.takes_action_masks)
    with randomness:
        actions = _sample_actions(predictor, trajectories)
    costs = _checked(cost_fn(trajectories.observations, actions), len(actions))
    return CostGap(recorded, episode_sums(costs, trajectories.episode_starts))


def _sample_actions(policy: Reference, trajectories: Trajectories) -> np.ndarray:
    """The policy's action at every observation, in the layout of the recorded ones."""
    starts, lengths = trajectories.episode_starts, trajectories.episode_lengths
    actions = np.empty(trajectories.actions.shape, trajectories.actions.dtype)
    predict, fit = fast_predict(policy), action_converter(policy.action_space, len(starts))
    state: tuple[np.ndarray, ...] | None = None
    for step in range(int(lengths.max())):
        # Episodes that have ended stay in the batch, at their last state: a recurrent state keeps its rows.
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
        actions[rows[running]] = fit(chosen)[running].reshape(-1, *actions.shape[1:])
    return actions


def _checked(costs: np.ndarray, n: int) -> np.ndarray:
    costs = np.asarray(costs)
    if costs.shape != (n,):
        raise ValueError(f"cost_fn: it returned the shape {costs.shape}. Return one cost for each action, ({n},).")
    if not (np.isfinite(costs) & (costs >= 0)).all():
        row = int(np.argmin(np.isfinite(costs) & (costs >= 0)))
        raise ValueError(f"cost_fn: it returned {costs[row]} for action {row}. A cost is a finite number, 0 or more.")
    return costs
