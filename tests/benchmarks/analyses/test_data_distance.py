"""The distance of preferred episodes from a reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import records
from benchmarks.analyses import data_distance
from benchmarks.analyses.data_distance import distance_in_nats, main
from benchmarks.runs.cells import Cell, Folders, prepare, train_reference
from benchmarks.runs.methods import Method
from benchmarks.runs.selection import Selection
from benchmarks.runs.studies import STUDIES, TIERS
from sb3_prefine import PreferenceBuffer

pytestmark = pytest.mark.filterwarnings("ignore:n_(dis)?preferred=")  # the data have fewer episodes than the paper


@pytest.fixture(scope="module")
def setting(tmp_path_factory, data) -> Any:
    folders = Folders(data, tmp_path_factory.mktemp("cache"))
    cell = Cell("BallRun", Method.parse("PREFINE"), Selection(), 0, TIERS["smoke"].budget)
    train_reference("BallRun", cell.budget, folders)
    return prepare(cell, folders)


def test_distance_matches_gaussian_formula(setting):
    """E log N(a | mean, std) is -d/2 - log volume for own samples, and -z²/2 - log volume for D_p's actions."""
    reference, preferred = setting.reference, setting.preferences.preferred
    mean, _ = reference.policy.predict(reference.normalize(preferred.observations), deterministic=True)
    z = (preferred.actions - mean) / reference.policy.log_std.detach().exp().numpy()
    expected = float(0.5 * (z**2).sum(axis=1).mean() - 0.5 * z.shape[1])
    assert distance_in_nats(setting) == pytest.approx(expected, abs=0.1 + 0.01 * expected)


def test_distance_of_own_actions_is_zero(setting):
    reference, preferred = setting.reference, setting.preferences.preferred
    torch.manual_seed(0)
    observations = torch.as_tensor(reference.normalize(preferred.observations)).float()
    own = replace(preferred, actions=reference.policy.get_distribution(observations).sample().numpy())
    dispreferred = setting.preferences.dispreferred
    found = distance_in_nats(replace(setting, preferences=PreferenceBuffer(preferred=own, dispreferred=dispreferred)))
    assert found == pytest.approx(0.0, abs=0.1)


def test_record_of_a_task_has_every_choice_of_data(data, tmp_path, capsys):
    where = {"data": data, "results": tmp_path / "results", "cache": tmp_path / "cache"}
    main(("BallRun",), "smoke", **where)
    path = tmp_path / "results" / "smoke" / "surprise" / "BallRun.json"
    found = records.load(path)["surprises"]
    assert [Selection(**of["selection"]).pool for of in found] == [s.pool for s in STUDIES["within"].selections]
    assert all(np.isfinite(of["nats"]) for of in found)
    data_distance.records.save(path, {"surprises": []})
    main(("BallRun",), "smoke", **where)
    assert "exists already" in capsys.readouterr().out
    assert records.load(path) == {"surprises": []}
