"""PPO with a Lagrange multiplier: its arithmetic, and runs that are killed."""

import itertools
import json
import re
from collections.abc import Callable
from math import inf
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_prefine.envs  # noqa: F401 (registers the environments)
from benchmarks.datasets import lagrangian
from benchmarks.datasets.behaviors import Behaviors
from benchmarks.datasets.lagrangian import (
    MAX_MULTIPLIER,
    MULTIPLIER_STEP,
    SNAPSHOTS_PER_STAGE,
    Lagrangian,
    Recipe,
    recorded_cpu_seconds,
    train,
)
from benchmarks.datasets.recipes import RECIPES
from benchmarks.datasets.speed_penalty import SpeedPenalty
from sb3_prefine import dsrl, evaluate_policy
from tests.worlds import RandomEnv

# Rollouts here are smaller than PPO's batches.
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size of 128")
RECIPE = Recipe((inf, 3.0, 1.0), (320, 160, 160), reward_per_step=1.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Update every 32 steps: twice between snapshots of the first stage, once in the other stages."""
    monkeypatch.setattr(lagrangian, "N_ENVS", 2)
    monkeypatch.setattr(lagrangian, "N_STEPS", 16)


class Scripted(gym.Env):
    """An environment with known rewards and costs of three steps."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    rewards, costs = (1.0, 2.0, -4.0), (0.0, 1.0, 1.0)

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        i = self.steps - 1
        return np.zeros(1, np.float32), self.rewards[i], self.steps == 3, False, {"cost": self.costs[i]}


def test_penalised_reward_matches_hand_computation():
    env = Lagrangian(DummyVecEnv([Scripted, Scripted]), reward_per_step=5.0)
    env.reset()
    env.multiplier = 3.0
    # (r - 3 * 5 * c) / (1 + 3)
    for expected in (0.25, -3.25, -4.75):
        _, rewards, dones, _ = env.step(np.zeros((2, 1)))
        np.testing.assert_array_equal(rewards, [expected, expected])
    assert dones.all()
    # Returns and costs of episodes exclude the multiplier, and restart with each episode.
    assert env.finished == [(-1.0, 2.0)] * 2
    env.multiplier = 0.0
    assert [env.step(np.zeros((2, 1)))[1][0] for _ in range(3)] == list(Scripted.rewards)
    assert env.finished == [(-1.0, 2.0)] * 4


def test_episode_cut_by_reset_is_not_counted():
    env = Lagrangian(DummyVecEnv([Scripted]), 1.0)
    env.reset()
    env.step(np.zeros((1, 1)))
    env.reset()
    for _ in range(3):
        env.step(np.zeros((1, 1)))
    assert env.finished == [(-1.0, 2.0)]


def test_multiplier_rises_above_limit_and_falls_below_it():
    env = Lagrangian(DummyVecEnv([Scripted]), 1.0)
    env.update(np.array([30.0, 26.0]), limit=25.0)
    assert env.multiplier == pytest.approx(MULTIPLIER_STEP * 3 / 25)
    env.update(np.array([1000.0]), limit=25.0)  # the step is clipped
    assert env.multiplier == pytest.approx(MULTIPLIER_STEP * (1 + 3 / 25))
    env.update(np.array([24.0]), limit=25.0)
    assert env.multiplier == pytest.approx(MULTIPLIER_STEP * (1 + 2 / 25))
    env.update(np.array([]), limit=25.0)  # no episode ended
    assert env.multiplier == pytest.approx(MULTIPLIER_STEP * (1 + 2 / 25))
    env.update(np.array([4.0]), limit=2.0)  # below a limit of 10, differences are divided by 10
    assert env.multiplier == pytest.approx(MULTIPLIER_STEP * (1.2 + 2 / 25))
    for _ in range(20):
        env.update(np.array([0.0]), limit=25.0)
    assert env.multiplier == 0.0
    for _ in range(round(MAX_MULTIPLIER / MULTIPLIER_STEP) + 10):
        env.update(np.array([100.0]), limit=25.0)
    assert env.multiplier == MAX_MULTIPLIER
    env.update(np.array([100.0]), limit=inf)
    assert env.multiplier == 0.0


def test_progress_matches_hand_computation():
    for timesteps, expected in (
        (0, (0, 0)),
        (319, (0, 319)),
        (320, (1, 0)),
        (340, (1, 20)),
        (480, (2, 0)),
        (639, (2, 159)),
        (640, (2, 160)),
        (999, (2, 160)),
    ):
        assert RECIPE.progress(timesteps) == expected


@pytest.mark.parametrize("task", RECIPES)
def test_limits_of_each_recipe_are_monotonic(task):
    recipe = RECIPES[task]
    assert task in dsrl.PAPER_TASKS
    assert len(recipe.cost_limits) == len(recipe.timesteps)
    assert len(recipe.max_speeds) in (0, len(recipe.timesteps))
    for limits in (recipe.max_speeds, recipe.cost_limits):
        falls = [one > other for one, other in itertools.pairwise(limits)]
        if task == "AntVelocity" and limits is recipe.max_speeds:
            # Speeds rise first and then fall below the first one.
            assert falls == [False] * 5 + [True] * 4
        else:
            assert all(falls) or not any(falls)


def snapshots(printed: str) -> list[tuple[int, float]]:
    """Parse steps and cost limit of each snapshot from the output of a run."""
    found = re.findall(r"^\s*([\d,]+) steps, limit\s+([\d.]+|inf):", printed, flags=re.MULTILINE)
    return [(int(steps.replace(",", "")), float(limit)) for steps, limit in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Behaviors, list[tuple[int, float]], Path]:
    """A run that was not killed: its behaviors, snapshots and folder."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lagrangian, "N_ENVS", 2)
        patch.setattr(lagrangian, "N_STEPS", 16)
        lines: list[str] = []
        patch.setattr("builtins.print", lambda line, flush: lines.append(line))
        behaviors = train(RandomEnv, RECIPE, folder, seed=0, progress_bar=False)
    return behaviors, snapshots("\n".join(lines)), folder


def test_run_has_five_snapshots_per_stage(whole):
    behaviors, taken, folder = whole
    assert len(behaviors) == 3 * SNAPSHOTS_PER_STAGE
    assert [limit for _, limit in taken] == [inf] * 5 + [3.0] * 5 + [1.0] * 5
    steps = [steps for steps, _ in taken]
    assert steps == [64, 128, 192, 256, 320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640]
    assert json.loads((folder / "state.json").read_text())["num_timesteps"] == 640
    assert recorded_cpu_seconds(folder) > 0
    assert len(list(folder.iterdir())) == 4  # only the state of the last snapshot


def test_noise_falls_in_first_stage_and_stays_constant(whole):
    behaviors, taken, _ = whole
    start, end = RECIPE.log_std
    # A snapshot has the noise of the previous rollout, which started 32 steps earlier.
    expected = [start + (end - start) * min((steps - 32) / 320, 1.0) for steps, _ in taken]
    expected[5:] = [end] * 10
    np.testing.assert_allclose(behaviors.columns["log_std"], np.repeat(np.array(expected)[:, None], 3, 1), rtol=1e-6)


def killed_after(steps: int) -> Callable[[], gym.Env]:
    """Make environments that raise after a total number of steps."""
    left = itertools.count(steps, -1)

    class Mortal(RandomEnv):
        def step(self, action):
            if not next(left):
                raise KeyboardInterrupt
            return super().step(action)

    return Mortal


@pytest.mark.parametrize("steps", [20, 330, 639])
def test_killed_run_continues(steps, whole, tmp_path, capsys, monkeypatch):
    before: list[float] = []
    update = Lagrangian.update

    def spy(self: Lagrangian, costs: np.ndarray, limit: float) -> None:
        before.append(self.multiplier)
        update(self, costs, limit)

    monkeypatch.setattr(Lagrangian, "update", spy)
    with pytest.raises(KeyboardInterrupt):
        train(killed_after(steps), RECIPE, tmp_path, seed=0, progress_bar=False)
    state = tmp_path / "state.json"
    saved = json.loads(state.read_text()) if state.exists() else {"multiplier": 0.0}
    assert state.exists() == (steps > 64)
    before.clear()
    behaviors = train(RandomEnv, RECIPE, tmp_path, seed=0, progress_bar=False)
    assert before[0] == saved["multiplier"]
    # Snapshots are at the same steps, without repeats, and with the same noise.
    uninterrupted, taken, _ = whole
    assert snapshots(capsys.readouterr().out) == taken
    assert len(behaviors) == len(uninterrupted)
    np.testing.assert_array_equal(behaviors.columns["log_std"], uninterrupted.columns["log_std"])
    assert len({weights.tobytes() for weights in behaviors.columns["weight_2"]}) == len(behaviors)


def test_snapshots_before_a_kill_are_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(killed_after(220), RECIPE, tmp_path, seed=0, progress_bar=False)
    kept = Behaviors.load(next(tmp_path.glob("behaviors-*")))
    assert len(kept) == 3
    behaviors = train(RandomEnv, RECIPE, tmp_path, seed=0, progress_bar=False)
    for name, column in kept.columns.items():
        np.testing.assert_array_equal(behaviors.columns[name][:3], column)


def test_finished_run_is_not_repeated(whole, capsys):
    behaviors, _, folder = whole
    files = {path: path.read_bytes() for path in folder.iterdir()}
    again = train(killed_after(0), RECIPE, folder, seed=0, progress_bar=False)
    assert capsys.readouterr().out == ""
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    for name, column in behaviors.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)


def test_cpu_time_is_unknown_if_part_of_it_is_unknown(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(killed_after(220), RECIPE, tmp_path, seed=0, progress_bar=False)
    state = json.loads((tmp_path / "state.json").read_text())
    del state["cpu_seconds"]
    (tmp_path / "state.json").write_text(json.dumps(state))
    train(RandomEnv, RECIPE, tmp_path, seed=0, progress_bar=False)
    assert recorded_cpu_seconds(tmp_path) is None


class Tempting(RandomEnv):
    """An environment of ten steps. The action is the reward, and also the probability of a cost of 1."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action):
        self.steps += 1
        cost = float(self.np_random.random() < action[0])
        return self._observe(), float(action[0]), False, self.steps == 10, {"cost": cost}

    def _observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)


