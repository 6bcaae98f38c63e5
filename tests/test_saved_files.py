"""Files that version 0.1.0 wrote open and act as they did then, wherever the classes have moved since."""

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.baselines import BC

FOLDER = Path(__file__).parent / "saved_files"
FILES = {
    "prefine_ppo": (PREFINE, FOLDER / "prefine_ppo.zip"),
    "prefine_sac": (PREFINE, FOLDER / "prefine_sac.zip"),
    "prefine_cvae": (PREFINE, FOLDER / "prefine_cvae.zip"),
    "bc": (BC, FOLDER / "bc.zip"),
    "zoo": (PREFINE, FOLDER / "zoo_logs" / "prefine" / "Pendulum-v1_1" / "Pendulum-v1.zip"),
}
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def check_actions(name, model):
    observations = np.array(EXPECTED["observations"], np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actions, EXPECTED["actions"][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_model_loads_and_acts_as_when_saved(name):
    algorithm, path = FILES[name]
    check_actions(name, algorithm.load(path, device="cpu"))


@pytest.mark.parametrize("name", FILES)
def test_file_opens_as_a_reference(name):
    check_actions(name, load_reference(FILES[name][1]))
