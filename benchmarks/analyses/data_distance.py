"""
Measure how far the preferred episodes are from the behaviour of the reference.

    python -m benchmarks data-distance                   # the choices of data of the study `within`

The distance is the reference's log-prob of its own sampled actions minus its log-prob of the data's actions, averaged
over the states of D_p, in nats. At 0 the data could be the reference's own. If the distance exceeds the bound on
PREFINE's log-ratios, the preference term saturates before the policy acts as in D_p.

The records are benchmarks/results/TIER/surprise/TASK.json; tasks whose record exists are skipped. `preferences-page`
shows them.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks import records
from benchmarks.paths import CACHE, DATA, RESULTS
from benchmarks.runs.cells import Folders, prepare, train_reference
from benchmarks.runs.methods import Setting
from benchmarks.runs.studies import STUDIES, TIERS, TierName, study_cells
from sb3_prefine.policies.likelihood import likelihood_of

STUDY = STUDIES["within"]
METHOD = "PREFINE"


def main(
    tasks: tuple[str, ...] = (),
    tier: TierName = "small",
    data: Path = DATA,
    results: Path = RESULTS,
    cache: Path = CACHE,
) -> None:
    """
    Measure some tasks.

    :param tasks: Tasks in place of the study's.
    :param tier: Tier whose references, thresholds and draws are used.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for TIER/surprise/TASK.json.
    :param cache: Folder for the references.
    """
    torch.set_num_threads(1)
    folders = Folders(data, cache)
    distances: dict[str, list[dict[str, Any]]] = {}
    cells = study_cells(STUDY, TIERS[tier], tasks, methods=[METHOD])
    paths = {cell.task: results / tier / "surprise" / f"{cell.task}.json" for cell in cells}
    done = {task for task, path in paths.items() if path.exists()}
    missing = sorted((cell for cell in cells if cell.task not in done), key=lambda cell: cell.task)
    # Task by task, because the data of one task are kept in memory.
    for cell in tqdm(missing, unit="choice of data"):
        train_reference(cell.task, cell.budget, folders)
        setting = prepare(cell, folders)
        distance = {"selection": asdict(cell.selection), "nats": round(distance_in_nats(setting), 3)}
        distances.setdefault(cell.task, []).append(distance)
    for task, found in distances.items():
        records.save(paths[task], {"surprises": found, "versions": records.versions(), "date": records.today()})
        print(f"Wrote {paths[task]}.")
    for task in sorted(done):
        print(f"{task}: {paths[task]} exists already. Remove it to compute it again.")


@torch.no_grad()
def distance_in_nats(setting: Setting) -> float:
    """Measure the distance of D_p from the reference, in nats."""
    reference, preferred = setting.reference, setting.preferences.preferred
    # The lowest log-std, so that the reference is measured without a floor on its standard deviation.
    likelihood = likelihood_of(reference.policy, log_std_min=-20.0)
    observations = torch.as_tensor(reference.normalize(preferred.observations), dtype=torch.float32)
    params = likelihood.params(reference.policy, observations)
    own_actions = likelihood.sample(params, torch.Generator().manual_seed(setting.seed))
    data_actions = likelihood.encode(torch.tensor(preferred.actions))
    return float((likelihood.log_prob(params, own_actions) - likelihood.log_prob(params, data_actions)).mean())
