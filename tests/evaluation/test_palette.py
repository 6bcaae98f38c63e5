from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sb3_prefine.evaluation.palette import BACKGROUND, STYLES, cycle_style

# Machado et al. 2009, severity 1: what readers without one kind of cone see, in linear RGB.
VISIONS = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(color: str, vision: str) -> np.ndarray:
    """A colour as a reader sees it, in CIELAB, where distances are differences to the eye."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(VISIONS[vision]) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_can_be_told_apart(vision):
    colors = [style.color for style in STYLES.values()]
    distances = [np.linalg.norm(seen(a, vision) - seen(b, vision)) for a, b in combinations(colors, 2)]
    # About 2 are just visible side by side.
    assert min(distances) > 15
    assert min(np.linalg.norm(seen(color, vision) - seen("#FFFFFF", vision)) for color in [*colors, BACKGROUND]) > 20


def test_every_role_has_a_marker_of_its_own():
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)


def test_56_styles_without_a_role_differ():
    assert len({cycle_style(number) for number in range(56)}) == 56
