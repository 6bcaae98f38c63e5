"""The cost of an action at a recorded state, by one step of the simulator."""

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_prefine.data.columns import Observations
from sb3_prefine.evaluation.cost_gap import CostFunction

# The robot's place in the world (x, or x and y) is not observed, and does not change the cost.
_MAX_HIDDEN = 2
# Hopper and Walker2d clip the observed velocities to this (rad/s, m/s).
_VELOCITY_BOUND = 10.0


def one_step_costs(env: gymnasium.Env) -> CostFunction:
    """
    Make a function that computes the cost of actions at recorded states of a MuJoCo robot, with its simulator.

    The observation has to be the simulator's state without the place: positions ``qpos`` without x (and y), then
    velocities ``qvel``. This holds for HalfCheetah, Hopper, Swimmer, Walker2d and Safety-Gymnasium's Ant. The function
    restores each state, takes one step with the action, and reads ``info["cost"]``.

    Hopper and Walker2d observe velocities clipped to ±10. For a velocity beyond that, the robot starts at 10, so the
    cost of such a step can differ from the true one. Observations are float32, so the cost of a step right at the limit
    can differ too.

    :param env: Environment that reports ``info["cost"]``. The function steps it, so do not use it elsewhere.
    :return: A function from observations (N, O) and actions (N, A) to costs (N,).
    :raises ValueError: If the environment is not a MuJoCo robot, its observation is not that state, or it reports no
        cost.
    """
    robot = env.unwrapped
    if not isinstance(robot, MujocoEnv):
        raise ValueError(f"env: {type(robot).__name__} is not one of gymnasium's MuJoCo robots. Pass one.")
    model, data = robot.model, robot.data
    first, _ = env.reset(seed=0)
    n_hidden = model.nq + model.nv - np.size(first)
    velocities = np.clip(data.qvel, -_VELOCITY_BOUND, _VELOCITY_BOUND)
    if not (
        0 <= n_hidden <= _MAX_HIDDEN and np.allclose(first, np.concatenate((data.qpos[n_hidden:], velocities)), 1e-6)
    ):
        raise ValueError(
            f"env: the observation of {type(robot).__name__}, of shape {np.shape(first)}, is not the simulator's state "
            f"({model.nq} positions without x and y, {model.nv} velocities), so it cannot be restored from it. Pass "
            "the environment without wrappers that change observations."
        )
    if "cost" not in env.step(np.zeros(env.action_space.shape or (), np.float32))[4]:
        raise ValueError('env: it reports no info["cost"]. Wrap it in an environment that does, such as SpeedLimit.')
    hidden = np.zeros(n_hidden)

    def costs(observations: Observations, actions: np.ndarray) -> np.ndarray:
        found = np.empty(len(actions))
        states = np.asarray(observations, np.float64)
        for row, (state, action) in enumerate(zip(states, actions, strict=True)):
            # Without a reset the solver would start from the forces of the previous row.
            mujoco.mj_resetData(model, data)
            positions, velocities = np.split(np.concatenate((hidden, state)), [model.nq])
            robot.set_state(positions, velocities)
            found[row] = env.step(action)[4]["cost"]
        return found

    return costs
