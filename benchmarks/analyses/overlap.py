"""
Measure how much the states of the preferred and dispreferred episodes overlap (Fig. 13 of the paper).

    python -m benchmarks overlap BallCircle         # all twelve tasks if none is named

The two sets of each task are chosen as in the paper, and the same number of states is drawn from each. UMAP embeds all
states in the plane, which is divided into 50 x 50 grid cells. The Jaccard similarity is the number of cells with states
of both sets, divided by the number of cells with any states. The paper only says "around 70%"; the number of states and
the grid are our choice. With finitely many states some cells are empty by chance, so that even two samples of the same
set have a similarity below 1. It is measured by assigning the states to two sets at random.

The records are benchmarks/results/overlap/TASK.json; tasks whose record exists are skipped. The figure,
benchmarks/images/overlap.png, is drawn from the records each time.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks import paper, records
from benchmarks.analyses.overlap_picture import draw
from benchmarks.paths import DATA, IMAGES, RESULTS
from sb3_prefine import PreferenceBuffer, Trajectories, dsrl
from sb3_prefine.utils.files import write_atomically

# Number of grid cells per axis.
GRID_SIZE = 50
# UMAP's hyperparameters, at their defaults.
N_NEIGHBORS, MIN_DIST = 15, 0.1
# How often the states are assigned to two sets at random.
N_SHUFFLES = 20
# States of each set that are saved for the figure.
N_DRAWN = 1_500


@dataclass(frozen=True)
class Options:
    """
    Options for all tasks.

    :param states: Number of states to draw from each set; fewer if a set has fewer.
    :param seed: Seed of the sets, of the states and of UMAP.
    """

    states: int = 5_000
    seed: int = 0


@dataclass(frozen=True)
class GridCounts:
    """
    Numbers of occupied grid cells.

    :param both: Cells with states of both sets.
    :param preferred: Cells with states of D_p only.
    :param dispreferred: Cells with states of D_np only.
    """

    both: int
    preferred: int
    dispreferred: int

    @property
    def jaccard(self) -> float:
        """Jaccard similarity of the cells of both sets."""
        return self.both / (self.both + self.preferred + self.dispreferred)


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = dsrl.PAPER_TASKS,
    *,
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),
    data: Path = DATA,
    results: Path = RESULTS / "overlap",
    picture: Path = IMAGES / "overlap.png",
) -> None:
    """
    Measure some tasks, and draw the figure.

    :param tasks: Names such as BallCircle.
    :param options: Options for all tasks.
    :param data: Folder with TASK.hdf5.
    :param results: Folder for TASK.json.
    :param picture: Path of the figure, which shows all tasks with a record.
    """
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} exists already. Remove it to compute it again.")
            continue
        found = run(task, data / f"{task.name}.hdf5", options)
        records.save(path, found)
        print(f"{task.name}: Jaccard {found['jaccard']:.2f}, {found['shuffled']:.2f} for two random sets")
    measured = {name: results / f"{name}.json" for name in dsrl.PAPER_TASKS}
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, draw({name: records.load(path) for name, path in measured.items() if path.exists()}))
    print(f"Wrote {picture}.")


def run(task: dsrl.Task, path: Path, options: Options) -> dict[str, Any]:
    """
    Measure one task.

    :param task: One of the twelve tasks.
    :param path: Path of its data.
    :param options: Options for all tasks.
    :return: The record: the Jaccard similarity, that of two random sets, some of the points, and the settings.
    :raises FileNotFoundError: If the data do not exist.
    :raises ValueError: If the data are another task's, or no episode is safe or unsafe.
    """
    trajectories = dsrl.load(task, path)
    preferences = paper.choose_sets(task, trajectories, options.seed)
    rng = np.random.default_rng(options.seed)
    started = records.cpu_seconds()
    preferred, dispreferred = draw_states(preferences, options.states, rng)
    n = len(preferred)
    points = embed(np.concatenate((preferred, dispreferred)), options.seed)
    counts = count_occupied_cells(points[:n], points[n:])
    shuffled = [count_occupied_cells(*np.split(rng.permutation(points), 2)).jaccard for _ in range(N_SHUFFLES)]
    return {
        "jaccard": round(counts.jaccard, 4),
        "shuffled": round(float(np.mean(shuffled)), 4),
        "cells": asdict(counts),
        "grid": [GRID_SIZE, GRID_SIZE],
        "states": n,
        "states_of": {name: getattr(preferences, name).n_transitions for name in ("preferred", "dispreferred")},
        # The states are in random order, so the first ones are a random sample.
        "points": {"preferred": _rounded(points[:n][:N_DRAWN]), "dispreferred": _rounded(points[n:][:N_DRAWN])},
        "umap": {"n_neighbors": N_NEIGHBORS, "min_dist": MIN_DIST},
        "cpu_seconds": round(records.cpu_seconds() - started, 1),
        "seed": options.seed,
        "settings": paper.settings(task),
        "data": {"episodes": len(trajectories), "sha256": records.checksum(path)},
        "versions": records.versions(task, "umap-learn", "pynndescent", "numba"),
        "date": records.today(),
    }


def draw_states(preferences: PreferenceBuffer, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw the same number of states of D_p and of D_np, without replacement.

    :param preferences: The two sets.
    :param n: Maximum number of states of each set.
    :param rng: Random number generator.
    :return: (n, O) states of each set.
    """
    n = min(n, preferences.preferred.n_transitions, preferences.dispreferred.n_transitions)

    def drawn(episodes: Trajectories) -> np.ndarray:
        assert isinstance(episodes.observations, np.ndarray)  # the twelve tasks have vector observations
        return episodes.observations[rng.choice(episodes.n_transitions, n, replace=False)]

    return drawn(preferences.preferred), drawn(preferences.dispreferred)


def embed(states: np.ndarray, seed: int) -> np.ndarray:
    """
    Embed states in two dimensions with UMAP, after standardising them, because speeds would outweigh angles.

    McInnes et al., UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction (arXiv 1802.03426).

    :param states: (N, O) states.
    :param seed: Seed of UMAP.
    :return: (N, 2) points.
    """
    from umap import UMAP  # compiling it takes seconds

    std = states.std(axis=0)
    standardised = (states - states.mean(axis=0)) / np.where(std > 0, std, 1.0)
    # With a seed UMAP uses one thread; n_jobs=1 avoids its warning about that.
    return UMAP(n_neighbors=N_NEIGHBORS, min_dist=MIN_DIST, random_state=seed, n_jobs=1).fit_transform(standardised)


def count_occupied_cells(preferred: np.ndarray, dispreferred: np.ndarray) -> GridCounts:
    """
    Count the grid cells with points of the two sets. The grid covers the points of both sets.

    :param preferred: (N, 2) points of D_p.
    :param dispreferred: (M, 2) points of D_np.
    :return: The numbers of cells.
    """
    both = np.concatenate((preferred, dispreferred))
    bounds = np.column_stack((both.min(axis=0), both.max(axis=0)))
    occupied_p, occupied_np = (
        np.histogram2d(of[:, 0], of[:, 1], bins=GRID_SIZE, range=bounds)[0] > 0 for of in (preferred, dispreferred)
    )
    counts = (occupied_p & occupied_np, occupied_p & ~occupied_np, occupied_np & ~occupied_p)
    return GridCounts(*(int(cells.sum()) for cells in counts))


def _rounded(points: np.ndarray) -> dict[str, list[float]]:
    return {axis: [round(value, 2) for value in points[:, i].tolist()] for i, axis in enumerate("xy")}
