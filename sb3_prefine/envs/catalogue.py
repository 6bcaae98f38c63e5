"""The catalogue of ``Safety*`` environments: entry points, sizes and horizons."""

from dataclasses import dataclass
from itertools import product
from typing import Any

from gymnasium.envs.registration import WrapperSpec


@dataclass(frozen=True)
class EnvInfo:
    """
    One environment of the catalogue.

    :param id: Id for ``gymnasium.make``.
    :param package: Name of the package that simulates it, as pip writes it.
    :param observation_size: Length of the observation vector.
    :param action_size: Length of the action vector.
    :param max_episode_steps: Horizon, at which episodes are truncated.
    :param entry_point: Entry point of the class, in gymnasium's form.
    :param kwargs: Keyword arguments of the class.
    :param wrappers: Wrappers that gymnasium applies.
    """

    id: str
    package: str
    observation_size: int
    action_size: int
    max_episode_steps: int
    entry_point: str
    kwargs: dict[str, Any]
    wrappers: tuple[WrapperSpec, ...] = ()


def _speed_limit() -> list[EnvInfo]:
    # The threshold of SafetyHalfCheetahVelocity-v1, see velocity.py.
    wrapper = WrapperSpec("SpeedLimit", "sb3_prefine.envs.speed_limit:SpeedLimit", {"limit": 3.2096})
    entry_point = "sb3_prefine.envs.quiet:make_half_cheetah"
    return [EnvInfo("SpeedLimitHalfCheetah-v0", "mujoco", 17, 6, 1000, entry_point, {}, (wrapper,))]


def _velocity() -> list[EnvInfo]:
    # Observation and action size.
    robots = {
        "Ant": (27, 8),
        "HalfCheetah": (17, 6),
        "Hopper": (11, 3),
        "Humanoid": (376, 17),
        "Swimmer": (8, 2),
        "Walker2d": (17, 6),
    }
    return [
        EnvInfo(
            f"Safety{robot}Velocity-v{version}",
            "safety-gymnasium",
            *sizes,
            1000,
            f"sb3_prefine.envs.velocity:Safety{robot}VelocityV{version}",
            {},
        )
        for (robot, sizes), version in product(robots.items(), (0, 1))
    ]


def _navigation() -> list[EnvInfo]:
    # Size of the agent's own observation, and its action size.
    agents = {"Point": (12, 2), "Car": (24, 2), "Racecar": (12, 2), "Doggo": (56, 12), "Ant": (40, 8)}
    # Horizon, and the number of lidars on the levels 0, 1 and 2. A lidar has 16 bins.
    tasks = {
        "Goal": (1000, (1, 3, 3)),
        "Button": (1000, (2, 4, 4)),
        "Push": (1000, (2, 4, 4)),
        "Circle": (500, (1, 1, 1)),
        "Run": (500, (0,)),
        "FadingEasy": (1000, (1, 3, 3)),
        "FadingHard": (1000, (1, 3, 3)),
    }
    return [
        EnvInfo(
            f"Safety{agent}{task}{level}-v0",
            "safety-gymnasium",
            observation_size + 16 * n_lidars,
            action_size,
            horizon,
            "sb3_prefine.envs.navigation:NavigationEnv",
            {"agent": agent, "task": f"{task}{level}"},
        )
        for (agent, (observation_size, action_size)), (task, (horizon, lidars)) in product(
            agents.items(), tasks.items()
        )
        for level, n_lidars in enumerate(lidars)
    ]


def _bullet() -> list[EnvInfo]:
    # Size of the agent's own observation, its action size, and the horizon of each task.
    agents = {
        "Ball": (7, 2, {"Run": 100, "Circle": 200, "Push": 250, "Gather": 250}),
        "Car": (7, 2, {"Run": 200, "Circle": 300, "Push": 500, "Gather": 500}),
        "Ant": (33, 8, {"Run": 200, "Circle": 500, "Gather": 1000}),
        "Drone": (17, 4, {"Run": 200, "Circle": 300, "Gather": 500}),
    }
    # Number of entries that a task adds to the observation.
    task_sizes = {"Run": 0, "Circle": 1, "Push": 2, "Gather": 32}
    return [
        EnvInfo(
            f"Safety{agent}{task}-v0",
            "bullet-safety-gym",
            observation_size + task_sizes[task],
            action_size,
            horizon,
            "sb3_prefine.envs.bullet:BulletEnv",
            {"agent": agent, "task": task},
        )
        for agent, (observation_size, action_size, horizons) in agents.items()
        for task, horizon in horizons.items()
    ]


CATALOGUE: tuple[EnvInfo, ...] = (*_speed_limit(), *_velocity(), *_navigation(), *_bullet())
