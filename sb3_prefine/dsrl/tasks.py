"""The constants of DSRL's 38 tasks: files, environments, ranges of reward and cost, density grids."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sb3_prefine.envs import CATALOGUE
from sb3_prefine.utils.validation import require

Suite = Literal["bullet-safety-gym", "safety-gymnasium", "metadrive"]


@dataclass(frozen=True)
class Grid:
    """
    A grid over costs and returns, for DSRL's density filter. Names and defaults are those of ``pre_process_data``.

    :param cbins: Number of cells along the cost.
    :param rbins: Number of cells along the return.
    :param max_npb: Largest number of episodes that a cell keeps.
    :param min_npb: A cell with this number of episodes, or fewer, loses them all.
    """

    cbins: int = 10
    rbins: int = 50
    max_npb: int = 5
    min_npb: int = 2

    def __post_init__(self) -> None:
        for name, lowest in (("cbins", 1), ("rbins", 1), ("max_npb", 1), ("min_npb", 0)):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= lowest, name, value, f"a whole number >= {lowest}")


@dataclass(frozen=True)
class Task:
    """
    One task of DSRL, with the constants of dsrl 0.1.0.

    :param name: Name in dsrl's tables: ``HalfCheetahVelocity``, ``PointGoal1``, ``BallRun``, ``easysparse``.
    :param suite: Package that simulates the task, under its name in pip.
    :param env_id: Id for ``gymnasium.make`` after ``import sb3_prefine.envs``; None for MetaDrive.
    :param dsrl_id: Id under which dsrl registers the task.
    :param file_name: Name of the dataset's file. It contains the highest cost and the number of episodes.
    :param observation_size: Length of the observation vector; None for MetaDrive, where dsrl does not give it.
    :param action_size: Length of the action vector, in [-1, 1]; None for MetaDrive.
    :param max_episode_steps: Time limit of an episode, in steps.
    :param min_episode_reward: Lowest return of an episode in the dataset, normalized to 0.
    :param max_episode_reward: Highest return of an episode in the dataset, normalized to 1.
    :param min_episode_cost: Lowest cost of an episode in the dataset.
    :param max_episode_cost: Highest cost of an episode in the dataset.
    :param target_costs: The limits κ of DSRL's evaluation, whose scores are means over these three.
    """

    name: str
    suite: Suite
    env_id: str | None
    dsrl_id: str
    file_name: str
    observation_size: int | None
    action_size: int | None
    max_episode_steps: int
    min_episode_reward: float
    max_episode_reward: float
    min_episode_cost: float
    max_episode_cost: float
    target_costs: tuple[float, ...]

    def grid(self, density: float) -> Grid:
        """
        Look up the grid with which :func:`~sb3_prefine.dsrl.thin` keeps about this fraction of the task's dataset.

        :param density: Fraction of the episodes to keep.
        :return: The grid that DSRL uses.
        :raises ValueError: If DSRL has no grid for this density. The message lists the densities that it has.
        """
        grids = _GRIDS.get(self.name, {})
        if density not in grids:
            known = " and ".join(map(str, grids)) or "no other density"
            raise ValueError(
                f"density: DSRL has no grid of {self.name} for {density}, only for {known}. Give a Grid of your own."
            )
        rbins, max_npb = grids[density]
        return Grid(rbins=rbins, max_npb=max_npb)


def find_task(name: str | Task) -> Task:
    """
    Find a task by its name, the id of its environment, dsrl's id or the name of its file.

    :param name: ``HalfCheetahVelocity``, ``SafetyHalfCheetahVelocity-v1``, ``OfflineHalfCheetahVelocityGymnasium-v1``
        or ``SafetyHalfCheetahVelocityGymnasium-v1-250-2495.hdf5``. A ``Task`` is returned unchanged.
    :return: The task.
    :raises ValueError: If there is no such task. The message suggests similar names.
    """
    if isinstance(name, Task):
        return name
    if name in _ALIASES:
        return _ALIASES[name]
    by_lower = {alias.lower(): task.name for alias, task in _ALIASES.items()}
    close = dict.fromkeys(by_lower[alias] for alias in difflib.get_close_matches(str(name).lower(), by_lower))
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Its tasks are {', '.join(TASKS)}."
    raise ValueError(f"task: DSRL has no {name!r}. {hint}")


# The end of the file name (highest cost and number of episodes), the lowest and highest episode return, and the lowest
# and highest episode cost (dsrl/infos.py).
_Row = tuple[str, float, float, float, float]

_BULLET: dict[str, _Row] = {
    "AntCircle": ("200-5728", 0.0177031010389328, 460.7091979980469, 0.0, 200.0),
    "AntRun": ("150-1816", 0.001767391717990563, 955.4818725585938, 0.0, 150.0),
    "BallCircle": ("80-886", 0.38312244415283203, 881.46337890625, 0.0, 80.0),
    "BallRun": ("80-940", 26.339754104614258, 1327.445556640625, 0.0, 80.0),
    "CarCircle": ("100-1450", 3.484419822692871, 534.3060913085938, 0.0, 100.0),
    "CarRun": ("40-651", 204.28726196289062, 574.6533203125, 0.0, 40.0),
    "DroneCircle": ("100-1923", 207.794189453125, 996.38916015625, 0.0, 100.0),
    "DroneRun": ("140-1990", 10.557029724121094, 682.8330078125, 0.0, 140.0),
}
_NAVIGATION: dict[str, _Row] = {
    "CarButton1": ("250-2656", 0.0028926206826067613, 44.420003345738984, 0.0, 250.0),
    "CarButton2": ("300-3755", 0.001767391717990563, 41.99513815522894, 0.0, 300.0),
    "CarCircle1": ("250-1271", 8.037073135375977, 24.94155502319336, 0.0, 250.0),
    "CarCircle2": ("400-940", 5.113386154174805, 25.950098037719727, 0.0, 398.0),
    "CarGoal1": ("120-1671", 0.012232819540852091, 39.907809198384705, 0.0, 120.0),
    "CarGoal2": ("200-4105", 0.001032874531954775, 28.902897990056502, 0.0, 200.0),
    "CarPush1": ("200-2871", 0.013700173533941762, 16.304467598905237, 0.0, 200.0),
    "CarPush2": ("250-4407", 0.00029391133526335267, 15.141648491514314, 0.0, 250.0),
    "PointButton1": ("200-2268", 0.008822109034937853, 41.19301568767707, 0.0, 200.0),
    "PointButton2": ("250-3288", 0.014114166087574098, 42.8985953616709, 0.0, 250.0),
    "PointCircle1": ("200-1098", 20.067626953125, 61.72819519042969, 0.0, 200.0),
    "PointCircle2": ("300-895", 20.478347778320312, 54.02184295654297, 0.0, 299.0),
    "PointGoal1": ("100-2022", 0.01196012764197707, 30.071114857340543, 0.0, 100.0),
    "PointGoal2": ("200-3442", 0.002616959830266108, 27.717709787852737, 0.0, 200.0),
    "PointPush1": ("150-2379", 0.0014001545292344209, 16.518654299293367, 0.0, 150.0),
    "PointPush2": ("200-3242", 0.0012438183001730607, 14.691039145644403, 0.0, 200.0),
}
_VELOCITY: dict[str, _Row] = {
    "AntVelocity": ("250-2249", 6.1519012451171875, 2976.276611328125, 0.0, 250.0),
    "HalfCheetahVelocity": ("250-2495", 5.7509765625, 2806.93310546875, 0.0, 250.0),
    "HopperVelocity": ("250-2240", 37.05154800415039, 1911.396728515625, 0.0, 250.0),
    "SwimmerVelocity": ("200-1686", 0.07114458084106445, 238.95831298828125, 0.0, 200.0),
    "Walker2dVelocity": ("300-2729", 18.668498992919922, 3418.223876953125, 0.0, 300.0),
}
_METADRIVE: dict[str, _Row] = {
    "easysparse": ("85-1000", 20.094310760498047, 425.8006286621094, 0.00025356505648232996, 82.42418670654297),
    "easymean": ("85-1000", 22.142553329467773, 425.82440185546875, 0.0, 82.38601684570312),
    "easydense": ("85-1000", 19.71139144897461, 425.81732177734375, 0.0, 80.36358642578125),
    "mediumsparse": ("50-1000", 17.446578979492188, 269.80084228515625, 0.0, 46.46459197998047),
    "mediummean": ("50-1000", 17.032529830932617, 269.8221435546875, 0.0, 46.46154022216797),
    "mediumdense": ("50-1000", 15.102348327636719, 269.7813415527344, 0.0, 46.45858383178711),
    "hardsparse": ("85-1000", 17.247974395751953, 486.80523681640625, 0.0, 85.010009765625),
    "hardmean": ("85-1000", 19.387981414794922, 486.9967956542969, 0.00033149970113299787, 84.33995056152344),
    "harddense": ("85-1000", 15.386894226074219, 486.63616943359375, 0.0, 84.76679229736328),
}

# rbins and max_npb for each density; cbins and min_npb always have the defaults (dsrl/infos.py, DENSITY_CFG).
_GRIDS: dict[str, dict[float, tuple[int, int]]] = {
    "AntCircle": {0.5: (50, 12), 0.75: (50, 20)},
    "AntRun": {0.5: (50, 6), 0.75: (50, 10)},
    "BallCircle": {0.5: (20, 5), 0.75: (30, 10)},
    "BallRun": {0.5: (15, 7), 0.75: (15, 12)},
    "CarCircle": {0.5: (50, 5), 0.75: (50, 9)},
    "CarRun": {0.5: (20, 6), 0.75: (20, 11)},
    "DroneCircle": {0.5: (50, 10), 0.75: (50, 18)},
    "DroneRun": {0.5: (50, 6), 0.75: (50, 18)},
    "CarButton1": {0.25: (10, 8), 0.5: (10, 18)},
    "CarButton2": {0.25: (8, 13), 0.5: (8, 28)},
    "CarCircle1": {0.25: (5, 12), 0.5: (5, 28)},
    "CarCircle2": {0.25: (5, 8), 0.5: (5, 18)},
    "CarGoal1": {0.25: (8, 6), 0.5: (8, 13)},
    "CarGoal2": {0.25: (8, 14), 0.5: (8, 30)},
    "CarPush1": {0.25: (6, 16), 0.5: (6, 36)},
    "CarPush2": {0.25: (8, 22), 0.5: (8, 50)},
    "PointButton1": {0.25: (10, 6), 0.5: (10, 13)},
    "PointButton2": {0.25: (8, 12), 0.5: (8, 25)},
    "PointCircle1": {0.25: (5, 12), 0.5: (5, 28)},
    "PointCircle2": {0.25: (5, 10), 0.5: (5, 20)},
    "PointGoal1": {0.25: (8, 7), 0.5: (8, 16)},
    "PointGoal2": {0.25: (6, 14), 0.5: (8, 24)},
    "PointPush1": {0.25: (6, 13), 0.5: (6, 28)},
    "PointPush2": {0.25: (8, 15), 0.5: (8, 34)},
    "HalfCheetahVelocity": {0.25: (10, 12), 0.5: (10, 26)},
    "SwimmerVelocity": {0.25: (10, 7), 0.5: (10, 14)},
    "Walker2dVelocity": {0.25: (10, 10), 0.5: (10, 22)},
    "easydense": {0.5: (20, 15), 0.75: (20, 30)},
    "mediummean": {0.5: (20, 16), 0.75: (20, 33)},
    "hardsparse": {0.5: (20, 12), 0.75: (20, 32)},
}


def _make_tasks(
    suite: Suite,
    rows: Mapping[str, _Row],
    target_costs: tuple[float, ...],
    env_id: str | None,
    dsrl_id: str,
    file_name: str,
) -> dict[str, Task]:
    """Make the tasks of one suite. ``{}`` in ids and file names stands for the name of a task."""
    envs = {info.id: info for info in CATALOGUE}
    tasks = {}
    for name, (ending, min_reward, max_reward, min_cost, max_cost) in rows.items():
        env = envs[env_id.format(name)] if env_id else None
        tasks[name] = Task(
            name=name,
            suite=suite,
            env_id=env.id if env else None,
            dsrl_id=dsrl_id.format(name),
            file_name=f"{file_name.format(name)}-{ending}.hdf5",
            observation_size=env.observation_size if env else None,
            action_size=env.action_size if env else None,
            max_episode_steps=env.max_episode_steps if env else 1000,
            min_episode_reward=min_reward,
            max_episode_reward=max_reward,
            min_episode_cost=min_cost,
            max_episode_cost=max_cost,
            target_costs=target_costs,
        )
    return tasks


_LOW, _HIGH = (10.0, 20.0, 40.0), (20.0, 40.0, 80.0)  # target costs

TASKS: Mapping[str, Task] = MappingProxyType(
    _make_tasks("bullet-safety-gym", _BULLET, _LOW, "Safety{}-v0", "Offline{}-v0", "Safety{}-v0")
    | _make_tasks(
        "safety-gymnasium", _NAVIGATION, _HIGH, "Safety{}-v0", "Offline{}Gymnasium-v0", "Safety{}Gymnasium-v0"
    )
    | _make_tasks("safety-gymnasium", _VELOCITY, _HIGH, "Safety{}-v1", "Offline{}Gymnasium-v1", "Safety{}Gymnasium-v1")
    | _make_tasks("metadrive", _METADRIVE, _LOW, None, "OfflineMetadrive-{}-v0", "SafeMetaDrive-{}-v0")
)
"""All 38 tasks by their names."""

PAPER_TASKS = (
    "AntVelocity",
    "HalfCheetahVelocity",
    "HopperVelocity",
    "SwimmerVelocity",
    "Walker2dVelocity",
    "PointGoal1",
    "CarGoal1",
    "BallRun",
    "BallCircle",
    "CarRun",
    "CarCircle",
    "DroneRun",
)
"""The names of the twelve tasks in the paper, those of Safety-Gymnasium first."""

_ALIASES = {
    alias: task for task in TASKS.values() for alias in (task.name, task.env_id, task.dsrl_id, task.file_name) if alias
}
