"""
Train and evaluate methods on a grid of tasks, choices of data and seeds.

    python -m benchmarks run --tier small                       # Table 1, on the generated data
    python -m benchmarks run --tier small --study weights       # Fig. 9; see studies.py for the others
    python -m benchmarks run --tasks BallRun --methods SFT "PREFINE:beta=0.2,sft_coef=0.3" --seeds 0 1 2 3 4

Each cell of the grid writes one JSON file in benchmarks/results/TIER/STUDY/TASK. Cells whose file exists are skipped,
so a run that was stopped continues. A cell that crashes writes a file that ends in .failed, and is tried again next
time. The data are those of `generate`, or DSRL's. `report` writes the tables and figures.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks import records
from benchmarks.paths import CACHE, DATA, RESULTS
from benchmarks.runs.cells import (
    Cell,
    Folders,
    Record,
    failure_record,
    reference_path,
    run_cells,
    train_reference,
)
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
    Compute all missing cells of a study.

    :param tier: Budgets, tasks and seeds.
    :param study: What is compared.
    :param tasks: Tasks in place of the study's.
    :param methods: Methods in place of the study's, as NAME or NAME:option=value,option=value.
    :param seeds: Seeds in place of the tier's.
    :param taus: Thresholds in place of the tier's.
    :param draws: Draws of the two sets in place of the tier's, each with every seed.
    :param executor: Where the cells are computed.
    :param jobs: Number of joblib's processes; -1 for one per core.
    :param population: Train the PREFINE, SFT and DPO cells of a task as one computation, whose time they share.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for the records.
    :param cache: Folder for the references.
    :return: Number of cells that crashed.
    """
    folders, folder = Folders(data, cache), results / tier / study
    all_cells = study_cells(STUDIES[study], TIERS[tier], tasks, methods, seeds, taus, draws)
    missing = [cell for cell in all_cells if not (folder / cell.path).exists()]
    print(f"{len(all_cells):,} cells, {len(all_cells) - len(missing):,} of them done already.")
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
        for group, outcome in run_all(run_group, [(group, folders) for group in groups], executor, jobs):
            n_failed += len(group) if isinstance(outcome, dict) else 0
            _save(folder, group, outcome)
            bar.update(len(group))
            bar.set_postfix(failed=n_failed)
    if n_failed:
        print(f"{n_failed} cells crashed. Read the .failed files in {folder}. The next run tries these cells again.")
    return n_failed


def run_group(group: Sequence[Cell], folders: Folders) -> tuple[Sequence[Cell], list[Record] | Record]:
    """
    Compute some cells, and return an exception as a record, so that it does not stop other groups.

    :param group: Cells that are trained together.
    :param folders: Folders of the data and the references.
    :return: The cells, and either the record of each or one record of their failure.
    """
    try:
        return group, run_cells(group, folders)
    except Exception as error:
        return group, failure_record(group, error)


def _groups(missing: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells of a task and a reference that one population can train. Other cells form groups of one."""

    def group_key(cell: Cell) -> tuple[str, str, bool]:
        return cell.task, cell.reference, cell.method.in_populations

    groups: list[list[Cell]] = []
    for (_, _, in_population), group in groupby(sorted(missing, key=group_key), key=group_key):
        if in_population:
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
