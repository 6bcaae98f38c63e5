import json
import os
import re
import signal

import pytest
from stable_baselines3 import PPO

from sb3_prefine import evaluate_policy
from tests.cli.conftest import ENV
from tests.worlds import make_model


def test_evaluate_acts_deterministically_by_default(call, policy, tmp_path):
    rewards = {}
    for name, flags in (("default", []), ("mode", ["--deterministic"]), ("sampled", ["--stochastic"])):
        path = tmp_path / "new" / f"{name}.json"
        outcome = call("evaluate", policy, ENV, "--episodes", 2, "--n-envs", 1, "--json", path, *flags)
        assert outcome.code == 0, outcome
        rewards[name] = json.loads(path.read_text())["episode_rewards"]
    # The number of environments must be that of the command, because rounding depends on the batch size.
    modes = evaluate_policy(policy, ENV, 2, n_envs=1)
    sampled = evaluate_policy(policy, ENV, 2, n_envs=1, deterministic=False)
    assert rewards["default"] == rewards["mode"] == modes.episode_rewards.tolist()
    assert rewards["sampled"] == sampled.episode_rewards.tolist()
    assert rewards["sampled"] != rewards["mode"]


def test_table_has_intervals_violations_and_cvar(call, policy):
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


def test_unknown_costs_are_unknown_in_the_table_and_null_in_json(call, tmp_path):
    make_model(PPO, "Pendulum-v1").save(tmp_path / "pendulum.zip")
    path = tmp_path / "out.json"
    outcome = call("evaluate", tmp_path / "pendulum.zip", "Pendulum-v1", "--episodes", 2, "--json", path)
    assert outcome.code == 0, outcome
    [row] = [line for line in outcome.out.splitlines() if "pendulum.zip" in line and "Wrote" not in line]
    assert row.split()[-3:] == ["unknown"] * 3  # mean cost, violation rate and CVaR
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for name in ("mean_cost", "violation_rate", "cvar_cost"):
        assert found[name] is None
    assert found["episode_costs"] == found["cost_interval"] == [None, None]
    assert found["mean_reward"] == evaluate_policy(tmp_path / "pendulum.zip", "Pendulum-v1", 2).mean_reward


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["POLICY", "Nope-v0"], r"env: .*'Nope-v0'"),
        (["POLICY", "Pendulum-v1"], r"env: .*\(3,\).*\(7,\)"),
        (["nowhere.zip", ENV], r"policy: .*nowhere\.zip"),
        (["POLICY", ENV, "--episodes", "0"], r"n_episodes: .*0"),
        (["POLICY", ENV, "--n-envs", "0"], r"n_envs: .*0"),
        (["POLICY", ENV, "--cost-limit", "-1"], r"cost_limit: .*-1"),
    ],
)
def test_wrong_arguments_are_refused(call, policy, tmp_path, arguments, message):
    arguments = [str(policy) if argument == "POLICY" else argument for argument in arguments]
    assert re.match(message, call("evaluate", *arguments, "--json", tmp_path / "out.json").error)
    assert not (tmp_path / "out.json").exists()


def test_existing_file_is_replaced_only_with_overwrite(call, policy, tmp_path):
    path = tmp_path / "out.json"
    path.write_text("mine")
    arguments = ("evaluate", policy, ENV, "--episodes", 1, "--json", path)
    assert re.match(r".*out\.json: .*--overwrite", call(*arguments).error)
    assert path.read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert json.loads(path.read_text())["n_episodes"] == 1


def test_ctrl_c_exits_with_130_and_one_line(call, policy, tmp_path, monkeypatch):
    (tmp_path / "interrupting.py").write_text(
        "import gymnasium, os, signal\n"
        "class Interrupting(gymnasium.Wrapper):\n"
        "    def step(self, action):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return self.env.step(action)\n"
        f"gymnasium.register('Interrupting-v0', lambda: Interrupting(gymnasium.make('{ENV}')))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    # Python ignores Ctrl-C in a background process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome = call("evaluate", policy, "interrupting:Interrupting-v0", "--json", tmp_path / "out.json")
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.code == 130
    assert outcome.err.endswith("sb3-prefine: interrupted\n")
    assert "Traceback" not in outcome.err
    assert not os.path.exists(tmp_path / "out.json")


def test_number_of_processes_does_not_change_the_evaluation(call, policy, tmp_path):
    for n_workers in (1, 2):
        path = tmp_path / f"{n_workers}.json"
        flags = ("--episodes", 4, "--n-envs", 3, "--n-workers", n_workers, "--stochastic", "--json", path)
        assert call("evaluate", policy, ENV, *flags).code == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    outcome = call("compare", ENV, policy, "--episodes", 2, "--n-workers", 0)
    assert re.match(r"n_workers: .*0", outcome.error)
