"""A scripted controller for Safety-Gymnasium's Goal tasks, which reads the lidars and can avoid hazards."""

from dataclasses import dataclass

import numpy as np

from benchmarks.datasets.behaviors import DECIMALS

N_BINS = 16
LIDAR_RANGE = 3.0  # metres; a lidar reads 1 at 0 m and 0 from this distance on
HAZARD_RADIUS = 0.2  # metres
LOOK_AHEAD = 1.2  # metres; hazards that are farther away are ignored
# Angle of the middle of each bin, in radians to the left of straight ahead.
BIN_ANGLES = (np.arange(N_BINS) + 0.5) * 2 * np.pi / N_BINS
HEADINGS = np.linspace(-np.pi, np.pi, 72, endpoint=False)


@dataclass(frozen=True)
class _Sensors:
    """Index of the first entry of each sensor in a robot's observation."""

    velocimeter: int
    lidars: int


SENSORS = {"Point": _Sensors(3, 12), "Car": _Sensors(3, 24)}


@dataclass(frozen=True)
class GoalSeeker:
    """
    Turn to the goal, or to the free direction nearest to it, and drive there.

    :param robot: ``"Point"`` or ``"Car"``.
    :param speed: Maximum speed, in m/s.
    :param margin: Distance that is kept from the edge of hazards, in metres.
    :param caution: Largest angle, in radians, by which the agent turns away from the goal to avoid a hazard; 0 ignores
        hazards.
    :param noise: Standard deviation of the stochastic actions.
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
        Compute actions, as SB3's ``predict`` does.

        :param observation: (N, D) raw observations.
        :param state: Not used.
        :param episode_start: Not used.
        :param deterministic: Whether to leave out the noise, which is drawn from NumPy's global random state.
        :return: (N, 2) rounded actions in [-1, 1], and None.
        """
        observation, sensors = np.asarray(observation, np.float64), SENSORS[self.robot]
        velocity = observation[:, sensors.velocimeter : sensors.velocimeter + 2]
        goal, hazards = (observation[:, sensors.lidars + i * N_BINS :][:, :N_BINS] for i in (0, 1))
        heading = self._choose_heading(*locate(goal), hazards)
        actions = (_point_actions if self.robot == "Point" else _car_actions)(self.speed, heading, velocity)
        if not deterministic:
            actions = actions + self.noise * np.random.normal(size=actions.shape)  # noqa: NPY002
        return np.clip(actions, -1.0, 1.0).round(DECIMALS).astype(np.float32), None

    def _choose_heading(self, goal_angle: np.ndarray, goal_distance: np.ndarray, hazards: np.ndarray) -> np.ndarray:
        """(N,) direction to drive in, in radians to the left of straight ahead."""
        if self.caution == 0.0:
            return goal_angle
        # (N, headings, bins). A hazard counts if it is ahead and nearer than the goal, fully if the heading crosses it
        # and less if the heading passes it within the margin. Nearer hazards count more.
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
    Locate the only object in the readings of Safety-Gymnasium's pseudo lidar.

    The object's bin reads 1 - distance / range; its two neighbours read shares of that, by their distance.

    :param lidar: (N, 16) readings.
    :return: (N,) angles in [-pi, pi), and (N,) distances in metres.
    """
    rows = np.arange(len(lidar))
    peak = lidar.argmax(axis=1)
    value = lidar[rows, peak]
    share = lidar[rows, (peak + 1) % N_BINS] / np.maximum(value, 1e-6)
    return _wrap((peak + share) * 2 * np.pi / N_BINS), LIDAR_RANGE * (1 - value)


def _point_actions(speed: float, heading: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    # The robot turns at once and accelerates slowly: push along the missing velocity, forwards or backwards.
    direction = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    missing = speed * direction - velocity + 0.15 * direction
    backwards = missing[:, 0] < 0
    turn = np.arctan2(missing[:, 1], missing[:, 0])
    turn = np.where(backwards, _wrap(turn + np.pi), turn)
    return np.stack([0.1 * missing[:, 0], turn], axis=1)


def _car_actions(speed: float, heading: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    # The robot's front is the -y axis of its sensors, and the action (1, 1) turns both wheels forwards.
    turn = _wrap(heading + np.pi / 2)
    aligned = np.clip(np.cos(turn), 0.0, 1.0) ** 2
    forward = 3.0 * (speed * aligned + velocity[:, 1])
    return np.stack([forward + turn, forward - turn], axis=1)


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
