"""
Rollouts in several processes, compared with the same rollout in one.

Each process imports the environments again, so they are made of modules that import quickly. Which process takes a
group depends on which one is free first. Here the tests wait for the other processes, which take the first groups.
"""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_prefine import PREFINE, collect, evaluate_policy, load_reference
from sb3_prefine.callbacks import CostEvalCallback
from sb3_prefine.reference.zoo_folder import EnvWrapper
from sb3_prefine.rollout import env_group as groups
from sb3_prefine.rollout import generate as rollout_module
from sb3_prefine.rollout.generate import generate_episodes
from sb3_prefine.rollout.workers import Workers
from tests.scripted import RandomPolicy, ScriptedEnv, ZeroPolicy
from tests.worlds import RandomEnv, env_with_actions, make_model, preferences

HERE = os.getpid()
ROOT = Path(__file__).parents[2]


def run(policy, env, n_episodes=6, n_envs=4, n_workers=2, deterministic=False, seed=3, action_transform=None):
    episodes = generate_episodes(
        policy,
        env,
        n_episodes,
        n_envs=n_envs,
        n_workers=n_workers,
        deterministic=deterministic,
        seed=seed,
        action_transform=action_transform,
    )
    return sorted(episodes, key=lambda episode: episode.index)


def assert_same_episodes(one, other):
    """Equal to the last bit, with equal dtypes."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.index, a.terminated, a.truncated) == (b.index, b.terminated, b.truncated)
        pairs = [(a.actions, b.actions), (a.rewards, b.rewards), (a.costs, b.costs), (a.action_masks, b.action_masks)]
        if isinstance(a.observations, dict):
            assert a.observations.keys() == b.observations.keys()
            pairs += [(a.observations[key], b.observations[key]) for key in a.observations]
        else:
            pairs.append((a.observations, b.observations))
        for x, y in pairs:
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


class ReadyWorkers(Workers):
    """Waits until each process is ready, and assigns it a group, so that each process has work."""

    def start(self, n_workers, job):
        super().start(n_workers, job)
        self._started.result()
        for child in self._children:
            assert child.receive() == []
            child.assign(self._todo.popleft())


@pytest.fixture(autouse=True)
def every_process_has_work(monkeypatch):
    monkeypatch.setattr(rollout_module, "Workers", ReadyWorkers)
    monkeypatch.setattr(groups, "GROUP_SIZE", 2)


@pytest.fixture(autouse=True, scope="module")
def others():
    """Processes of earlier tests, because joblib keeps its own for a while."""
    return set(multiprocessing.active_children())


@pytest.fixture
def children(others):
    """A function that returns the processes that these tests have started."""
    return lambda: set(multiprocessing.active_children()) - others


@pytest.fixture(autouse=True)
def no_process_is_left(children):
    yield
    assert children() == set()


# The same episodes


@pytest.mark.parametrize(
    ("env_id", "algorithm"),
    [("SpeedLimitHalfCheetah-v0", PPO), ("SafetyBallCircle-v0", SAC), ("SafetyPointGoal1-v0", PPO)],
)
def test_episodes_do_not_depend_on_the_number_of_processes(env_id, algorithm):
    env = functools.partial(gym.make, env_id, max_episode_steps=25)
    model = make_model(algorithm, env())
    one, two, three = (run(model, env, 5, 5, n, action_transform=lambda a: 0.9 * a) for n in (1, 2, 3))
    assert {len(episode.rewards) for episode in one} == {25}
    assert_same_episodes(one, two)
    assert_same_episodes(one, three)


def test_episodes_of_many_lengths_draw_the_same_noise():
    """The policy's noise is drawn for the whole batch: an episode in another row or group would have other actions."""
    expected = run(RandomPolicy(), ScriptedEnv, 30, 7, 1)
    assert len({len(episode.rewards) for episode in expected}) > 5
    assert_same_episodes(run(RandomPolicy(), ScriptedEnv, 30, 7, 3), expected)


