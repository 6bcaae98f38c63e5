import json
import os
import signal

import pytest
from stable_baselines3 import PPO

from sb3_prefine import evaluate_policy
from tests.cli.conftest import ENV
from tests.worlds import model_of


def test_it_acts_by_the_mode_unless_told_to_sample(call, policy, tmp_path):
    rewards = {}
    for name, flags in (("default", []), ("mode", ["--deterministic"]), ("sampled", ["--stochastic"])):
        path = tmp_path / "new" / f"{name}.json"
        outcome = call("evaluate", policy, ENV, "--episodes", 2, "--n-envs", 1, "--json", path, *flags)
        assert outcome.code == 0, outcome
        rewards[name] = json.loads(path.read_text())["episode_rewards"]
    # With as many environments at once as the command: a batch of another size rounds otherwise.
    by_mode = evaluate_policy(policy, ENV, 2, n_envs=1)
    sampled = evaluate_policy(policy, ENV, 2, n_envs=1, deterministic=False)
    assert rewards["default"] == rewards["mode"] == by_mode.episode_rewards.tolist()
    assert rewards["sampled"] == sampled.episode_rewards.tolist()
    assert rewards["sampled"] != rewards["mode"]


def test_the_table_has_the_intervals_the_violations_and_the_worst_tenth(call, policy):
    out = call("evaluate", policy, ENV, "--episodes", 12, "--stochastic", "--cost-limit", 88.5, "--seed", 3).out
    expected = evaluate_policy(policy, ENV, 12, deterministic=False, seed=3)
    assert 0 < expected.violation_rate(88.5) < 1
    assert "over 88.5" in out
    [row] = [line for line in out.splitlines() if "fast.zip" in line]
    assert row.split()[1:] == [
        f"{expected.mean_reward:,.0f}",
        *"{:,.0f}, {:,.0f}".format(*expected.reward_interval).split(),
        f"{expected.mean_cost:.1f}",
        *"{:.1f}, {:.1f}".format(*expected.cost_interval).split(),
        f"{expected.violation_rate(88.5):.0%}",
        f"{expected.cvar_cost():.1f}",
    ]


def test_unknown_costs_are_unknown_and_null(call, tmp_path):
    model_of(PPO, "Pendulum-v1").save(tmp_path / "pendulum.zip")
    path = tmp_path / "out.json"
    outcome = call("evaluate", tmp_path / "pendulum.zip", "Pendulum-v1", "--episodes", 2, "--json", path)
    assert outcome.code == 0, outcome
    [row] = [line for line in outcome.out.splitlines() if "pendulum.zip" in line and "Wrote" not in line]
    assert row.split()[-3:] == ["unknown"] * 3  # the mean, the violations, the worst
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for name in ("mean_cost", "violation_rate", "cvar_cost"):
        assert found[name] is None
    assert found["episode_costs"] == found["cost_interval"] == [None, None]
    assert found["mean_reward"] == evaluate_policy(tmp_path / "pendulum.zip", "Pendulum-v1", 2).mean_reward


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["POLICY", "Nope-v0"], "gymnasium knows no environment 'Nope-v0'"),
        (["POLICY", "Pendulum-v1"], "env: its observations have shape (3,), the policy expects (7,)"),
        (["nowhere.zip", ENV], "policy: there is no checkpoint at nowhere.zip"),
        (["POLICY", ENV, "--episodes", "0"], "n_episodes: 0 is not positive"),
        (["POLICY", ENV, "--n-envs", "0"], "n_envs: 0 is not positive"),
        (["POLICY", ENV, "--cost-limit", "-1"], "cost_limit: -1.0 is not a limit"),
    ],
)
def test_a_wrong_argument_is_refused(call, policy, tmp_path, arguments, message):
    arguments = [str(policy) if argument == "POLICY" else argument for argument in arguments]
    assert message in call("evaluate", *arguments, "--json", tmp_path / "out.json").error
    assert not (tmp_path / "out.json").exists()


def test_a_file_is_not_replaced_by_accident(call, policy, tmp_path):
    path = tmp_path / "out.json"
    path.write_text("mine")
    arguments = ("evaluate", policy, ENV, "--episodes", 1, "--json", path)
    assert "is there already" in call(*arguments).error
    assert path.read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert json.loads(path.read_text())["n_episodes"] == 1


def test_ctrl_c_is_one_line_and_130(call, policy, tmp_path, monkeypatch):
    (tmp_path / "interrupting.py").write_text(
        "import gymnasium, os, signal\n"
        "class Interrupting(gymnasium.Wrapper):\n"
        "    def step(self, action):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return self.env.step(action)\n"
        f"gymnasium.register('Interrupting-v0', lambda: Interrupting(gymnasium.make('{ENV}')))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    # Where tests run in the background, Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome = call("evaluate", policy, "interrupting:Interrupting-v0", "--json", tmp_path / "out.json")
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.code == 130
    assert outcome.err.endswith("sb3-prefine: interrupted\n")
    assert "Traceback" not in outcome.err
    assert not os.path.exists(tmp_path / "out.json")


def test_more_processes_measure_the_same(call, policy, tmp_path):
    for n_workers in (1, 2):
        path = tmp_path / f"{n_workers}.json"
        flags = ("--episodes", 4, "--n-envs", 3, "--n-workers", n_workers, "--stochastic", "--json", path)
        assert call("evaluate", policy, ENV, *flags).code == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    outcome = call("compare", ENV, policy, "--episodes", 2, "--n-workers", 0)
    assert outcome.error.startswith("n_workers: 0 is not positive")
