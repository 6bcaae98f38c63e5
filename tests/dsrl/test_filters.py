"""The filters equal DSRL's own ``pre_process_data``, and keep their own promises."""

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_prefine import Trajectories
from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.dsrl import TASKS, Grid, add_noise, add_outliers, drop_best, inpaint, thin
from tests.dsrl.test_tasks import dsrl_module

# The fixed seed of a new environment of DSRL.
DSRL_SEED = 1234
BALL_RUN = TASKS["BallRun"]


def episodes(costs: np.ndarray, returns: np.ndarray, length: int = 100, seed: int = 0) -> Trajectories:
    """Make episodes with these costs (whole numbers up to ``length``) and returns (exact in float32)."""
    rng = np.random.default_rng(seed)
    n = len(costs)
    step_costs = np.arange(length) < np.asarray(costs)[:, None]
    rewards = np.zeros((n, length), np.float32)
    rewards[:, 0] = returns
    return Trajectories(
        observations=rng.normal(3.0, 2.0, (n * length, 7)).astype(np.float32),
        next_observations=rng.normal(3.0, 2.0, (n * length, 7)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n * length, 2)).astype(np.float32),
        rewards=rewards.ravel(),
        costs=rng.permuted(step_costs, axis=1).astype(np.float32).ravel(),
        terminals=np.zeros(n * length, bool),
        timeouts=np.arange(1, n * length + 1) % length == 0,
    )


def random_episodes(n: int = 200, seed: int = 0, **kwargs: int) -> Trajectories:
    """Make episodes with costs from 0 to 80 and returns from 0 to 1280, for exact divisions into cells."""
    rng = np.random.default_rng(seed)
    costs, returns = rng.integers(0, 81, n), rng.integers(0, 1281, n).astype(float)
    (costs[0], returns[0]), (costs[1], returns[1]) = (0, 0), (80, 1280)
    return episodes(costs, returns, seed=seed, **kwargs)


@pytest.fixture
def pre_process_data(monkeypatch):
    """DSRL's filters, each time from a new environment, without the picture that they save."""
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "savefig", lambda name: None)

    def run(trajectories: Trajectories, target_cost: float | None = None, **kwargs: Any) -> Trajectories:
        env = dsrl_module("offline_env").OfflineEnv(
            max_episode_reward=BALL_RUN.max_episode_reward, max_episode_cost=BALL_RUN.max_episode_cost
        )
        env.set_target_cost(target_cost)
        data = {name: getattr(trajectories, name).copy() for name in COLUMNS}
        return Trajectories(**env.pre_process_data(data, **kwargs))

    yield run
    plt.close("all")


def assert_same(found: Trajectories, expected: Trajectories) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def ids(filtered: Trajectories, of: Trajectories) -> list[int]:
    """Find the indices of the episodes before filtering, by their first observations."""
    firsts = [row.tobytes() for row in of.observations[of.episode_starts]]
    return [firsts.index(row.tobytes()) for row in filtered.observations[filtered.episode_starts]]


# thin


@pytest.mark.parametrize(
    "grid", [Grid(10, 10, 4, 1), Grid(8, 5, 6, 2), Grid(10, 20, 1, 0), Grid(2, 2, 1000, 2)], ids=str
)
def test_thin_keeps_the_same_number_in_each_cell_as_dsrl(pre_process_data, grid):
    t = random_episodes()
    random.seed(0)
    expected = pre_process_data(
        t, density=0.5, cbins=grid.cbins, rbins=grid.rbins, max_npb=grid.max_npb, min_npb=grid.min_npb
    )
    found = thin(t, grid)

    chosen, chosen_by_dsrl = ids(found, t), ids(expected, t)
    cells = [position(t, i, grid) for i in range(len(t))]
    assert Counter(cells[i] for i in chosen) == Counter(cells[i] for i in chosen_by_dsrl)
    crowded = {cell for cell, n in Counter(cells).items() if n > grid.max_npb}
    certain, certain_by_dsrl = ([i for i in numbers if cells[i] not in crowded] for numbers in (chosen, chosen_by_dsrl))
    assert certain == sorted(certain_by_dsrl)
    assert len(chosen) < len(t) or not crowded