def test_training_maximises_return_and_respects_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(lagrangian, "MULTIPLIER_STEP", 0.5)
    evaluations = []
    for limit in (inf, 1.0):
        recipe = Recipe((limit,), (800,), reward_per_step=1.0, learning_rate=3e-3)
        behaviors = train(Tempting, recipe, tmp_path / str(limit), seed=0, progress_bar=False)
        evaluations.append(evaluate_policy(behaviors[-1], Tempting, 20, n_envs=4))
    greedy, safe = evaluations
    assert greedy.mean_reward > 6
    assert greedy.mean_cost > 6
    assert safe.mean_cost < greedy.mean_cost / 2


def test_training_works_on_bullet(tmp_path):
    recipe = Recipe((inf, 5.0), (256, 160), reward_per_step=8.0)
    behaviors = train("SafetyBallRun-v0", recipe, tmp_path, seed=0, progress_bar=False)
    env = make_vec_env("SafetyBallRun-v0", n_envs=1)
    assert behaviors[-1].predict(env.reset())[0].shape == (1, 2)
    assert len(behaviors) == 2 * SNAPSHOTS_PER_STAGE


def test_healthy_reward_is_changed_in_first_stage_only(tmp_path, monkeypatch):
    seen: list[float] = []

    class Watched(Lagrangian):
        def step_wait(self):
            seen.append(self.env_method("get_wrapper_attr", "_healthy_reward")[0])
            return super().step_wait()

    monkeypatch.setattr(lagrangian, "Lagrangian", Watched)
    recipe = Recipe((inf, 5.0), (64, 64), reward_per_step=1.0, healthy_reward=0.1)
    train("SafetyHopperVelocity-v1", recipe, tmp_path, 0, progress_bar=False)
    # With two environments, a stage takes 32 steps of each.
    assert seen == [0.1] * 32 + [1.0] * 32


