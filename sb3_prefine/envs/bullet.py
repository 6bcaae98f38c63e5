"""
The tasks of Bullet-Safety-Gym: balls, cars, ants and drones that run, circle, push and gather.

Gronauer, *Bullet-Safety-Gym: A Framework for Constrained Reinforcement Learning*, 2022. A step costs 1 if it breaks a
limit (speed, the border, a bomb), otherwise 0.

Its Reach tasks are not offered: their obstacles move with the wall clock, and the place of the goal depends on the
number of goals reached in all earlier episodes.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import gymnasium
import numpy as np

from sb3_prefine.envs.compat import require

require("bullet-safety-gym")

# While it is imported, the package redirects stderr and looks for a C stream of that name, which pytest and notebooks
# do not have. It accepts a stream whose name is a number.
with open(2, "w", closefd=False) as _stderr, contextlib.redirect_stderr(_stderr):
    from bullet_safety_gym.envs import builder


@contextlib.contextmanager
def _quiet_stdout(stream: TextIO) -> Iterator[None]:
    """Hide Bullet's output at its start. The package's own way fails where stdout is not a C stream."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(stdout.fileno(), 1)


builder.RedirectStream = _quiet_stdout

_AGENTS = {"Ball": "Ball", "Car": "RaceCar", "Ant": "Ant", "Drone": "Drone"}
_FRUIT = {"number": 8, "fixed_base": True, "movement": "static"}
# Class of each task, its world and its obstacles.
_TASKS: dict[str, tuple[str, str, dict[str, dict]]] = {
    "Run": ("RunTask", "Plane200", {}),
    "Circle": ("CircleTask", "Octagon", {}),
    "Push": ("PushTask", "SmallRoom", {}),
    "Gather": ("GatherTask", "SmallRoom", {"Apple": _FRUIT, "Bomb": _FRUIT}),
}


class BulletEnv(builder.EnvironmentBuilder):
    """
    One agent in one task, as a gymnasium environment.

    Each episode starts like the package's first episode in a new environment after ``numpy.random.seed(seed)``. It
    depends neither on NumPy's global random state nor on earlier episodes. (In the package, motors keep running into
    the next episode and contacts persist. Bullet's saved state does not undo that:
    https://github.com/bulletphysics/bullet3/issues/2982.)

    :param agent: Name of the agent: ``"Ball"``, ``"Car"``, ``"Ant"`` or ``"Drone"``.
    :param task: Name of the task: ``"Run"``, ``"Circle"``, ``"Push"`` or ``"Gather"``.
    :param render_mode: None, ``"human"`` (a window) or ``"rgb_array"`` (360 x 480 pixels, drawn in software).
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 (as in gymnasium.Env)

    def __init__(self, agent: str, task: str, render_mode: str | None = None):
        self.render_mode = render_mode
        self._random_state = np.random.RandomState().get_state()
        task_class, world, obstacles = _TASKS[task]
        # gymnasium converts the bounds of the observations from float32 to float64, and warns about it.
        with self._own_random_numbers(), np.errstate(over="ignore"):
            super().__init__(_AGENTS[agent], task_class, obstacles, {"name": world}, graphics=render_mode == "human")
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt)}
        # Each episode starts from here, including the first.
        self.stored_state_id = self.bc.saveState()
        # The only place where a step draws random numbers: swapping the state in each step would double its time.
        self._update_goal: Callable[[], None] = self.task.update_goal
        self.task.update_goal = self._update_goal_with_own_random_numbers

    @property
    def seed(self) -> Callable[..., Any]:
        """Not available, because the package's ``seed()`` has no effect."""
        raise AttributeError("Seed the environment with reset(seed=...).")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        Start an episode.

        :param seed: Seed in [0, 2**32 - 1], or None to continue the environment's random stream.
        :param options: Unused.
        """
        gymnasium.Env.reset(self, seed=seed)
        if seed is not None:
            self._random_state = np.random.RandomState(seed).get_state()
        self._forget_last_episode()
        with self._own_random_numbers():
            observation, info = super().reset()
        self.agent.violates_constraints(False)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Simulate one step."""
        observation, reward, terminated, truncated, info = super().step(action)
        info["cost"] = float(info["cost"])
        return observation, float(reward), bool(terminated), truncated, info

    def render(self) -> np.ndarray | None:
        """The image, height x width x 3; None in ``"human"`` mode, where the window is always up to date."""
        if self.render_mode != "rgb_array":
            return None
        if not self.agent._violates_constraints:
            # The package hides the red ball of an agent within the limits by transparency, which the software renderer
            # ignores.
            self.bc.resetBasePositionAndOrientation(self.agent.violation_body_id, (0, 0, -100), (0, 0, 0, 1))
        return super().render("rgb_array").astype(np.uint8)

    def _forget_last_episode(self) -> None:
        """Remove what Bullet would keep from the last episode: motor commands, and contacts around the agent."""
        for joint in self.agent.joint_list:
            joint.disable_motor()
        self.agent.set_position((0, 0, 500))
        self.bc.performCollisionDetection()

    def _update_goal_with_own_random_numbers(self) -> None:
        with self._own_random_numbers():
            self._update_goal()

    @contextlib.contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Swap this environment's random state into NumPy's global one, from which the package draws."""
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._random_state)  # noqa: NPY002
        try:
            yield
        finally:
            self._random_state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002
