import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_prefine import Trajectories, __version__, collect
from tests.cli.conftest import ENV
from tests.worlds import choosing, model_of


def test_it_samples_unless_told_to_act_by_the_mode(call, policy, tmp_path):
    for name, flags in (("default", []), ("stochastic", ["--stochastic"]), ("mode", ["--deterministic"])):
        outcome = call("collect", policy, ENV, "--out", tmp_path / f"{name}.hdf5", "--episodes", 2, *flags)
        assert outcome.code == 0, outcome
    files = {name: Trajectories.from_hdf5(tmp_path / f"{name}.hdf5") for name in ("default", "stochastic", "mode")}
    sampled = collect(policy, ENV, 2, progress_bar=False)
    by_mode = collect(policy, ENV, 2, deterministic=True, progress_bar=False)
    assert np.array_equal(files["default"].actions, sampled.actions)
    assert np.array_equal(files["stochastic"].actions, sampled.actions)
    assert np.array_equal(files["mode"].actions, by_mode.actions)
    assert not np.array_equal(sampled.actions, by_mode.actions)


def test_both_ways_of_acting_at_once_are_a_wrong_usage(call, policy, tmp_path):
    outcome = call("collect", policy, ENV, "--out", tmp_path / "x.hdf5", "--deterministic", "--stochastic")
    assert outcome.code == 2


def test_the_table_has_a_row_for_each_scale_and_one_for_all(call, policy, tmp_path):
    outcome = call(
        *("collect", policy, ENV, "--out", tmp_path / "new" / "x.hdf5", "--episodes", 3),
        *("--scales", 0.2, 1, "--n-envs", 2, "--cost-limit", 30),
    )
    data = Trajectories.from_hdf5(tmp_path / "new" / "x.hdf5")
    rows = {line.split("  ")[0].strip(): line for line in outcome.out.splitlines()}
    for name, part in (("scale 0.2", data[:3]), ("scale 1", data[3:]), ("all", data)):
        assert f"{part.episode_returns.mean():,.1f}" in rows[name]
        assert f"{part.episode_costs.mean():,.1f}" in rows[name]
        assert f"{(part.episode_costs > 30).mean():.0%}" in rows[name]
    assert "over 30" in outcome.out
    assert "600 transitions" in outcome.out


def test_the_file_says_how_it_was_made(call, policy, tmp_path):
    call("collect", policy, ENV, "--out", tmp_path / "x.hdf5", "--episodes", 1, "--scale", 0.5, "--seed", 9)
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert dict(file.attrs) == {
            "made_by": f"sb3-prefine {__version__} collect",
            "policy": str(policy),
            "env": ENV,
            "episodes_of_each_scale": 1,
            "scales": "0.5",
            "deterministic": False,
            "seed": 9,
        }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales"], "--scales: give one or more"),
        (["--scales", "0.5", "0.5"], "--scales: give one or more factors, each once"),
        (["--scales", "-1"], "--scales: -1 is not a factor"),
        (["--scales", "nan"], "--scales: nan is not a factor"),
        (["--episodes", "0"], "n_episodes: 0 is not positive"),
        (["--seed", "-1"], "seed: -1 is negative"),
        (["--algo", "sac"], "algo: 'sac' was given"),
        (["--normalizer", "nowhere.pkl"], "nowhere.pkl"),
    ],
)
def test_a_wrong_option_is_refused(call, policy, tmp_path, options, message):
    assert message in call("collect", policy, ENV, "--out", tmp_path / "x.hdf5", *options).error
    assert not (tmp_path / "x.hdf5").exists()


def test_discrete_actions_are_not_scaled(call, tmp_path):
    model_of(PPO, choosing(spaces.Discrete(3))()).save(tmp_path / "discrete.zip")
    outcome = call("collect", tmp_path / "discrete.zip", ENV, "--out", tmp_path / "x.hdf5", "--scales", 0.5)
    assert outcome.error.startswith("--scales: the policy's actions are Discrete(3)")


def test_another_environment_than_the_policy_s_is_refused(call, policy, tmp_path):
    assert "env: its observations have shape" in call("collect", policy, "Pendulum-v1", "--out", tmp_path / "x").error


def test_an_environment_may_be_registered_by_a_module_of_one_s_own(call, policy, tmp_path, monkeypatch):
    (tmp_path / "my_balls.py").write_text(
        "import gymnasium\n"
        f"gymnasium.register('MyBall-v0', lambda: gymnasium.make('{ENV}').unwrapped, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = call("collect", policy, "my_balls:MyBall-v0", "--out", tmp_path / "x.hdf5", "--episodes", 1)
    assert outcome.code == 0, outcome
    assert Trajectories.from_hdf5(tmp_path / "x.hdf5").n_transitions == 7


def test_a_file_is_not_replaced_by_accident(call, policy, tmp_path):
    (tmp_path / "x.hdf5").write_text("mine")
    arguments = ("collect", policy, ENV, "--out", tmp_path / "x.hdf5", "--episodes", 1)
    assert call(*arguments).error.endswith("Name another file, or pass --overwrite to replace it.")
    assert (tmp_path / "x.hdf5").read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert len(Trajectories.from_hdf5(tmp_path / "x.hdf5")) == 1


def test_more_processes_record_the_same(call, policy, tmp_path):
    for n_workers in (1, 2):
        flags = ("--out", tmp_path / f"{n_workers}.hdf5", "--episodes", 3, "--n-envs", 2, "--n-workers", n_workers)
        assert call("collect", policy, ENV, *flags).code == 0
    one, two = (Trajectories.from_hdf5(tmp_path / f"{n_workers}.hdf5") for n_workers in (1, 2))
    for name in ("observations", "actions", "rewards", "costs"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
