"""The overlap of the states of both sets: occupied cells, UMAP on known data, and records."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks import records
from benchmarks.analyses import overlap
from benchmarks.analyses.overlap import GRID_SIZE, GridCounts, Options, count_occupied_cells, draw_states, embed, main
from benchmarks.analyses.overlap_picture import COLORS, draw
from benchmarks.paths import IMAGES, RESULTS
from sb3_prefine import PreferenceBuffer, Trajectories, collect, dsrl
from tests.benchmarks import agents

POINTS = arrays(np.float64, st.tuples(st.integers(2, 60), st.just(2)), elements=st.floats(-50, 50))


# The cells


def test_occupied_cells_match_hand_count():
    preferred = np.array([[0.0, 0.0], [1.0, 1.0], [0.99, 0.995]])
    dispreferred = np.array([[0.01, 0.019], [0.5, 0.0]])
    assert count_occupied_cells(preferred, dispreferred) == GridCounts(both=1, preferred=1, dispreferred=1)
    assert GridCounts(both=1, preferred=1, dispreferred=1).jaccard == pytest.approx(1 / 3)


@given(POINTS, POINTS)
def test_occupied_cells_match_sets_of_indices(preferred, dispreferred):
    both = np.concatenate((preferred, dispreferred))
    low, high = both.min(axis=0), both.max(axis=0)
    if (high - low).min() < 1e-3:
        return

    def place(value, k):
        return min(int(np.searchsorted(np.linspace(low[k], high[k], GRID_SIZE + 1), value, side="right")), GRID_SIZE)

    one, other = ({(place(x, 0), place(y, 1)) for x, y in of} for of in (preferred, dispreferred))
    found = count_occupied_cells(preferred, dispreferred)
    assert found == GridCounts(len(one & other), len(one - other), len(other - one))
    assert found.jaccard == len(one & other) / len(one | other) == count_occupied_cells(dispreferred, preferred).jaccard
    assert count_occupied_cells(preferred, preferred).jaccard == 1


# The states


def episodes(first: float, n: int, length: int = 10) -> Trajectories:
    """Episodes with distinct states, whose first entry is a counter."""
    observations = np.zeros((n * length, 3), np.float32)
    observations[:, 0] = first + np.arange(n * length)
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=np.zeros((n * length, 1)),
        rewards=np.zeros(n * length),
        costs=np.zeros(n * length),
        terminals=np.zeros(n * length, bool),
        timeouts=np.arange(1, n * length + 1) % length == 0,
    )


@pytest.mark.parametrize(("asked", "drawn"), [(25, 25), (500, 40)])
def test_same_number_of_states_of_each_set_without_repeats(asked, drawn):
    sets = PreferenceBuffer(episodes(0, 9), episodes(1000, 4))
    preferred, dispreferred = draw_states(sets, asked, np.random.default_rng(0))
    for states, low, high in ((preferred, 0, 89), (dispreferred, 1000, 1039)):
        numbers = states[:, 0]
        assert len(set(numbers.tolist())) == len(numbers) == drawn
        assert low <= numbers.min() <= numbers.max() <= high


def test_embedding_separates_distinct_states_at_any_scale():
    rng = np.random.default_rng(0)
    centre, n = np.zeros((150, 4)), 150
    alike = embed(rng.normal(size=(2 * n, 4)), seed=0)
    apart = embed(np.concatenate((rng.normal(centre), rng.normal(centre + 20))), seed=0)
    assert count_occupied_cells(apart[:n], apart[n:]).jaccard == 0
    assert count_occupied_cells(alike[:n], alike[n:]).jaccard > 0.02
    # The fourth column is constant, and the others have scales of 1 and 1024.
    states = rng.normal(size=(100, 3)).astype(np.float32)
    constant = np.full((100, 1), 3.0, np.float32)
    one, other = (np.hstack((states * scale, constant)) for scale in (np.float32(1), np.float32([1, 1024, 0.125])))
    np.testing.assert_array_equal(embed(one, seed=1), embed(other, seed=1))


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with data and record of BallRun."""
    folder = tmp_path_factory.mktemp("overlap")
    found = [
        collect(agents.pushing(push), "SafetyBallRun-v0", 3, n_envs=3, seed=i, progress_bar=False)
        for i, push in enumerate(agents.PUSHES)
    ]
    Trajectories.concatenate(found).to_hdf5(folder / "data" / "BallRun.hdf5")
    with pytest.warns(UserWarning, match="n_(dis)?preferred="):  # the data have fewer episodes than the paper
        run(folder)
    return folder


def run(folder: Path) -> None:
    options = Options(states=150, seed=2)
    main(
        ("BallRun",),
        options=options,
        data=folder / "data",
        results=folder / "results",
        picture=folder / "images" / "overlap.png",
    )


def test_record_has_overlap_points_and_settings(folder):
    record = records.load(folder / "results" / "BallRun.json")
    cells = record["cells"]
    assert record["jaccard"] == pytest.approx(cells["both"] / sum(cells.values()), abs=1e-4)
    assert 0 < record["shuffled"] < 1
    assert (record["states"], record["seed"], record["grid"]) == (150, 2, [50, 50])
    # Three of the six safe episodes, all six unsafe ones, of a hundred steps.
    assert record["states_of"] == {"preferred": 300, "dispreferred": 600}
    assert {len(values) for points in record["points"].values() for values in points.values()} == {150}
    assert record["data"] == {"episodes": 12, "sha256": records.checksum(folder / "data" / "BallRun.hdf5")}
    assert {"umap-learn", "bullet-safety-gym", "numba"} <= set(record["versions"])


def test_existing_record_is_drawn_but_not_measured_again(folder, monkeypatch, capsys):
    monkeypatch.setattr(overlap, "run", lambda *_: pytest.fail("measured again"))
    picture = folder / "images" / "overlap.png"
    before = picture.read_bytes()
    picture.unlink()
    run(folder)
    assert picture.read_bytes() == before
    assert "BallRun.json exists already" in capsys.readouterr().out


def test_figure_shows_all_points(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "overlap.png"
    x, y = rng.random((2, 400)).tolist()

    def areas(n_dispreferred):
        points = {"preferred": {"x": x, "y": y}, "dispreferred": {"x": y[:n_dispreferred], "y": x[:n_dispreferred]}}
        path.write_bytes(draw({"CarRun": {"jaccard": 0.5, "shuffled": 0.9, "points": points}}))
        pixels = imread(path)[60:, :, :3]  # below the legend
        return {of: (np.abs(pixels - to_rgb(color)).max(axis=-1) < 0.02).sum() for of, color in COLORS.items()}

    few, many = areas(40), areas(400)
    assert 0 < 5 * few["dispreferred"] < many["dispreferred"]
    # Points are drawn in random order, so neither set covers the other.
    assert many["preferred"] == pytest.approx(many["dispreferred"], rel=0.15)


# The committed records


@pytest.mark.parametrize("name", dsrl.PAPER_TASKS)
def test_committed_records_name_the_committed_data(name):
    path = RESULTS / "overlap" / f"{name}.json"
    record = records.load(path)
    assert record["data"]["sha256"] == records.load(RESULTS / "data" / f"{name}.json")["sha256"]
    assert record["jaccard"] == pytest.approx(GridCounts(**record["cells"]).jaccard, abs=1e-4)
    assert path.stat().st_size < 60_000
    assert (IMAGES / "overlap.png").exists()