def test_thin_draws_uniformly_from_a_full_cell():
    t = episodes(np.zeros(6), np.zeros(6), length=2)
    kept = Counter(i for seed in range(600) for i in ids(thin(t, Grid(max_npb=2), seed), t))
    # The mean is 200 and the standard deviation 11.5.
    assert sum(kept.values()) == 1200
    assert all(abs(n - 200) < 50 for n in kept.values())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-8, 8)), min_size=1, max_size=30),
    st.builds(Grid, st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 3)),
    st.integers(0, 5),
)
def test_thin_keeps_whole_episodes_in_order_up_to_the_limit(plane, grid, seed):
    costs, returns = np.array(plane).T
    t = episodes(costs, returns, length=5)
    if not any(n > min(grid.min_npb, grid.max_npb) for n in cell_counts(t, grid).values()):
        with pytest.raises(ValueError, match=r"^grid: "):
            thin(t, grid, seed)
        return
    kept = thin(t, grid, seed)
    chosen = ids(kept, t)
    assert chosen == sorted(set(chosen))
    assert_same(kept, t[chosen])
    assert_same(kept, thin(t, grid, seed))
    for cell, n in cell_counts(t, grid).items():
        n_kept = sum(position(t, i, grid) == cell for i in chosen)
        assert n_kept == (grid.max_npb if n > grid.max_npb else n if n > grid.min_npb else 0)


