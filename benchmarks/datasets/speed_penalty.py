"""A penalty on speed for robots that can fall; a cost for each step that is too fast does not hold them to a speed."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

# The reward is 1 for each m/s. The penalty is a little larger, so that slowing down pays, but not so large that a fall
# pays more than running.
PENALTY = 1.2
# Name of the attribute in which Safety-Gymnasium's robots keep their speed limit, in m/s.
SPEED_LIMIT = "_velocity_threshold"


class SpeedPenalty(VecEnvWrapper):
    """
    Subtract a penalty from the reward for each m/s above a maximum speed.

    The attribute ``max_speed`` is that speed, in units of the task's speed limit. With a Lagrange multiplier on the
    steps that are too fast instead, the hopper learned to fall before they cost anything; with a bonus for every step,
    it learned to stand still.

    :param venv: Environments whose ``info`` has ``x_velocity``, and ``y_velocity`` if the robots move in a plane.
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.max_speed = np.inf
        self._speed_limit = float(venv.env_method("get_wrapper_attr", SPEED_LIMIT)[0])

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        speeds = np.array([np.hypot(info["x_velocity"], info.get("y_velocity", 0.0)) for info in infos])
        excess = np.maximum(speeds - self.max_speed * self._speed_limit, 0.0)
        return observations, (rewards - PENALTY * excess).astype(np.float32), dones, infos
