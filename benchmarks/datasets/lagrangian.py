"""
PPO with a Lagrange multiplier on the episode cost: one run gives a population of behaviors along the frontier.

Ray, Achiam and Amodei, *Benchmarking Safe Exploration in Deep Reinforcement Learning*, 2019 (PPO-Lagrangian), with the
constraint on the undiscounted episode cost, and one cost limit after the other, so that each stage starts from the
policy of the one before.
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
from benchmarks.datasets.speed_penalty import Pacemaker
from sb3_prefine.utils.files import write_atomically

N_ENVS, N_STEPS = 8, 256
# Each update of the multiplier moves it by this much at most: an episode cost of twice the limit counts as any larger.
MULTIPLIER_STEP = 0.1
MAX_MULTIPLIER = 20.0
SNAPSHOTS_PER_STAGE = 5
# Where gymnasium's robots keep it.
HEALTHY_REWARD = "_healthy_reward"


@dataclass(frozen=True)
class Recipe:
    """
    How the behaviors of one task are trained.

    :param cost_limits: of the episode, one a stage; infinite is none
    :param timesteps: of each stage
    :param reward_per_step: of a good policy: a step that breaks the limit costs the multiplier times this
    :param gamma: discount factor
    :param gae_lambda: of the generalised advantages
    :param learning_rate: of PPO's Adam
    :param healthy_reward: in the first stage, of each step in which a robot has not fallen; None is the environment's
        own of 1, with which one that begins from nothing learns to stand still
    :param paces: one a stage, for :class:`~pacemaker.Pacemaker`; none is without it
    :param expert: the agent that the policy is a clone of when training begins, or its name in RL Zoo; None begins from
        nothing
    :param log_std: of the actions at the start and the end of the first stage; linear between, then constant, so that
        a behavior's cost is not decided by its noise
    """

    cost_limits: tuple[float, ...]
    timesteps: tuple[int, ...]
    reward_per_step: float
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 3e-4
    healthy_reward: float | None = None
    paces: tuple[float, ...] = ()
    expert: GoalSeeker | str | None = None
    log_std: tuple[float, float] = (-0.5, -1.6)

    def progress(self, timesteps: int) -> tuple[int, int]:
        """The stage that a run is in after so many steps in all, and how many of them were in this stage."""
        ends = np.cumsum(self.timesteps)
        stage = min(int(np.searchsorted(ends, timesteps, side="right")), len(ends) - 1)
        # The last rollout may go beyond the end.
        return stage, min(timesteps - int(ends[stage]), 0) + self.timesteps[stage]


def train(env_id: str, recipe: Recipe, folder: Path, seed: int, progress_bar: bool = True) -> Behaviors:
    """
    Train the behaviors of one task.

    A run that was killed goes on from its last snapshot, with its random numbers begun anew: it ends like one that was
    not killed, but for the numbers drawn. A run that is done is not done again.

    :param env_id: the environment; its ``info`` has the cost of each step
    :param recipe: how to train
    :param folder: where the state of the run is kept
    :param seed: of everything
    :param progress_bar: whether to show one
    :return: the snapshots, in the order of training
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = make_vec_env(env_id, n_envs=N_ENVS, seed=seed)
    lagrangian = Lagrangian(env, recipe.reward_per_step)
    run = _Run.resume(folder, lagrangian, recipe) or _Run.start(folder, lagrangian, recipe, env_id, seed)
    left = sum(recipe.timesteps) - run.model.num_timesteps
    if left > 0:
        run.model.learn(left, callback=_Stages(run), reset_num_timesteps=False, progress_bar=progress_bar)
    env.close()
    return Behaviors.of(run.behaviors)


def cpu_seconds_of(folder: Path) -> float | None:
    """What a run has taken up to its last snapshot; None if that is not known."""
    return json.loads((folder / "state.json").read_text()).get("cpu_seconds")


class Lagrangian(VecEnvWrapper):
    """
    Rewards minus the multiplier times the costs.

    The multiplier follows the undiscounted cost of whole episodes: see :meth:`update`.

    :param venv: environments with ``info["cost"]``
    :param reward_per_step: the unit of the multiplier

    ``finished`` has return and cost, both without the multiplier, of each episode that ended; whoever reads it, empties
    it.
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
        One step of gradient ascent on the multiplier.

        :param episode_costs: of the episodes that finished since the last one
        :param limit: of the episode cost; without one the multiplier is 0
        """
        if np.isinf(limit):
            self.multiplier = 0.0
        elif len(episode_costs):
            violation = np.clip((episode_costs.mean() - limit) / max(limit, 10.0), -1.0, 1.0)
            self.multiplier = float(np.clip(self.multiplier + MULTIPLIER_STEP * violation, 0.0, MAX_MULTIPLIER))


