"""
PPO with a Lagrange multiplier on the episode cost: one run gives many behaviors along the frontier of return and cost.

Ray, Achiam and Amodei, *Benchmarking Safe Exploration in Deep Reinforcement Learning*, 2019 (PPO-Lagrangian). The
constraint is on the undiscounted episode cost, and training goes through several cost limits in stages, each of which
starts from the policy of the previous one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from benchmarks import records
from benchmarks.datasets.behaviors import Behavior, Behaviors
from benchmarks.datasets.cloning import clone
from benchmarks.datasets.goal_seeker import GoalSeeker
from benchmarks.datasets.speed_penalty import SpeedPenalty
from sb3_prefine.utils.files import write_atomically

N_ENVS, N_STEPS = 8, 256
# Largest change of the multiplier in one update: episode costs above twice the limit count as twice the limit.
MULTIPLIER_STEP = 0.1
MAX_MULTIPLIER = 20.0
SNAPSHOTS_PER_STAGE = 5
# Name of the attribute in which Gymnasium's robots keep this reward.
HEALTHY_REWARD = "_healthy_reward"


@dataclass(frozen=True)
class Recipe:
    """
    Hyperparameters with which the behaviors of one task are trained.

    :param cost_limits: Limit on the episode cost in each stage; infinite for no limit.
    :param timesteps: Environment steps of each stage.
    :param reward_per_step: Reward per step of a good policy. A cost of 1 is charged the multiplier times this.
    :param gamma: Discount factor.
    :param gae_lambda: λ of the generalised advantage estimation.
    :param learning_rate: Learning rate of PPO.
    :param healthy_reward: Reward of each step without a fall, in the first stage only. None keeps the environment's
        reward of 1, with which an untrained robot learns to stand still.
    :param max_speeds: Maximum speed in each stage, for :class:`~benchmarks.datasets.speed_penalty.SpeedPenalty`; empty
        for no penalty.
    :param expert: Agent whose clone the policy is when training begins, or the agent's name in RL Zoo. None starts with
        an untrained policy.
    :param log_std: Log standard deviation of the actions at the start and at the end of the first stage. It is linear
        in between and constant afterwards, so that noise does not decide the cost of a behavior.
    """

    cost_limits: tuple[float, ...]
    timesteps: tuple[int, ...]
    reward_per_step: float
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 3e-4
    healthy_reward: float | None = None
    max_speeds: tuple[float, ...] = ()
    expert: GoalSeeker | str | None = None
    log_std: tuple[float, float] = (-0.5, -1.6)

    def progress(self, timesteps: int) -> tuple[int, int]:
        """
        Get the stage of a run.

        :param timesteps: Steps of the run so far.
        :return: The number of the stage, and how many of the steps were made in it.
        """
        ends = np.cumsum(self.timesteps)
        stage = min(int(np.searchsorted(ends, timesteps, side="right")), len(ends) - 1)
        # The last rollout may exceed the total.
        return stage, min(timesteps - int(ends[stage]), 0) + self.timesteps[stage]


def train(env_id: str, recipe: Recipe, folder: Path, seed: int, progress_bar: bool = True) -> Behaviors:
    """
    Train the behaviors of one task.

    A run that was killed continues from its last snapshot with fresh random numbers. A finished run is not repeated.

    :param env_id: Id of the environment, whose ``info`` has the cost of each step.
    :param recipe: Hyperparameters.
    :param folder: Folder in which the training state is saved.
    :param seed: Seed of the environments and of PPO.
    :param progress_bar: Whether to show a progress bar.
    :return: The snapshots, in the order of training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = make_vec_env(env_id, n_envs=N_ENVS, seed=seed)
    lagrangian = Lagrangian(env, recipe.reward_per_step)
    state = _TrainingState.resume(folder, lagrangian, recipe)
    state = state or _TrainingState.start(folder, lagrangian, recipe, env_id, seed)
    left = sum(recipe.timesteps) - state.model.num_timesteps
    if left > 0:
        state.model.learn(left, callback=_StageCallback(state), reset_num_timesteps=False, progress_bar=progress_bar)
    env.close()
    return Behaviors.stack(state.behaviors)


