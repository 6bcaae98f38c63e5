"""The examples run, and reach what the README says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sb3_prefine import Trajectories, load_reference

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sac_checkpoint_of_the_zoo_becomes_safe(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = load("retrofit_zoo_checkpoint")
    result = example.retrofit("sac", example.slower_gaits(episodes=10), seeds=(0,))
    assert result.before.mean_cost > 900
    [after] = result.after
    assert after.mean_cost <= example.COST_LIMIT
    assert after.mean_reward >= 0.95 * result.data.episode_returns.mean()
    assert result.reached == 1
    assert (tmp_path / "runs" / "sac-HalfCheetah-safe-0.zip").is_file()
    table = example.markdown([result])
    assert f"| SAC | {result.before.mean_reward:,.0f} / {result.before.mean_cost:.0f} |" in table


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_the_other_checkpoints_go_the_same_way(zoo, tmp_path, monkeypatch, algo):
    monkeypatch.chdir(tmp_path)
    example = load("retrofit_zoo_checkpoint")
    result = example.retrofit(algo, example.slower_gaits(episodes=1), seeds=(7,), steps=3, episodes=1)
    assert len(result.data) == 2
    assert load_reference(tmp_path / "runs" / f"{algo}-HalfCheetah-safe-7.zip").algo == algo


def test_the_demo_s_data_can_be_made_again(tmp_path, monkeypatch):
    example = load("make_demo_data")
    shipped = example.FOLDER
    monkeypatch.setattr(example, "FOLDER", tmp_path)
    monkeypatch.setattr(example, "TIMESTEPS", 2_048)
    example.train()
    assert load_reference(tmp_path / "reference.zip").normalizer is not None

    # The episodes are chosen with the policy that ships: a fresh one of 2,048 steps cannot run yet.
    (tmp_path / "reference" / "vecnormalize.pkl").write_bytes((shipped / "reference" / "vecnormalize.pkl").read_bytes())
    (tmp_path / "reference.zip").write_bytes((shipped / "reference.zip").read_bytes())
    example.choose()
    for name in ("preferred", "dispreferred"):
        made, ships = (Trajectories.from_hdf5(folder / f"{name}.hdf5") for folder in (tmp_path, shipped))
        assert len(made) == len(ships)
        assert made.episode_returns.mean() == pytest.approx(ships.episode_returns.mean(), rel=0.1)
        assert made.episode_costs.mean() == pytest.approx(ships.episode_costs.mean(), abs=100)
