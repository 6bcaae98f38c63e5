"""
How far the preferred episodes are from what the reference does.

    python -m benchmarks data-distance                   # the choices of data of the study ``within``

At the states of D_p: the reference's log-prob of actions that it samples itself, minus that of D_p's actions, a mean
over the states, in nats. At 0 the data might be the reference's own. Where it is larger than the bound on PREFINE's
log-ratios, the preference term is content before the policy does what D_p does.

What came out is in benchmarks/results/TIER/surprise/, one file a task; a task whose file is there is not done again.
preferences_page.py reads it.
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
    :param tasks: instead of those of the study
    :param tier: whose references, thresholds and draws
    :param data: the folder with TASK.hdf5, see generate.py
    :param results: the folder for TIER/surprise/TASK.json
    :param cache: the folder for the references
    """
    torch.set_num_threads(1)
    folders = Folders(data, cache)
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = study_cells(STUDY, TIERS[tier], tasks, methods=[METHOD])
    places = {cell.task: results / tier / "surprise" / f"{cell.task}.json" for cell in wanted}
    there = {task for task, path in places.items() if path.exists()}
    # Task by task, as the data of one are kept in memory.
    for cell in tqdm(sorted((c for c in wanted if c.task not in there), key=lambda c: c.task), unit="choice of data"):
        train_reference(cell.task, cell.budget, folders)
        setting = prepare(cell, folders)
        surprise = {"selection": asdict(cell.selection), "nats": round(surprise_of(setting), 3)}
        found.setdefault(cell.task, []).append(surprise)
    for task, of_task in found.items():
        records.save(places[task], {"surprises": of_task, "versions": records.versions(), "date": records.today()})
        print(f"Wrote {places[task]}.")
    for task in sorted(there):
        print(f"{task}: {places[task]} is there already; remove it to do it again.")


@torch.no_grad()
def surprise_of(setting: Setting) -> float:
    """In nats, of its D_p for its reference."""
    reference, preferred = setting.reference, setting.preferences.preferred
    # No floor under the log-std: asked is the reference as it is.
    likelihood = likelihood_of(reference.policy, log_std_min=-20.0)
    observations = torch.as_tensor(reference.normalize(preferred.observations), dtype=torch.float32)
    params = likelihood.params(reference.policy, observations)
    own = likelihood.sample(params, torch.Generator().manual_seed(setting.seed))
    theirs = likelihood.encode(torch.tensor(preferred.actions))
    return float((likelihood.log_prob(params, own) - likelihood.log_prob(params, theirs)).mean())