def recorded_cpu_seconds(folder: Path) -> float | None:
    """Get the CPU time of a run up to its last snapshot, or None if it is unknown."""
    return json.loads((folder / "state.json").read_text()).get("cpu_seconds")


class Lagrangian(VecEnvWrapper):
    """
    Subtract the multiplier times the cost from each reward.

    The multiplier follows the undiscounted cost of whole episodes: see :meth:`update`. The list ``finished`` holds
    return and cost, both without the multiplier, of each episode that ended; its reader empties it.

    :param venv: Environments with ``info["cost"]``.
    :param reward_per_step: Unit of the multiplier.
    """

    def __init__(self, venv: VecEnv, reward_per_step: float):
        super().__init__(venv)
        self.multiplier = 0.0
        self.finished: list[tuple[float, float]] = []
        self._unit = reward_per_step
        self._totals = np.zeros((self.num_envs, 2))

    def reset(self) -> VecEnvObs:
        self._totals[:] = 0.0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = np.array([info["cost"] for info in infos])
        self._totals += np.stack([rewards, costs], axis=1)
        for i in np.flatnonzero(dones):
            self.finished.append((float(self._totals[i, 0]), float(self._totals[i, 1])))
        self._totals[dones] = 0.0
        penalised = (rewards - self.multiplier * self._unit * costs) / (1 + self.multiplier)
        return observations, penalised.astype(np.float32), dones, infos

    def update(self, episode_costs: np.ndarray, limit: float) -> None:
        """
        Make one step of gradient ascent on the multiplier.

        :param episode_costs: Costs of the episodes that finished since the last update.
        :param limit: Limit on the episode cost. If it is infinite, the multiplier is 0.
        """
        if np.isinf(limit):
            self.multiplier = 0.0
        elif len(episode_costs):
            violation = np.clip((episode_costs.mean() - limit) / max(limit, 10.0), -1.0, 1.0)
            self.multiplier = float(np.clip(self.multiplier + MULTIPLIER_STEP * violation, 0.0, MAX_MULTIPLIER))


@dataclass
class _TrainingState:
    """The state from which a killed run continues."""

    folder: Path
    recipe: Recipe
    model: PPO
    normalize: VecNormalize
    lagrangian: Lagrangian
    behaviors: list[Behavior]
    cpu_seconds: float | None  # CPU time before this process; None if it is unknown
    started: float  # CPU time of this process when the run started or continued

    @classmethod
    def start(cls, folder: Path, lagrangian: Lagrangian, recipe: Recipe, env_id: str, seed: int) -> "_TrainingState":
        normalize = VecNormalize(_with_speed_penalty(lagrangian, recipe), gamma=recipe.gamma)
        model = PPO(
            "MlpPolicy",
            normalize,
            learning_rate=recipe.learning_rate,
            n_steps=N_STEPS,
            batch_size=128,
            n_epochs=10,
            gamma=recipe.gamma,
            gae_lambda=recipe.gae_lambda,
            policy_kwargs={"log_std_init": recipe.log_std[0]},
            seed=seed,
            device="cpu",
        )
        started = records.cpu_seconds()
        if recipe.expert is not None:
            clone(model, normalize, recipe.expert, env_id, seed)
        return cls(folder, recipe, model, normalize, lagrangian, [], 0.0, started)

    @classmethod
    def resume(cls, folder: Path, lagrangian: Lagrangian, recipe: Recipe) -> "_TrainingState | None":
        if not (folder / "state.json").exists():
            return None
        state = json.loads((folder / "state.json").read_text())
        normalize = VecNormalize.load(
            str(folder / f"normalize-{state['num_timesteps']}.pkl"), _with_speed_penalty(lagrangian, recipe)
        )
        model = PPO.load(folder / f"model-{state['num_timesteps']}.zip", env=normalize, device="cpu")
        lagrangian.multiplier = state["multiplier"]
        behaviors = Behaviors.load(folder / f"behaviors-{state['num_timesteps']}.npz")
        spent = state.get("cpu_seconds")
        return cls(folder, recipe, model, normalize, lagrangian, list(behaviors), spent, records.cpu_seconds())

    def save(self) -> None:
        # The state file is written last, so that the files that it names are complete.
        step = self.model.num_timesteps
        self.model.save(self.folder / f"model-{step}.zip")
        self.normalize.save(str(self.folder / f"normalize-{step}.pkl"))
        Behaviors.stack(self.behaviors).save(self.folder / f"behaviors-{step}.npz")
        state = {"num_timesteps": step, "multiplier": self.lagrangian.multiplier}
        if self.cpu_seconds is not None:
            state["cpu_seconds"] = round(self.cpu_seconds + records.cpu_seconds() - self.started, 1)
        write_atomically(self.folder / "state.json", json.dumps(state).encode())
        for old in self.folder.glob("*-*"):
            if old.stem.partition("-")[2] != str(step):
                old.unlink()


