"""What another action would have cost: one step of the simulator from a recorded state."""

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_prefine.data.columns import Observations
from sb3_prefine.evaluation.cost_gap import CostFunction

# Where the robot is in the world, which costs nothing and is not observed: x, or x and y.
_MOST_HIDDEN = 2
# Hopper and Walker2d observe velocities no larger than this (rad/s, m/s).
_VELOCITY_BOUND = 10.0


def one_step_costs(env: gymnasium.Env) -> CostFunction:
    """
    The cost of actions at recorded states of a MuJoCo robot, by its simulator.

    For environments whose observation is the simulator's state but for the place: positions ``qpos`` without x (and y),
    then velocities ``qvel``. These are HalfCheetah, Hopper, Swimmer, Walker2d and Safety-Gymnasium's Ant. Each state is
    restored, the action is followed for one step, and ``info["cost"]`` is its cost.

    Hopper and Walker2d observe velocities clipped to ±10. Where one was beyond, the robot starts at 10: the cost of
    such a step can differ from the true one. Observations are float32, so a step at the limit itself can, too.

    :param env: with ``info["cost"]``; it belongs to the function from then on, which moves it
    :return: takes observations (N, O) and actions (N, A) and returns costs (N,); the same for the same state and action
    :raises ValueError: it is no MuJoCo robot, its observation is not that state, or it reports no cost
    """
    robot = env.unwrapped
    if not isinstance(robot, MujocoEnv):
        raise ValueError(f"env: {type(robot).__name__} is not one of gymnasium's MuJoCo robots: no state to restore.")
    model, data = robot.model, robot.data
    first, _ = env.reset(seed=0)
    n_hidden = model.nq + model.nv - np.size(first)
    velocities = np.clip(data.qvel, -_VELOCITY_BOUND, _VELOCITY_BOUND)
    if not (
        0 <= n_hidden <= _MOST_HIDDEN and np.allclose(first, np.concatenate((data.qpos[n_hidden:], velocities)), 1e-6)
    ):
        raise ValueError(
            f"env: the observation of {type(robot).__name__}, of shape {np.shape(first)}, is not the simulator's state "
            f"({model.nq} positions without x and y, {model.nv} velocities), so it cannot be restored from it. Pass "
            "the environment without wrappers that change observations."
        )
    if "cost" not in env.step(np.zeros(env.action_space.shape or (), np.float32))[4]:
        raise ValueError('env: it reports no info["cost"]. Put one around it, such as SpeedLimit.')
    hidden = np.zeros(n_hidden)

    def costs(observations: Observations, actions: np.ndarray) -> np.ndarray:
        found = np.empty(len(actions))
        states = np.asarray(observations, np.float64)
        for row, (state, action) in enumerate(zip(states, actions, strict=True)):
            # The solver starts from the last step's forces, which would let it remember the row before.
            mujoco.mj_resetData(model, data)
            positions, velocities = np.split(np.concatenate((hidden, state)), [model.nq])
            robot.set_state(positions, velocities)
            found[row] = env.step(action)[4]["cost"]
        return found

    return costs
