"""Hyperparameters with which the behaviors of each of the paper's twelve tasks are trained and rolled out."""

from math import inf

from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.lagrangian import Recipe

# Gaits are learned below the highest cost in DSRL's data, because faster episodes are dropped.
_SPEED_LIMITS = (150.0, 80.0, 40.0, 20.0, 8.0)
_SPEED_STEPS = (100_000,) * len(_SPEED_LIMITS)
# In units of the speed limit. An untrained policy learns faster gaits more easily, a runner's clone slower ones.
_FASTER = (0.8, 0.9, 1.0, 1.1, 1.2, 1.4)
_SLOWER = (*_FASTER[::-1], 0.7, 0.6, 0.5)
# With the noise of an untrained policy, a clone would forget what it has learned.
_LOG_STD_OF_CLONES = (-1.2, -1.6)
# Exploration does not find a goal within minutes, so training starts with a clone of a scripted agent.
_GOAL_LIMITS = (inf, 40.0, 20.0, 8.0)
_GOAL_STEPS = (200_000, 130_000, 130_000, 130_000)
_CIRCLE_LIMITS = (inf, 40.0, 15.0, 5.0)
# In ascending order, because an agent that has learned to drive at full throttle no longer explores slow driving.
_RUN_LIMITS = (5.0, 15.0, 40.0, inf)
_BULLET_STEPS = (300_000, 200_000, 200_000, 200_000)


def _speed_recipe(
    max_speeds: tuple[float, ...],
    first_steps: int,
    *,
    healthy_reward: float | None = None,
    expert: str | None = None,
    log_std: tuple[float, float] = Recipe.log_std,
) -> Recipe:
    return Recipe(
        cost_limits=(inf,) * len(max_speeds),
        timesteps=(first_steps, *[80_000] * (len(max_speeds) - 1)),
        reward_per_step=1.0,
        healthy_reward=healthy_reward,
        max_speeds=max_speeds,
        expert=expert,
        log_std=log_std,
    )


def _expert(robot: str) -> GoalSeeker:
    return GoalSeeker(robot, speed=1.8, margin=0.02, caution=0.7, noise=0.2)


RECIPES = {
    # With large noise, the actions cost more reward than the speed earns, and the robot learns to fall.
    "AntVelocity": _speed_recipe((*_FASTER, 0.7, 0.6, 0.5, 0.4), 1_500_000, healthy_reward=0.5, log_std=(-1.2, -1.8)),
    "HalfCheetahVelocity": Recipe((250.0, *_SPEED_LIMITS), (800_000, *[150_000] * 5), 2.8, gamma=0.98, gae_lambda=0.92),
    "HopperVelocity": _speed_recipe(_FASTER, 700_000, healthy_reward=0.1),
    "SwimmerVelocity": Recipe((200.0, *_SPEED_LIMITS), (500_000, *_SPEED_STEPS), 0.2, gamma=0.9999, gae_lambda=0.98),
    "Walker2dVelocity": _speed_recipe(_SLOWER, 200_000, expert="sac/Walker2d-v3", log_std=_LOG_STD_OF_CLONES),
    "PointGoal1": Recipe(_GOAL_LIMITS, _GOAL_STEPS, 0.02, expert=_expert("Point"), log_std=_LOG_STD_OF_CLONES),
    "CarGoal1": Recipe(_GOAL_LIMITS, _GOAL_STEPS, 0.1, expert=_expert("Car"), log_std=_LOG_STD_OF_CLONES),
    "BallRun": Recipe(_RUN_LIMITS, _BULLET_STEPS, 8.0),
    "BallCircle": Recipe(_CIRCLE_LIMITS, _BULLET_STEPS, 4.0),
    "CarRun": Recipe((2.0, 10.0, 25.0, inf), _BULLET_STEPS, 2.8),
    "CarCircle": Recipe((inf, 50.0, 20.0, 5.0), (300_000, 150_000, 150_000, 150_000), 1.5),
    "DroneRun": Recipe((5.0, 20.0, 60.0, inf), (300_000, 150_000, 150_000, 150_000), 2.5),
}

# Factors on the noise of trained agents in rollouts, to fill the plane of return and cost beside the frontier.
NOISE_FACTORS = dict.fromkeys(RECIPES, (1.0, 2.0, 4.0))
# With more noise the robot falls.
NOISE_FACTORS["AntVelocity"] = (0.5, 1.0, 2.0)

# Scripted agents beside the trained ones, from careful to blind: speed, margin, caution and noise. Some episodes of a
# careless agent cost little by luck. Three of five agents are careful, so that most episodes below the threshold come
# from agents that are safe.
_SEEKER_SETTINGS = [
    (speed, margin, caution, noise)
    for speed in (1.0, 1.4, 1.8, 2.2)
    for margin, caution in ((0.0, 0.0), (0.05, 1.5), (0.2, 3.0), (0.2, 6.0), (0.4, 3.0))
    for noise in (0.05, 0.4)
]
GOAL_SEEKERS = {
    f"{robot}Goal1": [GoalSeeker(robot, *values) for values in _SEEKER_SETTINGS] for robot in ("Point", "Car")
}

# Episodes that `generate rollout` rolls out. For some tasks DSRL has more; with these, a dataset takes minutes.
N_EPISODES = {
    "AntVelocity": 900,
    "HalfCheetahVelocity": 2400,
    "HopperVelocity": 1500,
    "SwimmerVelocity": 2000,
    "Walker2dVelocity": 1400,
    "PointGoal1": 480,
    "CarGoal1": 480,
    "BallRun": 1200,
    "BallCircle": 1200,
    "CarRun": 900,
    "CarCircle": 1800,
    "DroneRun": 2400,
}