def _with_speed_penalty(lagrangian: Lagrangian, recipe: Recipe) -> VecEnv:
    return SpeedPenalty(lagrangian) if recipe.max_speeds else lagrangian


class _StageCallback(BaseCallback):
    """
    Update the multiplier after each rollout; take snapshots and set the noise before the next one.

    PPO updates the policy in between. The noise may only change after that, because the update needs the rollout's
    log-probs, and snapshots are taken after that, so that a run that continues does not lose the update.
    """

    def __init__(self, state: _TrainingState):
        super().__init__()
        self.state = state
        self._recent: list[tuple[float, float]] = []
        if state.recipe.healthy_reward is not None:
            [self._healthy_reward, *_] = state.lagrangian.env_method("get_wrapper_attr", HEALTHY_REWARD)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        lagrangian = self.state.lagrangian
        stage, _ = self._progress()
        lagrangian.update(np.array([cost for _, cost in lagrangian.finished]), self.state.recipe.cost_limits[stage])
        self._recent = [*self._recent, *lagrangian.finished][-20:]
        lagrangian.finished.clear()

    def _on_rollout_start(self) -> None:
        self._snapshot_if_due()
        start, end = self.state.recipe.log_std
        stage, steps = self._progress()
        done = steps / self.state.recipe.timesteps[stage]
        if (healthy_reward := self.state.recipe.healthy_reward) is not None:
            reward = healthy_reward if stage == 0 else self._healthy_reward
            self.state.lagrangian.env_method("set_wrapper_attr", HEALTHY_REWARD, reward)
        if isinstance(penalty := self.state.normalize.venv, SpeedPenalty):
            penalty.max_speed = self.state.recipe.max_speeds[stage]
        parameter = self.state.model.policy.log_std
        parameter.requires_grad_(False)
        with torch.no_grad():
            parameter.fill_(start + (end - start) * done if stage == 0 else end)

    def _on_training_end(self) -> None:
        self._snapshot_if_due()

    def _snapshot_if_due(self) -> None:
        stage, steps = self._progress()
        n = len(self.state.behaviors)
        if n >= stage * SNAPSHOTS_PER_STAGE + steps * SNAPSHOTS_PER_STAGE // self.state.recipe.timesteps[stage]:
            return
        self.state.behaviors.append(Behavior.from_ppo(self.state.model, self.state.normalize))
        self.state.save()
        mean_return, mean_cost = np.mean(self._recent, axis=0) if self._recent else (np.nan, np.nan)
        stage, recipe = n // SNAPSHOTS_PER_STAGE, self.state.recipe
        print(
            f"{self.num_timesteps:>9,} steps, limit {recipe.cost_limits[stage]:>5}: return {mean_return:8.1f}, "
            f"cost {mean_cost:6.1f}, multiplier {self.state.lagrangian.multiplier:5.2f}"
            + (f", maximum speed {recipe.max_speeds[stage]}" if recipe.max_speeds else ""),
            flush=True,
        )

    def _progress(self) -> tuple[int, int]:
        return self.state.recipe.progress(self.num_timesteps)
