"""A scripted controller for Safety-Gymnasium's Goal tasks: it reads the lidars, and walks around hazards or not."""

from dataclasses import dataclass

import numpy as np

from benchmarks.datasets.behaviors import DECIMALS

N_BINS = 16
LIDAR_RANGE = 3.0  # metres: a lidar reads 1 at 0 m and 0 from there on
HAZARD_RADIUS = 0.2  # metres
LOOK_AHEAD = 1.2  # metres: a hazard that is farther away does not count yet
# Of the middle of each bin, in radians from straight ahead to the left.
BIN_ANGLES = (np.arange(N_BINS) + 0.5) * 2 * np.pi / N_BINS
HEADINGS = np.linspace(-np.pi, np.pi, 72, endpoint=False)


@dataclass(frozen=True)
class _Sensors:
    """Where they begin in a robot's observation."""

    velocimeter: int
    lidars: int


SENSORS = {"Point": _Sensors(3, 12), "Car": _Sensors(3, 24)}


@dataclass(frozen=True)
class GoalSeeker:
    """
    Turns to the goal, or to the free direction nearest to it, and goes there.

    :param robot: ``"Point"`` or ``"Car"``
    :param speed: in m/s, at most
    :param margin: in metres, kept from hazards beyond their radius
    :param caution: how far, in radians, it turns away from the goal rather than cross a hazard; 0 does not look at them
    :param noise: the standard deviation of its actions
    """

    robot: str
    speed: float
    margin: float
    caution: float
    noise: float

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """
        :param observation: (N, D), raw
        :param state: not used
        :param episode_start: not used
        :param deterministic: whether to leave the noise out, which is drawn from NumPy's global random state
        :return: actions (N, 2), rounded, in [-1, 1]
        """
        observation, sensors = np.asarray(observation, np.float64), SENSORS[self.robot]
        velocity = observation[:, sensors.velocimeter : sensors.velocimeter + 2]
        goal, hazards = (observation[:, sensors.lidars + i * N_BINS :][:, :N_BINS] for i in (0, 1))
        heading = self._choose(*locate(goal), hazards)
        actions = (_point if self.robot == "Point" else _car)(self.speed, heading, velocity)
        if not deterministic:
            actions = actions + self.noise * np.random.normal(size=actions.shape)  # noqa: NPY002
        return np.clip(actions, -1.0, 1.0).round(DECIMALS).astype(np.float32), None

    def _choose(self, goal_angle: np.ndarray, goal_distance: np.ndarray, hazards: np.ndarray) -> np.ndarray:
        """(N,) the direction to go, in radians to the left of straight ahead."""
        if self.caution == 0.0:
            return goal_angle
        # (N, headings, bins). A hazard counts if it is ahead, nearer than the goal, and the line of the heading crosses
        # it (1) or passes it within the margin (less); the nearer it is, the more.
        distance = LIDAR_RANGE * (1 - hazards)[:, None, :]
        difference = _wrap(HEADINGS[:, None] - BIN_ANGLES)[None]
        ahead = np.abs(difference) < np.pi / 2
        nearer = distance * np.cos(difference) < goal_distance[:, None, None]
        aside = distance * np.abs(np.sin(difference)) - HAZARD_RADIUS
        blocked = np.where(ahead & nearer, np.clip(1 - aside / max(self.margin, 1e-6), 0.0, 1.0), 0.0)
        danger = (blocked * np.clip(LOOK_AHEAD - distance, 0.0, 1.0)).max(axis=2)
        detour = np.abs(_wrap(HEADINGS - goal_angle[:, None]))
        return HEADINGS[(detour + self.caution * danger).argmin(axis=1)]


def locate(lidar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Where the one object is that a pseudo lidar of Safety-Gymnasium sees.

    Its bin reads 1 - distance / range; the bins on both sides share that by how near to them the object is.

    :param lidar: (N, 16)
    :return: the angle (N,) in [-pi, pi), and the distance (N,) in metres
    """
    rows = np.arange(len(lidar))
    peak = lidar.argmax(axis=1)
    value = lidar[rows, peak]
    share = lidar[rows, (peak + 1) % N_BINS] / np.maximum(value, 1e-6)
    return _wrap((peak + share) * 2 * np.pi / N_BINS), LIDAR_RANGE * (1 - value)


def _point(speed: float, heading: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    # It turns at once and speeds up slowly: push where the velocity is missing, forwards or backwards.
    wanted = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    missing = speed * wanted - velocity + 0.15 * wanted
    backwards = missing[:, 0] < 0
    turn = np.arctan2(missing[:, 1], missing[:, 0])
    turn = np.where(backwards, _wrap(turn + np.pi), turn)
    return np.stack([0.1 * missing[:, 0], turn], axis=1)


def _car(speed: float, heading: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    # Its front is the -y axis of its sensors, and both wheels forwards is (1, 1).
    turn = _wrap(heading + np.pi / 2)
    aligned = np.clip(np.cos(turn), 0.0, 1.0) ** 2
    forward = 3.0 * (speed * aligned + velocity[:, 1])
    return np.stack([forward + turn, forward - turn], axis=1)


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
