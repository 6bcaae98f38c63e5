import importlib.util

import pytest
from stable_baselines3 import PPO

from sb3_prefine import evaluate_policy
from tests.cli.conftest import ENV
from tests.worlds import model_of


def test_every_policy_runs_the_same_episodes(call, policy):
    out = call("compare", ENV, policy, policy, "--episodes", 3, "--stochastic", "--seed", 4, "--cost-limit", 89).out
    first, second = [line for line in out.splitlines() if "fast.zip" in line]
    assert first == second
    expected = evaluate_policy(policy, ENV, 3, deterministic=False, seed=4)
    assert f"{expected.mean_reward:,.0f}" in first
    assert f"{expected.violation_rate(89):.0%}" in first


def test_a_name_that_looks_like_markup_is_printed_as_it_is(call, policy, tmp_path):
    (tmp_path / "[bold]a.zip").write_bytes(policy.read_bytes())
    assert "[bold]a.zip" in call("compare", ENV, tmp_path / "[bold]a.zip", "--episodes", 1).out


def test_a_wrong_policy_at_the_end_is_found_before_the_first_runs(call, policy):
    outcome = call("compare", ENV, policy, "nowhere.zip")
    assert outcome.error.startswith("policy: there is no checkpoint at nowhere.zip")
    assert "episode" not in outcome.err.rpartition("sb3-prefine: error")[0]


def test_without_a_policy_there_is_nothing_to_compare(call):
    assert "there is no policy" in call("compare", ENV).error


def test_a_wrong_limit_or_environment_is_refused(call, policy):
    assert "cost_limit: -1.0" in call("compare", ENV, policy, "--cost-limit", -1).error
    assert "gymnasium knows no environment" in call("compare", "Nope-v0", policy).error


def test_a_picture_is_not_replaced_by_accident(call, policy, tmp_path):
    path = tmp_path / "plane.png"
    path.write_text("mine")
    arguments = ("compare", ENV, policy, "--episodes", 2, "--plot", path)
    assert "is there already" in call(*arguments).error
    assert path.read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_matplotlib_and_says_so_at_once(call, policy, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    outcome = call("compare", ENV, policy, "--plot", tmp_path / "plane.png")
    assert outcome.error == '--plot needs matplotlib. Run: pip install "sb3-prefine[demo]"'
    assert "episode" not in outcome.err


def test_unknown_costs_are_not_drawn_and_the_table_is_printed_all_the_same(call, tmp_path):
    model_of(PPO, "Pendulum-v1").save(tmp_path / "pendulum.zip")
    outcome = call(
        "compare", "Pendulum-v1", tmp_path / "pendulum.zip", "--episodes", 1, "--plot", tmp_path / "plane.png"
    )
    assert "has episodes of unknown cost" in outcome.error
    assert "unknown" in outcome.out
    assert not (tmp_path / "plane.png").exists()


@pytest.mark.parametrize("flag", ["--trust", "--algo=ppo"])
def test_how_to_open_counts_for_all(call, policy, flag):
    assert call("compare", ENV, policy, policy, "--episodes", 1, flag).code == 0
