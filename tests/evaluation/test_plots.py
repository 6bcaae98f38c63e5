import builtins

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from sb3_prefine.evaluation.palette import Style
from sb3_prefine.evaluation.plots import PlotSeries, draw_plane

RED, BLUE = Style("#ff0000", "o"), Style("#0000ff", "o")


def pixels_of(path, style):
    """(row, column) of the pixels of a colour above the legend, from the picture's upper left corner."""
    pixels = imread(path)[:540, :, :3]
    return np.argwhere(np.abs(pixels - to_rgb(style.color)).max(axis=-1) < 0.02)


@pytest.mark.parametrize("limit", [0.0, 0.5, 25.0, 300.0])
def test_points_lie_where_their_returns_and_costs_are(tmp_path, limit):
    series = [
        PlotSeries("cheap", np.array([100.0]), np.array([limit + 1.0]), RED),
        PlotSeries("costly", np.array([900.0]), np.array([limit * 50 + 100.0]), BLUE),
    ]
    path = tmp_path / "new" / "plane.png"
    assert draw_plane(path, series, limit, "title") == path
    cheap, costly = (pixels_of(path, style) for style in (RED, BLUE))
    assert len(cheap)
    assert len(costly)
    assert costly[:, 0].max() < cheap[:, 0].min(), "costlier is higher"
    assert costly[:, 1].min() > cheap[:, 1].max(), "a higher return is further right"


def test_equal_points_do_not_hide_each_other(tmp_path):
    here = np.array([1.0]), np.array([30.0])
    alone = [len(pixels_of(draw_plane(tmp_path / "a.png", [PlotSeries("a", *here, RED)], 25, ""), RED))]
    path = draw_plane(tmp_path / "both.png", [PlotSeries("a", *here, RED), PlotSeries("b", *here, BLUE)], 25, "")
    assert len(pixels_of(path, RED)) > 0.9 * alone[0]
    assert len(pixels_of(path, BLUE)) > 20


def test_many_long_names_leave_room_for_the_points(tmp_path):
    series = [
        PlotSeries(f"a/long/path/to/a/policy/{i}.zip", np.array([1.0, 2.0]), np.array([0.0, 50.0])) for i in range(6)
    ]
    series.append(PlotSeries("red", np.array([1.5]), np.array([30.0]), RED))
    assert len(pixels_of(draw_plane(tmp_path / "plane.png", series, 25, "title"), RED)) > 20


def test_unknown_costs_are_refused_and_the_old_picture_stays(tmp_path):
    (tmp_path / "plane.png").write_text("mine")
    with pytest.raises(ValueError, match=r"plane\.png: mine"):
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
