"""Holds robots that can fall to a speed, which a cost for each step that is too fast does not."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

# Of the reward of 1 for each m/s: slower is a little better, and no speed is worth less than a fall.
CHARGE = 1.2
# Where Safety-Gymnasium's robots keep it, in m/s.
SPEED_LIMIT = "_velocity_threshold"


class Pacemaker(VecEnvWrapper):
    """
    Charges what goes beyond a speed, by the m/s.

    Under a Lagrange multiplier on the steps that are too fast, the hopper learnt to fall before it costs; with a bonus
    for every step, to stand still.

    :param venv: robots whose ``info`` has their ``x_velocity``, and ``y_velocity`` if they move in a plane

    ``pace`` is the speed, in units of the task's speed limit.
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.pace = np.inf
        self._speed_limit = float(venv.env_method("get_wrapper_attr", SPEED_LIMIT)[0])

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        speeds = np.array([np.hypot(info["x_velocity"], info.get("y_velocity", 0.0)) for info in infos])
        excess = np.maximum(speeds - self.pace * self._speed_limit, 0.0)
        return observations, (rewards - CHARGE * excess).astype(np.float32), dones, infos
