"""
How far the states of the preferred and the dispreferred episodes overlap (Fig. 13 of the paper).

    python -m benchmarks overlap BallCircle         # all twelve without names

Of each task's data the two sets are chosen as the paper does, and the same number of states is drawn from each. UMAP
lays all of them in a plane, which is cut into 50 x 50 cells. The Jaccard similarity is the number of cells that hold
states of both sets, divided by the number of those that hold any. The paper says "around 70%" and no more: how many
states and which cells is our reading. Finitely many states leave cells empty by chance, so the similarity of a single
set with itself is below 1 as well: it is measured with the states handed out to two sets at random, and stands beside.

What came out is in benchmarks/results/overlap/, one file a task; a task whose file is there is not done again. The
picture, benchmarks/images/overlap.png, is drawn from the files each time.
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

# Cells each way.
N_CELLS = 50
# Of UMAP; they are its defaults.
N_NEIGHBORS, MIN_DIST = 15, 0.1
# How often the states are handed out at random.
N_SHUFFLES = 20
# So many of each set are kept for the picture.
N_DRAWN = 1_500


@dataclass(frozen=True)
class Options:
    """
    The same for every task.

    :param states: to draw from each set, fewer where a set has no more
    :param seed: of everything
    """

    states: int = 5_000
    seed: int = 0


@dataclass(frozen=True)
class Cells:
    """
    How many cells of the grid hold states.

    :param both: of both sets
    :param preferred: of D_p alone
    :param dispreferred: of D_np alone
    """

    both: int
    preferred: int
    dispreferred: int

    @property
    def jaccard(self) -> float:
        """Of the cells of one set with those of the other."""
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
    :param tasks: names such as BallCircle
    :param options: the same for every task
    :param data: the folder with TASK.hdf5, see generate.py
    :param results: the folder for TASK.json
    :param picture: of all tasks in that folder
    """
    for task in paper.find_tasks(tasks):
        path = results / f"{task.name}.json"
        if path.exists():
            print(f"{task.name}: {path} is there already; remove it to do it again.")
            continue
        found = run(task, data / f"{task.name}.hdf5", options)
        records.save(path, found)
        print(f"{task.name}: Jaccard {found['jaccard']:.2f}, {found['shuffled']:.2f} if there were no difference")
    measured = {name: results / f"{name}.json" for name in dsrl.PAPER_TASKS}
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, draw({name: records.load(path) for name, path in measured.items() if path.exists()}))
    print(f"Wrote {picture}.")


def run(task: dsrl.Task, path: Path, options: Options) -> dict[str, Any]:
    """
    One task, from its data to the overlap.

    :param task: one of the twelve
    :param path: of its data
    :param options: how
    :return: the Jaccard similarity, that of states handed out at random, some of the points, and of what it was made
    :raises FileNotFoundError: the data are not there
    :raises ValueError: the data are another task's, or no episode is safe or unsafe
    """
    trajectories = dsrl.load(task, path)
    preferences = paper.choose(task, trajectories, options.seed)
    rng = np.random.default_rng(options.seed)
    started = records.cpu_seconds()
    preferred, dispreferred = draw_states(preferences, options.states, rng)
    n = len(preferred)
    points = embed(np.concatenate((preferred, dispreferred)), options.seed)
    cells = count_cells(points[:n], points[n:])
    shuffled = [count_cells(*np.split(rng.permutation(points), 2)).jaccard for _ in range(N_SHUFFLES)]
    return {
        "jaccard": round(cells.jaccard, 4),
        "shuffled": round(float(np.mean(shuffled)), 4),
        "cells": asdict(cells),
        "grid": [N_CELLS, N_CELLS],
        "states": n,
        "states_of": {name: getattr(preferences, name).n_transitions for name in ("preferred", "dispreferred")},
        # Drawn at random above: the first are as good as any.
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
    As many states of D_p as of D_np, without replacement.

    :param n: of each, at most
    :return: (n, O) each
    """
    n = min(n, preferences.preferred.n_transitions, preferences.dispreferred.n_transitions)

    def drawn(episodes: Trajectories) -> np.ndarray:
        assert isinstance(episodes.observations, np.ndarray)  # those of the twelve tasks are vectors
        return episodes.observations[rng.choice(episodes.n_transitions, n, replace=False)]

    return drawn(preferences.preferred), drawn(preferences.dispreferred)


def embed(states: np.ndarray, seed: int) -> np.ndarray:
    """
    UMAP to two dimensions, of states that are standardised first: speeds would outweigh angles.

    McInnes et al., UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction (arXiv 1802.03426).

    :param states: (N, O)
    :return: (N, 2)
    """
    from umap import UMAP  # it compiles for seconds

    std = states.std(axis=0)
    standardised = (states - states.mean(axis=0)) / np.where(std > 0, std, 1.0)
    # With a seed it computes with one thread, and says so unless it is told.
    return UMAP(n_neighbors=N_NEIGHBORS, min_dist=MIN_DIST, random_state=seed, n_jobs=1).fit_transform(standardised)


def count_cells(preferred: np.ndarray, dispreferred: np.ndarray) -> Cells:
    """
    Lay a grid over the points of both sets and count the cells that hold some.

    :param preferred: (N, 2)
    :param dispreferred: (M, 2)
    """
    both = np.concatenate((preferred, dispreferred))
    bounds = np.column_stack((both.min(axis=0), both.max(axis=0)))
    of_p, of_np = (
        np.histogram2d(of[:, 0], of[:, 1], bins=N_CELLS, range=bounds)[0] > 0 for of in (preferred, dispreferred)
    )
    return Cells(int((of_p & of_np).sum()), int((of_p & ~of_np).sum()), int((of_np & ~of_p).sum()))


def _rounded(points: np.ndarray) -> dict[str, list[float]]:
    return {axis: [round(value, 2) for value in points[:, i].tolist()] for i, axis in enumerate("xy")}