def test_a_recurrent_state_is_reset_with_each_episode():
    model = RecurrentPPO("MlpLstmPolicy", ScriptedEnv(), seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": 8})
    assert_same_episodes(run(model, ScriptedEnv, 9, 4, 2), run(model, ScriptedEnv, 9, 4, 1))


def test_dict_observations_with_an_image_and_a_discrete_part():
    class Parts(RandomEnv):
        observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, (1, 36, 36), np.uint8),
                "gear": spaces.Discrete(3),
                "speed": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            }
        )

        def _observe(self):
            return {
                "camera": self.np_random.integers(0, 256, (1, 36, 36), dtype=np.uint8),
                "gear": int(self.np_random.integers(3)),
                "speed": self.np_random.normal(size=2),
            }

    class Says(ZeroPolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            brightness = observation["camera"].mean(axis=(1, 2, 3)) / 255
            says = np.stack([brightness, observation["gear"], observation["speed"][:, 0]], axis=1)
            return says.astype(np.float32), state

    episodes = run(Says(), Parts)
    assert_same_episodes(episodes, run(Says(), Parts, n_workers=1))
    assert episodes[0].observations["camera"].dtype == np.uint8
    assert len(np.unique(np.concatenate([e.actions for e in episodes]), axis=0)) == 60


def test_action_masks_and_discrete_actions():
    class Masked(env_with_actions(spaces.Discrete(4))):
        def action_masks(self):
            return np.arange(4) <= self.steps % 4

    model = MaskablePPO("MlpPolicy", Masked(), seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    episodes = run(model, Masked)
    assert_same_episodes(episodes, run(model, Masked, n_workers=1))
    for episode in episodes:
        np.testing.assert_array_equal(episode.action_masks, np.arange(4) <= np.arange(10)[:, None] % 4)
        assert np.take_along_axis(episode.action_masks, episode.actions[:, None], axis=1).all()


def test_collect_evaluate_and_the_callback_give_the_same_numbers(tmp_path):
    model = PREFINE(make_model(PPO), preferences(), batch_size=8, seed=0, device="cpu")
    one, two = (evaluate_policy(model, RandomEnv, 5, n_envs=3, n_workers=n, deterministic=False) for n in (1, 2))
    np.testing.assert_array_equal(one.episode_rewards, two.episode_rewards)
    recorded = [collect(model, RandomEnv, 5, n_envs=3, n_workers=n, progress_bar=False) for n in (1, 2)]
    np.testing.assert_array_equal(recorded[0].actions, recorded[1].actions)
    np.testing.assert_array_equal(recorded[0].observations, recorded[1].observations)

    watched = []
    for n in (1, 2):
        callback = CostEvalCallback(RandomEnv, cost_limit=5, eval_freq=2, n_eval_episodes=3, n_workers=n, verbose=0)
        PREFINE(make_model(PPO), preferences(), batch_size=8, seed=0, device="cpu").learn(2, callback)
        watched.append(callback.last_evaluation.episode_rewards)
    np.testing.assert_array_equal(*watched)


def test_more_workers_than_groups(children):
    episodes = generate_episodes(RandomPolicy(), ScriptedEnv, 4, n_envs=16, n_workers=5, deterministic=True, seed=0)
    with pytest.warns(UserWarning, match=r"^n_workers: n_envs=4 .* 2 of 5 .* n_envs=80 "):
        first = next(episodes)
    assert len(children()) == 1
    found = sorted([first, *episodes], key=lambda episode: episode.index)
    assert_same_episodes(found, run(RandomPolicy(), ScriptedEnv, 4, 16, 1, seed=0))
    with pytest.warns(UserWarning, match=r"^n_workers: .* 1 of 3 "):
        assert run(ZeroPolicy(), ScriptedEnv, 1, n_workers=3)[0].index == 0


def test_observations_may_change_their_dtype():
    class Wide(ScriptedEnv):
        """Single precision at first, double later: gymnasium's checker would warn."""

        def step(self, action):
            observation, *rest = super().step(action)
            return observation.astype(np.float64), *rest

    assert_same_episodes(run(ZeroPolicy(), Wide), run(ZeroPolicy(), Wide, n_workers=1))


def test_the_callers_random_states_are_untouched():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    for _ in generate_episodes(RandomPolicy(), ScriptedEnv, 6, n_envs=4, n_workers=2, deterministic=False, seed=0):
        assert states() == before
    assert states() == before


# Who steps what


class Pid(ScriptedEnv):
    """Returns the id of its process as observation."""

    observation_space = spaces.Box(0, np.inf, (1,), np.int64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([os.getpid()]), {}

    def step(self, action):
        _, *rest = super().step(action)
        return np.array([os.getpid()]), *rest


def test_each_group_runs_in_one_process_and_this_one_takes_some():
    pids = [int(episode.observations[0, 0]) for episode in run(ZeroPolicy(), Pid, 12, 6, 3)]
    assert pids[0] == HERE
    assert pids == pids[:3] * 4
    assert len(set(pids)) == 3


def test_this_process_works_while_the_others_start(monkeypatch):
    class Late(Workers):
        """No process starts before this one has taken a step."""

        def __init__(self, todo):
            super().__init__(todo)
            self.began = threading.Event()

        def _start_children(self, n_workers, job):
            assert self.began.wait(60)
            super()._start_children(n_workers, job)

        def receive(self, wait=False):
            self.began.set()
            return super().receive(wait)

    monkeypatch.setattr(rollout_module, "Workers", Late)
    pids = [int(episode.observations[0, 0]) for episode in run(RandomPolicy(), Pid, 12, 6, 3)]
    assert pids.count(HERE) >= 4
    expected = run(RandomPolicy(), ScriptedEnv, 12, 6, 1)
    assert_same_episodes(run(RandomPolicy(), ScriptedEnv, 12, 6, 3), expected)


def test_global_random_states_are_the_same_in_every_process():
    class Global(ScriptedEnv):
        observation_space = spaces.Box(0, 1, (3,), np.float64)

        def __init__(self):
            super().__init__()
            self.made = np.random.rand()  # noqa: NPY002

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array([np.random.rand(), torch.rand(()).item(), self.made]), {}  # noqa: NPY002

        def step(self, action):
            return np.zeros(3), 0.0, True, False, {}

    one, three = ([e.observations[0] for e in run(RandomPolicy(), Global, 6, 6, n)] for n in (1, 3))
    np.testing.assert_array_equal(one, three)
    assert len(np.unique(one)) == 18


def test_a_policy_acts_on_one_thread_in_every_process():
    class Threads(ZeroPolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.full((len(observation), 2), torch.get_num_threads() / 8, np.float32), state

    torch.set_num_threads(2)
    try:
        for n_workers in (1, 2):
            episodes = generate_episodes(
                Threads(), ScriptedEnv, 4, n_envs=4, n_workers=n_workers, deterministic=True, seed=0
            )
            for episode in episodes:
                assert torch.get_num_threads() == 2
                np.testing.assert_array_equal(episode.actions, 1 / 8)
    finally:
        torch.set_num_threads(1)


def test_worker_processes_apply_the_env_wrappers_of_the_policy():
    wrapped = gym.wrappers.TimeAwareObservation(gym.make("Pendulum-v1"))
    reference = load_reference(PPO("MlpPolicy", wrapped, seed=0, device="cpu"))
    reference = replace(reference, env_wrappers=(EnvWrapper("gymnasium.wrappers.TimeAwareObservation", {}),))
    make = functools.partial(gym.make, "Pendulum-v1", max_episode_steps=20)
    episodes = run(reference, make)
    assert_same_episodes(episodes, run(reference, make, n_workers=1))
    assert episodes[0].observations.shape == (21, 4)
    model = PREFINE(reference, device="cpu")
    assert_same_episodes(run(model, make), episodes)


def test_an_id_registered_only_in_this_process_works():
    class Local(ScriptedEnv):
        pass

    gym.register("Local-v0", Local, kwargs={})
    try:
        assert_same_episodes(run(ZeroPolicy(), "Local-v0"), run(ZeroPolicy(), ScriptedEnv, n_workers=1))
    finally:
        gym.registry.pop("Local-v0")


# What goes wrong


def failing(fail):
    """A ``ScriptedEnv`` that fails at its second step, in every process but this one."""

    class Failing(ScriptedEnv):
        def step(self, action):
            found = super().step(action)
            return fail(self, *found) if os.getpid() != HERE and self.t == 2 else found

    return Failing


def test_an_error_of_an_environment_is_raised_in_this_process():
    def fail(env, *found):
        raise ZeroDivisionError("at the second step")

    with pytest.raises(ZeroDivisionError, match="at the second step") as caught:
        run(ZeroPolicy(), failing(fail))
    assert "In process 1 of 2" in caught.value.__notes__[0]
    assert "in fail" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_is_raised_as_text():
    class Bad(Exception):
        def __init__(self, name, number):
            super().__init__(f"{name} broke at {number}")

    def fail(env, *found):
        raise Bad("arm", 7)

    with pytest.raises(RuntimeError, match=r"Bad: arm broke at 7\nIn process 1 of 2"):
        run(ZeroPolicy(), failing(fail))


def test_errors_of_making_and_resetting_environments_are_raised():
    def make():
        if os.getpid() != HERE:
            raise FileNotFoundError("no model")
        return ScriptedEnv()

    with pytest.raises(FileNotFoundError, match="no model"):
        run(ZeroPolicy(), make)

    shared = ScriptedEnv()
    with pytest.raises(ValueError, match=r"^env: .* twice"):
        run(ZeroPolicy(), lambda: shared if os.getpid() != HERE else ScriptedEnv(), 6, 4, 2)

    class Late(ScriptedEnv):
        def reset(self, *, seed=None, options=None):
            if os.getpid() != HERE:
                raise OSError("gone")
            return super().reset(seed=seed)

    with pytest.raises(OSError, match="gone"):
        run(ZeroPolicy(), Late, 20)


@pytest.mark.parametrize("name", ["observation", "reward"])
def test_a_diverged_simulation_raises_the_same_error_as_in_one(name):
    class Diverges(ScriptedEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            if self._buffer[0] == broken and self.t == 2:
                return (observation * np.nan, reward, *rest) if name == "observation" else (observation, np.inf, *rest)
            return observation, reward, *rest

    plain = run(ZeroPolicy(), ScriptedEnv, 12)
    # Of an episode that begins in the other process.
    episode = next(e for e in plain[1:4:2] if len(e.rewards) >= 2)
    broken = episode.observations[0, 0]
    messages = []
    for n_workers in (1, 2):
        with pytest.raises(ValueError, match=f"^env: .* {name} in episode {episode.index}, by step") as caught:
            run(ZeroPolicy(), Diverges, 12, n_workers=n_workers)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_an_endless_episode_is_an_error(monkeypatch):
    class Endless(ScriptedEnv):
        def step(self, action):
            observation, reward, *_, info = super().step(action)
            done = os.getpid() == HERE and self.t > 3
            return observation, reward, done, False, info

    monkeypatch.setattr(rollout_module, "MAX_EPISODE_STEPS", 50)
    with pytest.raises(RuntimeError, match=r"^env: episode 1 .* 50 steps"):
        run(ZeroPolicy(), Endless)


@pytest.mark.parametrize(
    ("end", "code"),
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), -9), (lambda: os._exit(3), 3)],
    ids=["kill", "exit"],
)
def test_a_killed_process_is_an_error_and_not_a_hang(end, code):
    with pytest.raises(RuntimeError, match=rf"^n_workers: process 1 .*exit code {code};"):
        run(ZeroPolicy(), failing(lambda env, *found: end()))


def test_existing_environments_cannot_be_shared():
    for env in (ScriptedEnv(), DummyVecEnv([ScriptedEnv, ScriptedEnv])):
        with pytest.raises(ValueError, match=rf"^n_workers: 2 .*{type(env).__name__}"):
            run(ZeroPolicy(), env)
    with pytest.raises(TypeError, match=r"^env: int "):
        run(ZeroPolicy(), 3)
    with pytest.raises(ValueError, match=r"^env: .*'Cheetah-v0'"):
        run(ZeroPolicy(), "Cheetah-v0")


def test_an_argument_that_cannot_be_pickled_is_named():
    lock = threading.Lock()

    class Locked(ZeroPolicy):
        def wrap_env(self, env):
            return env if lock else None

    message = ".*cannot pickle"
    with pytest.raises(TypeError, match=f"^env: {message}"):
        run(ZeroPolicy(), lambda: ScriptedEnv() if lock else None)
    with pytest.raises(TypeError, match=f"^policy: {message}"):
        run(Locked(), ScriptedEnv)
    with pytest.raises(TypeError, match=f"^action_transform: {message}"):
        run(ZeroPolicy(), ScriptedEnv, action_transform=lambda actions: actions if lock else None)


def test_zero_workers_are_refused():
    with pytest.raises(ValueError, match=r"^n_workers: 0 "):
        run(ZeroPolicy(), ScriptedEnv, n_workers=0)
    with pytest.raises(ValueError, match=r"^n_workers: 0 "):
        CostEvalCallback(ScriptedEnv, cost_limit=1, n_workers=0)


# The end


@pytest.mark.parametrize("close", [lambda episodes: episodes.close(), lambda episodes: None])
def test_an_abandoned_rollout_closes_everything(close, tmp_path, children):
    class Closing(ScriptedEnv):
        def close(self):
            (tmp_path / f"{os.getpid()}-{id(self)}").touch()

    episodes = generate_episodes(ZeroPolicy(), Closing, 50, n_envs=6, n_workers=3, deterministic=True, seed=0)
    next(episodes)
    assert len(children()) == 2
    assert not list(tmp_path.iterdir())
    close(episodes)
    del episodes
    assert len(list(tmp_path.iterdir())) == 6


def test_a_process_that_does_not_end_is_killed(monkeypatch):
    class Stuck(ScriptedEnv):
        def close(self):
            if os.getpid() != HERE:
                threading.Event().wait()

    monkeypatch.setattr("sb3_prefine.rollout.workers._CLOSE_TIMEOUT", 0.5)
    assert len(run(ZeroPolicy(), Stuck)) == 6


ENDLESS = """
import os
import signal
from sb3_prefine.rollout import generate_episodes
from tests.scripted import ScriptedEnv, ZeroPolicy

class Endless(ScriptedEnv):
    def reset(self, *, seed=None, options=None):
        os.write(1, b"began\\n")  # in one piece: print() writes the end of the line after the others' text
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, False, False, {}

# Where tests run in the background, Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in generate_episodes(ZeroPolicy(), Endless, 33, n_envs=33, n_workers=3, deterministic=True, seed=0):
    pass
"""


@pytest.mark.parametrize("end", ["ctrl-c", "killed"])
def test_no_process_remains_when_this_one_ends(end):
    script = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert [script.stdout.readline() for _ in range(33)] == ["began\n"] * 33
        if end == "ctrl-c":
            os.killpg(script.pid, signal.SIGINT)  # what a terminal sends, to all of them
        else:
            os.kill(script.pid, signal.SIGKILL)
        # They all hold the other end of this pipe: it is read to its end once the last of them is gone.
        _, errors = script.communicate(timeout=120)
    except BaseException:
        os.killpg(script.pid, signal.SIGKILL)
        raise
    assert script.returncode == (-signal.SIGINT if end == "ctrl-c" else -signal.SIGKILL)
    assert errors.count("Traceback") == (1 if end == "ctrl-c" else 0)


def test_a_script_without_a_main_guard_gets_advice(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, env=environment)
    assert found.returncode == 1
    assert 'if __name__ == "__main__":' in found.stderr.splitlines()[-1]
