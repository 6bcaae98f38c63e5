import importlib.util
import re

import pytest
from stable_baselines3 import PPO

from sb3_prefine import evaluate_policy
from tests.cli.conftest import ENV
from tests.worlds import make_model


def test_all_policies_run_the_same_episodes(call, policy):
    out = call("compare", ENV, policy, policy, "--episodes", 3, "--stochastic", "--seed", 4, "--cost-limit", 89).out
    first, second = [line for line in out.splitlines() if "fast.zip" in line]
    assert first == second
    expected = evaluate_policy(policy, ENV, 3, deterministic=False, seed=4)
    assert f"{expected.mean_reward:,.0f}" in first
    assert f"{expected.violation_rate(89):.0%}" in first


def test_name_with_rich_markup_is_printed_literally(call, policy, tmp_path):
    (tmp_path / "[bold]a.zip").write_bytes(policy.read_bytes())
    assert "[bold]a.zip" in call("compare", ENV, tmp_path / "[bold]a.zip", "--episodes", 1).out


def test_missing_checkpoint_is_found_before_any_evaluation(call, policy):
    outcome = call("compare", ENV, policy, "nowhere.zip")
    assert re.match(r"policy: .*nowhere\.zip", outcome.error)
    assert "episode" not in outcome.err.rpartition("sb3-prefine: error")[0]


def test_missing_policies_are_an_error(call):
    assert call("compare", ENV).error.startswith("policies: ")


def test_wrong_limit_or_environment_is_refused(call, policy):
    assert re.match(r"cost_limit: .*-1", call("compare", ENV, policy, "--cost-limit", -1).error)
    assert re.match(r"env: .*'Nope-v0'", call("compare", "Nope-v0", policy).error)


def test_existing_plot_is_replaced_only_with_overwrite(call, policy, tmp_path):
    path = tmp_path / "plane.png"
    path.write_text("mine")
    arguments = ("compare", ENV, policy, "--episodes", 2, "--plot", path)
    assert re.match(r".*plane\.png: .*--overwrite", call(*arguments).error)
    assert path.read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_matplotlib_is_an_error_before_any_evaluation(call, policy, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    outcome = call("compare", ENV, policy, "--plot", tmp_path / "plane.png")
    assert re.match(r'--plot .*matplotlib.*pip install "sb3-prefine\[demo\]"', outcome.error)
    assert "episode" not in outcome.err


def test_unknown_costs_are_tabled_but_not_plotted(call, tmp_path):
    make_model(PPO, "Pendulum-v1").save(tmp_path / "pendulum.zip")
    outcome = call(
        "compare", "Pendulum-v1", tmp_path / "pendulum.zip", "--episodes", 1, "--plot", tmp_path / "plane.png"
    )
    assert "pendulum.zip" in outcome.error
    assert "unknown" in outcome.out
    assert not (tmp_path / "plane.png").exists()


@pytest.mark.parametrize("flag", ["--trust", "--algo=ppo"])
def test_checkpoint_options_apply_to_all_policies(call, policy, flag):
    assert call("compare", ENV, policy, policy, "--episodes", 1, flag).code == 0