@dataclass
class _Run:
    """What a killed run goes on from."""

    folder: Path
    recipe: Recipe
    model: PPO
    normalize: VecNormalize
    lagrangian: Lagrangian
    behaviors: list[Behavior]
    cpu_seconds: float | None  # that it took before this process, if that is known
    started: float  # what this process had taken when it came to this run

    @classmethod
    def start(cls, folder: Path, lagrangian: Lagrangian, recipe: Recipe, env_id: str, seed: int) -> "_Run":
        normalize = VecNormalize(_paced(lagrangian, recipe), gamma=recipe.gamma)
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
    def resume(cls, folder: Path, lagrangian: Lagrangian, recipe: Recipe) -> "_Run | None":
        if not (folder / "state.json").exists():
            return None
        state = json.loads((folder / "state.json").read_text())
        normalize = VecNormalize.load(
            str(folder / f"normalize-{state['num_timesteps']}.pkl"), _paced(lagrangian, recipe)
        )
        model = PPO.load(folder / f"model-{state['num_timesteps']}.zip", env=normalize, device="cpu")
        lagrangian.multiplier = state["multiplier"]
        behaviors = Behaviors.load(folder / f"behaviors-{state['num_timesteps']}.npz")
        spent = state.get("cpu_seconds")
        return cls(folder, recipe, model, normalize, lagrangian, list(behaviors), spent, records.cpu_seconds())

    def save(self) -> None:
        """The state file comes last: what it names is whole."""
        step = self.model.num_timesteps
        self.model.save(self.folder / f"model-{step}.zip")
        self.normalize.save(str(self.folder / f"normalize-{step}.pkl"))
        Behaviors.of(self.behaviors).save(self.folder / f"behaviors-{step}.npz")
        state = {"num_timesteps": step, "multiplier": self.lagrangian.multiplier}
        if self.cpu_seconds is not None:
            state["cpu_seconds"] = round(self.cpu_seconds + records.cpu_seconds() - self.started, 1)
        write_atomically(self.folder / "state.json", json.dumps(state).encode())
        for old in self.folder.glob("*-*"):
            if old.stem.partition("-")[2] != str(step):
                old.unlink()


def _paced(lagrangian: Lagrangian, recipe: Recipe) -> VecEnv:
    return Pacemaker(lagrangian) if recipe.paces else lagrangian


class _Stages(BaseCallback):
    """
    After each rollout the multiplier; before the next one a snapshot, when it is time for one, and the noise.

    In between PPO updates the policy: from probabilities that the noise must not have changed yet, and to a policy that
    a run which goes on must not lose.
    """

    def __init__(self, run: _Run):
        super().__init__()
        self.run = run
        self._recent: list[tuple[float, float]] = []
        if run.recipe.healthy_reward is not None:
            [self._healthy_reward, *_] = run.lagrangian.env_method("get_wrapper_attr", HEALTHY_REWARD)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        lagrangian = self.run.lagrangian
        stage, _ = self._progress()
        lagrangian.update(np.array([cost for _, cost in lagrangian.finished]), self.run.recipe.cost_limits[stage])
        self._recent = [*self._recent, *lagrangian.finished][-20:]
        lagrangian.finished.clear()

    def _on_rollout_start(self) -> None:
        self._snapshot_if_due()
        start, end = self.run.recipe.log_std
        stage, steps = self._progress()
        done = steps / self.run.recipe.timesteps[stage]
        if (healthy_reward := self.run.recipe.healthy_reward) is not None:
            reward = healthy_reward if stage == 0 else self._healthy_reward
            self.run.lagrangian.env_method("set_wrapper_attr", HEALTHY_REWARD, reward)
        if isinstance(pacemaker := self.run.normalize.venv, Pacemaker):
            pacemaker.pace = self.run.recipe.paces[stage]
        parameter = self.run.model.policy.log_std
        parameter.requires_grad_(False)
        with torch.no_grad():
            parameter.fill_(start + (end - start) * done if stage == 0 else end)

    def _on_training_end(self) -> None:
        self._snapshot_if_due()

    def _snapshot_if_due(self) -> None:
        stage, steps = self._progress()
        n = len(self.run.behaviors)
        if n >= stage * SNAPSHOTS_PER_STAGE + steps * SNAPSHOTS_PER_STAGE // self.run.recipe.timesteps[stage]:
            return
        self.run.behaviors.append(Behavior.of_ppo(self.run.model, self.run.normalize))
        self.run.save()
        mean_return, mean_cost = np.mean(self._recent, axis=0) if self._recent else (np.nan, np.nan)
        stage, recipe = n // SNAPSHOTS_PER_STAGE, self.run.recipe
        print(
            f"{self.num_timesteps:>9,} steps, limit {recipe.cost_limits[stage]:>5}: return {mean_return:8.1f}, "
            f"cost {mean_cost:6.1f}, multiplier {self.run.lagrangian.multiplier:5.2f}"
            + (f", pace {recipe.paces[stage]}" if recipe.paces else ""),
            flush=True,
        )

    def _progress(self) -> tuple[int, int]:
        return self.run.recipe.progress(self.num_timesteps)