def test_max_speed_of_each_stage_is_restored_after_a_kill(tmp_path, monkeypatch):
    recipe = Recipe((inf, inf), (160, 160), reward_per_step=1.0, healthy_reward=0.1, max_speeds=(0.8, 1.4))
    seen: list[tuple[float, list[float]]] = []
    step_wait = SpeedPenalty.step_wait

    def spy(self):
        seen.append((self.max_speed, self.env_method("get_wrapper_attr", "_healthy_reward")))
        return step_wait(self)

    monkeypatch.setattr(SpeedPenalty, "step_wait", spy)
    monkeypatch.setattr("builtins.print", killing_at(stage=1))
    with pytest.raises(KeyboardInterrupt):
        train("SafetyHopperVelocity-v1", recipe, tmp_path, seed=0, progress_bar=False)
    # The run is killed in the second stage, and continues with that stage's maximum speed.
    assert seen == [(0.8, [0.1, 0.1])] * 80 + [(1.4, [1.0, 1.0])] * 16
    seen.clear()
    monkeypatch.setattr("builtins.print", lambda line, flush: None)
    train("SafetyHopperVelocity-v1", recipe, tmp_path, seed=0, progress_bar=False)
    assert seen == [(1.4, [1.0, 1.0])] * 64


def killing_at(stage: int) -> Callable[..., None]:
    """Make a replacement for print that raises at the first snapshot of a stage."""
    left = itertools.count(stage * SNAPSHOTS_PER_STAGE, -1)

    def kill(line: str, flush: bool) -> None:
        if not next(left):
            raise KeyboardInterrupt

    return kill
