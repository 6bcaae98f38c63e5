"""
The navigation tasks of Safety-Gymnasium: an agent reaches goals, presses buttons or pushes a box among obstacles.

Ji et al., *Safety-Gymnasium: A Unified Safe Reinforcement Learning Benchmark*, NeurIPS 2023. The cost of a step is 1
if the agent touches an obstacle or enters a zone, otherwise 0. ``info`` also has the cost of each source.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from sb3_prefine.envs.compat import require

require("safety-gymnasium")

import mujoco  # noqa: E402
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer  # noqa: E402
from safety_gymnasium import world  # noqa: E402
from safety_gymnasium.bases.base_agent import BaseAgent  # noqa: E402
from safety_gymnasium.builder import Builder  # noqa: E402


class NavigationEnv(Builder):
    """
    One agent in one task, as a gymnasium environment.

    An episode has the layout that Safety-Gymnasium draws for the same seed.

    :param agent: Name of the agent: ``"Point"``, ``"Car"``, ``"Racecar"``, ``"Doggo"`` or ``"Ant"``.
    :param task: Name of the task with its level, for instance ``"Goal1"``.
    :param render_mode: None, ``"human"``, ``"rgb_array"`` or ``"depth_array"``.
    :param width: Width of the image in pixels.
    :param height: Height of the image in pixels.
    :param camera_id: Number of the camera.
    :param camera_name: Name of the camera: ``"vision"`` (default), ``"track"``, ``"fixednear"`` or ``"fixedfar"``.
    """

    def __init__(
        self,
        agent: str,
        task: str,
        render_mode: str | None = None,
        width: int = 256,
        height: int = 256,
        camera_id: int | None = None,
        camera_name: str | None = None,
    ):
        # The package derives the class of the task from an id.
        task_id = f"Safety{agent}{task}-v0"
        # gymnasium converts the bounds of the actions from float32 to float64, and warns about it.
        with np.errstate(over="ignore"):
            super().__init__(task_id, {"agent_name": agent}, render_mode, width, height, camera_id, camera_name)
        # The package stores the config only, which is not enough to build a copy.
        gymnasium.utils.EzPickle.__init__(self, agent, task, render_mode, width, height, camera_id, camera_name)
        # gymnasium's TimeLimit ends the episode, at its own horizon.
        self.task.num_steps = sys.maxsize
        self._simulate = self.task.simulation_forward
        self.task.simulation_forward = self._simulate_or_raise
        self._observation: np.ndarray

    def set_seed(self, seed: int | None = None) -> None:
        """Start the environment's own random stream. Without a seed, it does not draw one from NumPy's global state."""
        super().set_seed(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        Build the world of a new episode.

        :param seed: Seed in [0, 2**32 - 1], or None to continue the environment's random stream.
        :param options: Unused.
        """
        gymnasium.Env.reset(self, seed=seed)
        with _without_sky() if self.render_mode is None else contextlib.nullcontext():
            self._observation, info = super().reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Simulate one step.

        If MuJoCo fails, the episode is truncated with the package's reward of -10 and a cost of 1. The observation is
        then the previous one, because the state is invalid.
        """
        try:
            # NumPy 2 allows the package's `np.array(action, copy=False)` for arrays only.
            self._observation, reward, cost, terminated, truncated, info = super().step(np.asarray(action))
        except _SimulationError:
            self.truncated = True
            reward = self.task.reward_conf.reward_exception
            return self._observation.copy(), reward, False, True, {"cost_exception": 1.0, "cost": 1.0}
        info["cost"] = float(cost)
        return self._observation, float(reward), bool(terminated), truncated, info

    def render(self) -> np.ndarray | None:
        """The camera's image in the form of ``render_mode``; None in ``"human"`` mode."""
        viewers, mode = self.task._viewers, self.render_mode
        if mode in ("rgb_array", "depth_array") and mode not in viewers:
            # The package would make the viewer without the size, which gymnasium 1.0 requires.
            size = self.render_parameters.width, self.render_parameters.height
            screen = self.task.model.vis.global_
            screen.offwidth, screen.offheight = size
            viewers[mode] = OffScreenViewer(self.task.model, self.task.data, *size)
        return super().render()

    def close(self) -> None:
        """Close the viewers. The environment stays usable."""
        while self.task._viewers:
            self.task._viewers.popitem()[1].close()
        self.task.viewer = None

    def _simulate_or_raise(self, action: np.ndarray) -> bool:
        # `Builder.step` fails on an unassigned variable when this is true.
        if self._simulate(action):
            raise _SimulationError
        return False


class _SimulationError(Exception):
    """MuJoCo failed."""


_xmltodict = world.xmltodict


class _XmlWithoutSky:
    """xmltodict, with a sky removed from what it writes."""

    parse = staticmethod(_xmltodict.parse)

    @staticmethod
    def unparse(xml: dict[str, Any]) -> str:
        asset = xml["mujoco"]["asset"]
        asset["texture"] = [texture for texture in asset["texture"] if texture["@type"] != "skybox"]
        return _xmltodict.unparse(xml)


@contextlib.contextmanager
def _without_sky() -> Iterator[None]:
    """Build worlds that are not rendered without a sky, whose six large PNG files take most of a reset's time."""
    world.xmltodict = _XmlWithoutSky
    try:
        yield
    finally:
        world.xmltodict = _xmltodict


def _sort_joint_sensors(agent: BaseAgent) -> None:
    """
    Sort the agent's sensors by what they measure: angles and speeds of its joints, and the pose of its body.

    The package does this with indices in arrays of length one, which MuJoCo and NumPy no longer accept.
    """
    model, info = agent.engine.model, agent.sensor_info
    joint, sensor = mujoco.mjtJoint, mujoco.mjtSensor
    joint_sensors = {
        (joint.mjJNT_HINGE, sensor.mjSENS_JOINTPOS): info.hinge_pos_names,
        (joint.mjJNT_HINGE, sensor.mjSENS_JOINTVEL): info.hinge_vel_names,
        (joint.mjJNT_BALL, sensor.mjSENS_BALLQUAT): info.ballquat_names,
        (joint.mjJNT_BALL, sensor.mjSENS_BALLANGVEL): info.ballangvel_names,
    }
    for i in range(model.nsensor):
        name, target = model.sensor(i).name, model.sensor_objtype[i]
        info.sensor_dim[name] = int(model.sensor_dim[i])
        if target == mujoco.mjtObj.mjOBJ_JOINT:
            kind = joint(model.jnt_type[model.sensor_objid[i]]), sensor(model.sensor_type[i])
            joint_sensors[kind].append(name)
        elif target == mujoco.mjtObj.mjOBJ_SITE and name == "agent_pos":
            info.freejoint_pos_name = name
        elif target == mujoco.mjtObj.mjOBJ_SITE and name == "agent_qvel":
            info.freejoint_qvel_name = name


_read_sensor = BaseAgent.get_sensor


def _get_sensor(agent: BaseAgent, name: str) -> np.ndarray | np.float64:
    """The value of a sensor. The package calls ``float`` on the angles, which NumPy 2.4 allows for numbers only."""
    value = _read_sensor(agent, name)
    return value[0] if name in agent.sensor_info.hinge_pos_names else value


BaseAgent._init_jnt_sensors = _sort_joint_sensors
BaseAgent.get_sensor = _get_sensor
