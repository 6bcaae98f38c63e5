"""
The figures of the benchmark, from the records that run.py left.

    python -m benchmarks figures scatter          # Fig. 3; one name a figure
    python -m benchmarks figures                  # lists them

Each is written to benchmarks/images/NAME.png.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure as Canvas

from benchmarks.paths import IMAGES, RESULTS
from benchmarks.report import study_figures, table_figures
from benchmarks.runs.scores import Run, load
from benchmarks.runs.studies import StudyName, TierName
from sb3_prefine.utils.files import write_atomically


@dataclass(frozen=True)
class Figure:
    """
    :param name: of its file and of its command
    :param title: with the number that it has in the paper
    :param study: whose records it shows
    :param draw: draws them
    :param text: what is to be seen
    """

    name: str
    title: str
    study: StudyName
    draw: Callable[[Sequence[Run]], Canvas]
    text: str

    @property
    def command(self) -> str:
        return f"python -m benchmarks figures {self.name}"


FIGURES = (
    Figure(
        "scatter",
        "Fig. 3: reward and cost of every method",
        "table",
        table_figures.scatter,
        "A point a task, named by its capitals (bc is BallCircle, s Swimmer): green is safe (normalised cost up to 1), "
        "red is not. To the upper left is better.",
    ),
    Figure(
        "time",
        "Fig. 4: what training takes",
        "table",
        table_figures.time,
        "Reward, cost and training time on Walker2dVelocity: seconds of a core for this budget, and hours for the "
        "budget of the method's own paper at the same pace, which the area of a point shows.",
    ),
    Figure(
        "profiles",
        "Performance profiles",
        "table",
        table_figures.profiles,
        "The share of runs with more than a reward (left), or less than a cost (right), with 95% bands by stratified "
        "bootstrap (rliable).",
    ),
    Figure(
        "safe",
        "Fig. 8: tasks solved safely",
        "table",
        table_figures.safe,
        "The share of tasks whose mean cost is up to the limit. SafeDICE and CPQ: of the tasks that they ran on.",
    ),
    Figure(
        "curves",
        "Fig. 6, 10, 11 and 12: in training",
        "curves",
        study_figures.curves,
        "Episode return and cost against gradient steps, PREFINE and DPO (λ = 0), both from the reference at step 0. "
        "Mean, lowest and highest of the seeds; the dashed line is κ, the dotted one the mean of D_p.",
    ),
    Figure(
        "weights",
        "Fig. 9: λ and β",
        "weights",
        study_figures.weights,
        "Cost, its CVaR (the worst tenth of the episodes) and return in training; the dashed line is κ. On the paper's "
        "task, Walker2dVelocity, our reference keeps the limit by its mode already, so there is nothing to trade; on "
        "BallCircle there is. A larger β with a smaller λ keeps more of the reference's return and of its cost: what "
        "is multiplied by a large β is soon large enough, so the policy stays near. The paper says the opposite, that "
        "a small λ with a large β is the safest.",
    ),
    Figure(
        "sizes",
        "Fig. 5: how many episodes",
        "sizes",
        study_figures.sizes,
        "Normalised reward and cost against the number of preferred (left) and dispreferred (right) episodes, with 95% "
        "intervals. Beside the paper's two tasks, whose references keep the limit by their mode already, BallCircle.",
    ),
    Figure(
        "taus",
        "Fig. 7: the threshold on the data",
        "taus",
        study_figures.taus,
        "Normalised reward and cost against τ, with 95% intervals.",
    ),
    Figure(
        "longer",
        "With ten times the steps",
        "longer",
        study_figures.curves,
        "Whether Table 1's steps are too few. On the two tasks where PREFINE breaks the limit they are not: ten times "
        "as many move its cost and return, and BC's, by no more than episodes differ. CPQ has as many as in its paper "
        "here, and comes to no return that lasts. One seed (`python -m benchmarks run --study longer --seeds 0`); the "
        "dashed line is κ, the dotted one the mean of D_p.",
    ),
)


def main(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    tier: TierName = "small",
    results: Path = RESULTS,
    images: Path = IMAGES,
) -> None:
    """
    :param name: of the figure; without, all are listed
    :param tier: whose records
    :param results: the folder with TIER/STUDY/TASK
    :param images: where it goes
    """
    chosen = [figure for figure in FIGURES if figure.name == name]
    if not chosen:
        print("\n".join(f"{figure.name:10} {figure.title}" for figure in FIGURES))
    for figure in chosen:
        if not _write(figure, results, tier, images):
            raise SystemExit(f"No records yet. Run: python -m benchmarks run --tier {tier} --study {figure.study}")
        print(f"Wrote {images / figure.name}.png.")


def draw_all(results: Path, tier: TierName, images: Path) -> list[Figure]:
    """Those that there are records for."""
    return [figure for figure in FIGURES if _write(figure, results, tier, images)]


def _write(figure: Figure, results: Path, tier: TierName, images: Path) -> bool:
    runs = load(results / tier / figure.study)
    if runs:
        images.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        figure.draw(runs).savefig(content, format="png", dpi=110)
        write_atomically(images / f"{figure.name}.png", content.getvalue())
    return bool(runs)