def position(t: Trajectories, i: int, grid: Grid) -> tuple[int, ...]:
    """Compute the cell of an episode with exact fractions."""
    place = []
    for values, n in ((t.episode_costs, grid.cbins), (t.episode_returns, grid.rbins)):
        lowest, value, highest = (Fraction(v) for v in (values.min(), values[i], values.max()))
        place.append(0 if lowest == highest else (value - lowest) * n // (highest - lowest))
    return tuple(place)


def cell_counts(t: Trajectories, grid: Grid) -> Counter:
    return Counter(position(t, i, grid) for i in range(len(t)))


def test_grids_of_lower_density_keep_fewer_episodes():
    t = random_episodes(2249, length=80)
    kept = [len(thin(t, TASKS["HalfCheetahVelocity"].grid(density))) / len(t) for density in (0.25, 0.5)]
    assert 0 < kept[0] < kept[1] < 1


# add_outliers


@pytest.mark.parametrize(("outliers_percent", "target_cost"), [(0.05, 20), (0.1, 40.5), (0.0, 10)])
def test_add_outliers_equals_dsrl(pre_process_data, outliers_percent, target_cost):
    t = random_episodes()
    expected = pre_process_data(t, target_cost, outliers_percent=outliers_percent)
    found = add_outliers(t, "BallRun", outliers_percent, target_cost, seed=DSRL_SEED)
    assert_same(found, expected)
    changed = np.flatnonzero(found.episode_returns != t.episode_returns)
    assert len(changed) == max(int(200 * outliers_percent), 1)
    assert (found.episode_costs[changed] < target_cost).all()
    np.testing.assert_array_equal(found.episode_returns[changed], 1.5 * t.episode_returns[changed])
    unchanged = np.setdiff1d(np.arange(200), changed)
    assert_same(found[unchanged], t[unchanged])


def test_add_outliers_depends_on_the_seed_and_copies_the_data():
    t = random_episodes()
    before = t.costs.copy(), t.rewards.copy()
    assert_same(add_outliers(t, BALL_RUN, 0.1, 20, seed=3), add_outliers(t, BALL_RUN, 0.1, 20, seed=3))
    assert not np.array_equal(
        add_outliers(t, BALL_RUN, 0.1, 20, seed=3).costs, add_outliers(t, BALL_RUN, 0.1, 20, seed=4).costs
    )
    np.testing.assert_array_equal(t.costs, before[0])
    np.testing.assert_array_equal(t.rewards, before[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outliers_percent": 10}, r"^outliers_percent: .*10"),
        ({"outliers_percent": np.nan}, r"^outliers_percent: .*nan"),
        ({"target_cost": 0.5}, r"^target_cost: .*0\.5"),
        ({"target_cost": np.inf}, r"^target_cost: .*inf"),
        (
            {"outliers_percent": 0.9},
            r"^outliers_percent: 0\.9 .*180 of 200 .* 40 .* 663\.723.*BallRun",
        ),
        ({"task": "BalRun"}, "^task: .*BallRun"),
    ],
)
def test_add_outliers_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_outliers(random_episodes(), **{"task": "BallRun", "outliers_percent": 0.1, "target_cost": 20, **arguments})


def test_an_outlier_cannot_cost_more_than_its_steps():
    t = episodes(np.full(20, 40), np.full(20, 1000.0), length=40)
    with pytest.raises(ValueError, match=r"^target_cost: .*1000, episode \d+ of 40 steps"):
        add_outliers(t, "BallRun", 0.5, 1000)


# inpaint


@pytest.mark.parametrize(
    "ranges",
    [
        [(0.0, 0.25, 0.5, 1.0)],
        [(0.25, 0.75, 0.0, 0.5)],
        [(0.5, 1.0, 0.0, 1.0)],
        [(0.0, 0.0, 0.0, 1.0)],
        [(0.0, 1.0, 0.75, 1.0)],
    ],
)
def test_inpaint_equals_dsrl(pre_process_data, ranges):
    t = random_episodes()
    assert_same(inpaint(t, ranges), pre_process_data(t, inpaint_ranges=ranges))


def test_inpaint_removes_rectangles_one_after_the_other_like_dsrl(pre_process_data):
    """DSRL can do this only if both rectangles remove the same number of episodes."""
    t = episodes([0, 8, 16, 24, 32, 40], [64, 128, 256, 32, 512, 0])
    ranges = [(0.0, 0.5, 0.5, 1.0), (0.25, 0.5, 0.5, 1.0)]
    # Costs up to 20: 256 is in the upper half of 64..256. Then costs from 10 to 20: no episode remains there.
    assert ids(inpaint(t, ranges), t) == [0, 1, 3, 4, 5]
    ranges = [(0.0, 0.5, 0.5, 1.0), (0.0, 0.5, 0.5, 1.0)]
    expected = pre_process_data(t, inpaint_ranges=ranges)
    assert_same(inpaint(t, ranges), expected)
    assert ids(expected, t) == [0, 3, 4, 5]


def test_inpaint_includes_the_highest_values_despite_rounding():
    rng = np.random.default_rng(0)
    for seed in range(50):
        t = episodes(rng.integers(0, 10, 5), rng.normal(0, 100, 5), length=10, seed=seed)
        with pytest.raises(ValueError, match=r"^inpaint_ranges: .*none of 5 "):
            inpaint(t, [(0.0, 1.0, 0.0, 1.0)])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0.0, 0.5)], r"^inpaint_ranges: \(0\.0, 0\.5\)\."),
        ([(0.5, 0.25, 0.0, 1.0)], r"^inpaint_ranges: \(0\.5, 0\.25, "),
        ([(0.0, 20.0, 0.0, 1.0)], r"^inpaint_ranges: \(0\.0, 20\.0, "),
        ([(0.0, 1.0, 0.0, np.nan)], r"^inpaint_ranges: .*nan"),
    ],
)
def test_inpaint_refuses_wrong_rectangles(ranges, message):
    with pytest.raises(ValueError, match=message):
        inpaint(random_episodes(), ranges)


# drop_best


@pytest.mark.parametrize(("epsilon", "target_cost"), [(100.0, 20), (640.0, 40), (-100.0, 20), (-1000.0, 40)])
def test_drop_best_equals_dsrl(pre_process_data, epsilon, target_cost):
    t = random_episodes()
    expected = pre_process_data(t, target_cost, epsilon=epsilon)
    found = drop_best(t, epsilon, target_cost)
    assert_same(found, expected)
    dropped = np.setdiff1d(np.arange(len(t)), ids(found, t))
    assert len(dropped)
    assert ((t.episode_costs[dropped] <= target_cost) == (epsilon > 0)).all()


