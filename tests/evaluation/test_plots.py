import builtins

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from sb3_prefine.evaluation.plots import PlotSeries, draw_plane

RED, BLUE = "#ff0000", "#0000ff"


def where(path, color):
    """(row, column) of the pixels of a colour, shaded as the points are, from the picture's upper left corner."""
    pixels = imread(path)[..., :3]
    shaded = 0.75 * np.array(to_rgb(color)) + 0.25  # on white
    return np.argwhere(np.abs(pixels - shaded).max(axis=-1) < 0.02)


@pytest.mark.parametrize("limit", [0.0, 0.5, 25.0, 300.0])
def test_points_lie_where_their_returns_and_costs_are(tmp_path, limit):
    clouds = [
        PlotSeries("cheap", np.array([100.0]), np.array([limit + 1.0]), RED),
        PlotSeries("costly", np.array([900.0]), np.array([limit * 50 + 100.0]), BLUE),
    ]
    assert draw_plane(tmp_path / "new" / "plane.png", clouds, limit, "title") == tmp_path / "new" / "plane.png"
    cheap, costly = (where(tmp_path / "new" / "plane.png", color) for color in (RED, BLUE))
    # Above the legend, whose markers have the colours too.
    cheap, costly = (points[points[:, 0] < 540] for points in (cheap, costly))
    assert len(cheap)
    assert len(costly)
    assert costly[:, 0].max() < cheap[:, 0].min(), "costlier is higher"
    assert costly[:, 1].min() > cheap[:, 1].max(), "a higher return is further right"


def test_many_long_names_leave_room_for_the_points(tmp_path):
    clouds = [
        PlotSeries(f"a/long/path/to/a/policy/{i}.zip", np.array([1.0, 2.0]), np.array([0.0, 50.0])) for i in range(6)
    ]
    clouds.append(PlotSeries("red", np.array([1.5]), np.array([30.0]), RED))
    draw_plane(tmp_path / "plane.png", clouds, 25, "title")
    assert len(where(tmp_path / "plane.png", RED)) > 50


def test_unknown_costs_are_refused_and_the_old_picture_stays(tmp_path):
    (tmp_path / "plane.png").write_text("mine")
    with pytest.raises(ValueError, match=r"plane\.png was not drawn: mine has episodes of unknown cost"):
        draw_plane(tmp_path / "plane.png", [PlotSeries("mine", np.ones(2), np.array([1.0, np.nan]))], 25, "title")
    assert (tmp_path / "plane.png").read_text() == "mine"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "sb3-prefine\[demo\]"'):
        draw_plane(tmp_path / "plane.png", [PlotSeries("one", np.ones(1), np.ones(1))], 25, "title")
