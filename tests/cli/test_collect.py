import re

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_prefine import Trajectories, __version__, collect
from tests.cli.conftest import ENV
from tests.worlds import env_with_actions, make_model


def test_collect_samples_actions_by_default(call, policy, tmp_path):
    for name, flags in (("default", []), ("sampled", ["--stochastic"]), ("mode", ["--deterministic"])):
        outcome = call("collect", policy, ENV, "--out", tmp_path / f"{name}.hdf5", "--episodes", 2, *flags)
        assert outcome.code == 0, outcome
    files = {name: Trajectories.from_hdf5(tmp_path / f"{name}.hdf5") for name in ("default", "sampled", "mode")}
    sampled = collect(policy, ENV, 2, progress_bar=False)
    modes = collect(policy, ENV, 2, deterministic=True, progress_bar=False)
    assert np.array_equal(files["default"].actions, sampled.actions)
    assert np.array_equal(files["sampled"].actions, sampled.actions)
    assert np.array_equal(files["mode"].actions, modes.actions)
    assert not np.array_equal(sampled.actions, modes.actions)


def test_deterministic_and_stochastic_exclude_each_other(call, policy, tmp_path):
    outcome = call("collect", policy, ENV, "--out", tmp_path / "x.hdf5", "--deterministic", "--stochastic")
    assert outcome.code == 2


def test_table_has_a_row_for_each_scale_and_for_all(call, policy, tmp_path):
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


def test_file_has_the_settings_as_attributes(call, policy, tmp_path):
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
        (["--scales"], r"--scales: "),
        (["--scales", "0.5", "0.5"], r"--scales: "),
        (["--scales", "-1"], r"--scales: .*-1"),
        (["--scales", "nan"], r"--scales: .*nan"),
        (["--episodes", "0"], r"n_episodes: .*0"),
        (["--seed", "-1"], r"seed: .*-1"),
        (["--algo", "sac"], r"algo: .*'sac'"),
        (["--normalizer", "nowhere.pkl"], r".*nowhere\.pkl"),
    ],
)
def test_wrong_options_are_refused(call, policy, tmp_path, options, message):
    assert re.match(message, call("collect", policy, ENV, "--out", tmp_path / "x.hdf5", *options).error)
    assert not (tmp_path / "x.hdf5").exists()


def test_discrete_actions_cannot_be_scaled(call, tmp_path):
    make_model(PPO, env_with_actions(spaces.Discrete(3))()).save(tmp_path / "discrete.zip")
    outcome = call("collect", tmp_path / "discrete.zip", ENV, "--out", tmp_path / "x.hdf5", "--scales", 0.5)
    assert re.match(r"--scales: .*Discrete\(3\)", outcome.error)


def test_environment_with_other_spaces_is_refused(call, policy, tmp_path):
    error = call("collect", policy, "Pendulum-v1", "--out", tmp_path / "x").error
    assert re.match(r"env: .*\(3,\).*\(7,\)", error)


def test_env_id_imports_the_module_that_it_names(call, policy, tmp_path, monkeypatch):
    (tmp_path / "my_balls.py").write_text(
        "import gymnasium\n"
        f"gymnasium.register('MyBall-v0', lambda: gymnasium.make('{ENV}').unwrapped, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = call("collect", policy, "my_balls:MyBall-v0", "--out", tmp_path / "x.hdf5", "--episodes", 1)
    assert outcome.code == 0, outcome
    assert Trajectories.from_hdf5(tmp_path / "x.hdf5").n_transitions == 7


def test_existing_file_is_replaced_only_with_overwrite(call, policy, tmp_path):
    (tmp_path / "x.hdf5").write_text("mine")
    arguments = ("collect", policy, ENV, "--out", tmp_path / "x.hdf5", "--episodes", 1)
    assert re.match(r".*x\.hdf5: .*--overwrite", call(*arguments).error)
    assert (tmp_path / "x.hdf5").read_text() == "mine"
    assert call(*arguments, "--overwrite").code == 0
    assert len(Trajectories.from_hdf5(tmp_path / "x.hdf5")) == 1


def test_number_of_processes_does_not_change_the_episodes(call, policy, tmp_path):
    for n_workers in (1, 2):
        flags = ("--out", tmp_path / f"{n_workers}.hdf5", "--episodes", 3, "--n-envs", 2, "--n-workers", n_workers)
        assert call("collect", policy, ENV, *flags).code == 0
    one, two = (Trajectories.from_hdf5(tmp_path / f"{n_workers}.hdf5") for n_workers in (1, 2))
    for name in ("observations", "actions", "rewards", "costs"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
