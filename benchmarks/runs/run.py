"""
Runs the benchmark: a grid of tasks, methods, choices of data and seeds, cell by cell.

    python -m benchmarks run --tier small                       # Table 1, on the generated data
    python -m benchmarks run --tier small --study weights       # Fig. 9; see studies.py for the others
    python -m benchmarks run --tasks BallRun --methods SFT "PREFINE:beta=0.2,sft_coef=0.3" --seeds 0 1 2 3 4

Each cell leaves one JSON file in benchmarks/results/TIER/STUDY/TASK. A cell whose file is there is not computed again,
so a run that was stopped goes on; one that crashed leaves a file that ends in .failed and is tried again next time.
`python -m benchmarks report` makes the tables and figures. The data are those of generate.py, or DSRL's.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks import records
from benchmarks.paths import CACHE, DATA, RESULTS
from benchmarks.runs.cells import Cell, Folders, Record, failure, reference_path, train_reference
from benchmarks.runs.cells import run as run_cells
from benchmarks.runs.executors import Executor, run_all
from benchmarks.runs.studies import STUDIES, TIERS, StudyName, TierName, study_cells


def main(
    tier: TierName = "small",
    study: StudyName = "table",
    tasks: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    taus: tuple[float, ...] = (),
    draws: tuple[int, ...] = (),
    executor: Executor = "in-process",
    jobs: int = -1,
    population: bool = False,
    data: Path = DATA,
    results: Path = RESULTS,
    cache: Path = CACHE,
) -> int:
    """
    :param tier: how much of everything
    :param study: what is compared
    :param tasks: instead of those of the study
    :param methods: instead of those of the study, as NAME or NAME:option=value,option=value
    :param seeds: instead of those of the tier
    :param taus: instead of those of the tier
    :param draws: instead of those of the tier, each with every seed
    :param executor: where the cells are computed
    :param jobs: processes of joblib; -1 is one for each core
    :param population: train a task's PREFINE, SFT and DPO cells as one computation, whose time they share
    :param data: the folder with TASK.hdf5
    :param results: the folder for the records
    :param cache: the folder for the references
    :return: how many cells crashed
    """
    folders, folder = Folders(data, cache), results / tier / study
    wanted = study_cells(STUDIES[study], TIERS[tier], tasks, methods, seeds, taus, draws)
    missing = [cell for cell in wanted if not (folder / cell.path).exists()]
    print(f"{len(wanted):,} cells, of which {len(wanted) - len(missing):,} are there already.")
    references = {
        reference_path(cell.task, cell.budget, folders): (cell.task, cell.budget, folders)
        for cell in missing
        if cell.reference == "clone"
    }
    to_train = [job for path, job in references.items() if not path.exists()]
    done = run_all(train_reference, to_train, executor, jobs)
    for _ in tqdm(done, total=len(to_train), desc="references", unit="task", disable=not to_train):
        pass
    groups = _groups(missing) if population else [[cell] for cell in missing]
    n_failed = 0
    with tqdm(total=len(missing), desc=f"{tier} {study}", unit="cell") as bar:
        for group, outcome in run_all(attempt, [(group, folders) for group in groups], executor, jobs):
            n_failed += len(group) if isinstance(outcome, dict) else 0
            _save(folder, group, outcome)
            bar.update(len(group))
            bar.set_postfix(failed=n_failed)
    if n_failed:
        print(f"{n_failed} cells crashed. See the .failed files in {folder}; the next run tries them again.")
    return n_failed


def attempt(group: Sequence[Cell], folders: Folders) -> tuple[Sequence[Cell], list[Record] | Record]:
    """
    Compute some cells; one that crashes does not stop the others.

    :return: the cells, and the record of each, or the one of their failure
    """
    try:
        return group, run_cells(group, folders)
    except Exception as error:
        return group, failure(group, error)


def _groups(missing: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of a task and a reference that one population trains, together; the others alone."""

    def together(cell: Cell) -> tuple[str, str, bool]:
        return cell.task, cell.reference, cell.method.in_populations

    groups: list[list[Cell]] = []
    for (_, _, in_populations), group in groupby(sorted(missing, key=together), key=together):
        if in_populations:
            groups.append(list(group))
        else:
            groups.extend([cell] for cell in group)
    return groups


def _save(folder: Path, group: Sequence[Cell], outcome: list[Record] | Record) -> None:
    failed = (folder / group[0].path).with_suffix(".failed")
    if isinstance(outcome, dict):
        records.save(failed, outcome)
        return
    for cell, record in zip(group, outcome, strict=True):
        records.save(folder / cell.path, record)
        (folder / cell.path).with_suffix(".failed").unlink(missing_ok=True)
