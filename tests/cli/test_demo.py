"""The demo, which is the first command that a new user runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from sb3_prefine import Trajectories, load_reference
from sb3_prefine.cli.demo import COST_LIMIT, DATA, demo

LAST_LINE = re.compile(
    r"reference: reward (-?[\d.]+), cost ([\d.]+) \| PREFINE: reward (-?[\d.]+), cost ([\d.]+) \| cost cut (-?[\d.]+)%"
)


def test_demo_makes_the_policy_safe_and_keeps_the_reward_of_the_data(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "sb3_prefine", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = LAST_LINE.fullmatch(result.stdout.splitlines()[-1])
    assert found, result.stdout
    _, cost_before, reward, cost, cut = (float(number) for number in found.groups())
    assert cost_before > 900
    assert cost <= COST_LIMIT
    assert reward >= 0.95 * Trajectories.from_hdf5(DATA / "preferred.hdf5").episode_returns.mean()
    assert cut == round(100 * (1 - cost / cost_before), 1)
    assert "3000/3000" in result.stderr.replace(",", "")  # the progress bar
    assert "settotalmass" not in result.stderr

    assert (tmp_path / "demo" / "plane.png").read_bytes().startswith(b"\x89PNG")
    exported = PPO.load(tmp_path / "demo" / "safe.zip", device="cpu")
    reference = load_reference(DATA / "reference.zip")
    states = Trajectories.from_hdf5(DATA / "dispreferred.hdf5").observations[:10]
    assert not np.allclose(
        exported.predict(reference.normalize(states), deterministic=True)[0],
        reference.predict(states, deterministic=True)[0],
    )


def test_demo_names_missing_packages_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'mujoco and matplotlib.*pip install "sb3-prefine\[demo\]"'):
        demo(tmp_path)


def test_demo_files_are_small_and_their_costs_are_apart():
    size = sum(path.stat().st_size for path in Path(DATA).rglob("*") if path.is_file())
    assert size < 3_000_000
    preferred, dispreferred = (Trajectories.from_hdf5(DATA / f"{name}.hdf5") for name in ("preferred", "dispreferred"))
    assert preferred.episode_costs.max() <= COST_LIMIT
    assert dispreferred.episode_costs.min() > 10 * COST_LIMIT
    reference = load_reference(DATA / "reference.zip")
    assert reference.algo == "ppo"
    assert reference.normalizer is not None
