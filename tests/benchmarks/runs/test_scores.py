"""Scores of runs."""

import math

import numpy as np
import pytest

from benchmarks import records
from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from sb3_prefine import dsrl

TASK = dsrl.find_task("BallRun")


def record(
    method: str = "PREFINE",
    rewards: tuple[float, ...] = (400.0, 500.0),
    costs: tuple[float, ...] = (10.0, 20.0),
    seed: int = 0,
    task: str = "BallRun",
) -> dict:
    """Make a record as `run` writes it, with distinct numbers."""
    episodes = {"rewards": list(rewards), "costs": list(costs), "lengths": [100] * len(rewards)}
    return {
        "task": task,
        "method": method,
        "reference": "clone",
        "seed": seed,
        "selection": {"tau": 40.0, "draw": seed, "n_preferred": 100, "n_dispreferred": 20},
        "budget": {
            "ref_steps": 300,
            "steps": 100,
            "safedice_steps": [20, 20],
            "cpq_steps": 20,
            "episodes": len(rewards),
            "stochastic_episodes": 2,
        },
        "steps": 100,
        "deterministic": episodes,
        "stochastic": {name: [value * 2 for value in values] for name, values in episodes.items()},
        "preferred": {"episodes": 100, "reward": 430.0, "cost": 18.0},
        "dispreferred": {"episodes": 20, "reward": 900.0, "cost": 60.0},
        "curve": [],
        "wall_seconds": 31.0,
        "cpu_seconds": 30.0,
        "trained_together": 1,
        "settings": {"eval_cost_limit": 20},
        "policy": "GaussianPolicy",
        "ref_quantile": 0.2,
        "versions": {"python": "3.11.7"},
        "processor": "some processor, 2 cores",
        "date": "2026-11-22",
    }


def normalised(reward: float) -> float:
    return (reward - 26.3397) / (1327.446 - 26.3397)


def test_run_is_scored_with_deterministic_or_stochastic_actions():
    run, unsampled = Run(record(rewards=(400.0, 500.0))), Run({**record(), "stochastic": None})
    [sampled] = scores.stochastic([run, unsampled])
    assert (run.mean_return, sampled.mean_return) == (450.0, 900.0)
    assert sampled.rewards == pytest.approx([normalised(800), normalised(1000)], rel=1e-5)
    np.testing.assert_allclose(sampled.costs, 2 * run.costs)


def test_run_is_normalised_by_its_task_and_limit():
    run = Run(record())
    np.testing.assert_allclose(run.rewards, [normalised(400), normalised(500)], atol=1e-4)
    assert run.costs.tolist() == [0.5, 1.0]
    assert (run.task.name, run.method, run.seed, run.kappa, run.selection.tau) == ("BallRun", "PREFINE", 0, 20, 40)


def test_summary_averages_runs_instead_of_episodes():
    runs = [Run(record(costs=(0.0, 0.0))), Run(record(costs=(40.0, 40.0, 40.0, 40.0), rewards=(1.0,) * 4))]
    found = scores.cost(runs)
    assert (found.mean, found.std) == (1.0, 1.0)
    assert (found.low, found.high) == (0.0, 2.0)
    assert str(found) == "1.00 ± 1.00"


def test_interval_of_one_run_is_nearly_normal():
    """For one run with many episodes, it is nearly the normal interval of the mean."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = scores.summarize([values])
    assert math.isnan(found.std)
    assert str(found) == f"{found.mean:.2f}"
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.02)


def runs_of(levels: list[float], seed: int = 0) -> list[Run]:
    """Make one run per level, with 50 episodes around the level."""
    generator = np.random.default_rng(seed)
    return [Run(record(seed=i, rewards=generator.normal(level, 1.0, 50))) for i, level in enumerate(levels)]


def of_return(run: Run) -> np.ndarray:
    return np.asarray(run.record["deterministic"]["rewards"])


def test_only_real_differences_are_significant():
    first, second = runs_of([0.0] * 3), runs_of([3.0] * 3, seed=1)
    middle, low, high = scores.difference(second, first, of_return)
    assert 2 < low < 3 < high < 4
    assert middle == pytest.approx(np.mean([of_return(b) - of_return(a) for a, b in zip(first, second, strict=True)]))
    middle, low, high = scores.difference(first, first, of_return)
    assert middle == 0
    assert low < 0 < high


def test_variation_shared_by_seeds_is_not_noise():
    """One seed's data are far better than another's, for both methods."""
    first, second = runs_of([0.0, 100.0, 200.0]), runs_of([3.0, 103.0, 203.0], seed=1)
    _, low, high = scores.difference(second, first, of_return)
    assert 2 < low < 3 < high < 4


def test_seeds_of_only_one_method_are_left_out():
    first, second = runs_of([0.0, 0.0, 500.0]), runs_of([3.0, 3.0], seed=1)
    middle, low, high = scores.difference(second, first, of_return)
    assert 2 < low < middle < high < 4
    with pytest.raises(ValueError, match=r"^first, second: "):
        scores.difference(second[:1], first[1:], of_return)


def test_matrix_has_the_smallest_number_of_runs_of_a_task():
    runs = [
        Run(record(task=task, seed=seed, costs=(20.0 * seed,), rewards=(1.0,)))
        for task, n in (("BallRun", 3), ("CarRun", 2))
        for seed in range(n)
    ]
    found = scores.matrix(runs, ["BallRun", "CarRun"], "PREFINE", lambda run: run.costs.mean())
    assert found.tolist() == [[0, 0], [1, 1]]


def test_runs_are_loaded_and_selected(tmp_path):
    for method in ("SFT", "PREFINE"):
        for seed in (0, 1):
            records.save(tmp_path / "BallRun" / f"{method}-{seed}.json", record(method, seed=seed))
    (tmp_path / "BallRun" / "CPQ-0.failed").write_text("{}")
    runs = scores.load(tmp_path)
    assert len(runs) == 4
    assert [run.method for run in scores.select(runs, seed=1, task="BallRun")] == ["PREFINE", "SFT"]
    assert scores.select(runs, method="DPO") == []


def test_safe_outcome_is_bold():
    def outcome(cost: float) -> str:
        return scores.format_outcome(
            [Run(record(rewards=(400.0, 400.0), costs=(cost, cost), seed=seed)) for seed in range(2)]
        )

    # The limit is 20, and a cost at the limit is safe.
    assert outcome(20.0) == f"**{normalised(400):.2f} ± 0.00 / 1.00 ± 0.00**"
    assert outcome(21.0) == f"{normalised(400):.2f} ± 0.00 / 1.05 ± 0.00"
    assert scores.format_outcome([]) == "not run"