@pytest.mark.parametrize(
    ("epsilon", "target_cost", "message"),
    [
        (0, 20, "^epsilon: .*0"),
        (np.nan, 20, "^epsilon: .*nan"),
        (10, -1, "^target_cost: .*-1"),
        (10, 7, r"^target_cost: .*8 to 10.*at most 7,"),
        (-10, 10, r"^target_cost: .*8 to 10.*more than 10,"),
        (1e9, 10, r"^epsilon: 1000000000\.0 .* 3 "),
    ],
)
def test_drop_best_refuses_to_drop_nothing_or_everything(epsilon, target_cost, message):
    with pytest.raises(ValueError, match=message):
        drop_best(episodes([8, 9, 10], [1.0, 2.0, 3.0]), epsilon, target_cost)


# add_noise


@pytest.mark.parametrize("noise_scale", [0.0, 0.1, 2.0])
def test_add_noise_equals_dsrl(pre_process_data, noise_scale):
    t = random_episodes(20)
    assert_same(add_noise(t, noise_scale, seed=DSRL_SEED), pre_process_data(t, noise_scale=noise_scale))


def test_noise_has_its_scale_and_differs_between_the_columns():
    t = random_episodes(50)
    noisy = add_noise(t, 0.5, seed=1)
    differences = noisy.observations - t.observations, noisy.next_observations - t.next_observations
    for difference, column in zip(differences, (t.observations, t.next_observations), strict=True):
        assert difference.std() == pytest.approx(0.5 * column.std(), rel=0.02)
        assert difference.mean() == pytest.approx(0, abs=0.03)
    assert abs(np.corrcoef(differences[0].ravel(), differences[1].ravel())[0, 1]) < 0.02
    for name in set(COLUMNS) - {"observations", "next_observations"}:
        np.testing.assert_array_equal(getattr(noisy, name), getattr(t, name))
    assert_same(noisy, add_noise(t, 0.5, seed=1))
    assert not np.array_equal(noisy.observations, add_noise(t, 0.5, seed=2).observations)


@pytest.mark.parametrize("noise_scale", [-0.1, np.nan, np.inf])
def test_add_noise_refuses_a_scale_out_of_range(noise_scale):
    with pytest.raises(ValueError, match=rf"^noise_scale: .*{noise_scale}"):
        add_noise(random_episodes(2), noise_scale)


@pytest.mark.parametrize("kind", ["dict", "integers"])
def test_add_noise_needs_an_array_of_floats(kind):
    t = random_episodes(2)
    column = {"a": t.observations} if kind == "dict" else t.observations.astype(np.uint8)
    other = Trajectories(
        **{name: getattr(t, name) for name in COLUMNS} | {"observations": column, "next_observations": column}
    )
    with pytest.raises(TypeError, match=r"^trajectories: "):
        add_noise(other, 0.1)


# All


@pytest.mark.parametrize(
    "filtered",
    [
        lambda t: thin(t, Grid()),
        lambda t: add_outliers(t, "BallRun", 0.1, 20),
        lambda t: inpaint(t, [(0.0, 0.5, 0.0, 0.5)]),
        lambda t: drop_best(t, 1.0, 20),
    ],
    ids=["thin", "add_outliers", "inpaint", "drop_best"],
)
def test_filters_by_cost_refuse_unknown_costs(filtered):
    t = random_episodes(10)
    costs = t.costs.copy()
    costs[300:400] = np.nan
    unknown = Trajectories(**{name: getattr(t, name) for name in COLUMNS} | {"costs": costs})
    with pytest.raises(ValueError, match=r"^trajectories: .*1 of 10 .*episode 3\)"):
        filtered(unknown)


def test_dsrls_single_call_equals_the_filters_in_sequence(pre_process_data):
    """The numbers agree if no rectangle contains an outlier."""
    t = random_episodes(400)
    expected = pre_process_data(t, 20, outliers_percent=0.05, inpaint_ranges=[(0.5, 0.75, 0.0, 0.25)], noise_scale=0.0)
    found = inpaint(add_outliers(t, "BallRun", 0.05, 20, seed=DSRL_SEED), [(0.5, 0.75, 0.0, 0.25)])
    assert_same(found, expected)


def test_filters_write_no_pictures(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drop_best(inpaint(thin(random_episodes(), Grid(10, 10, 4, 1)), [(0.0, 0.25, 0.5, 1.0)]), 10.0, 40)
    assert not list(tmp_path.iterdir())
