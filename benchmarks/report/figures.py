"""
Draw a figure of benchmarks/README.md from the records of ``run``.

    python -m benchmarks figures scatter          # Fig. 3
    python -m benchmarks figures                  # lists the names

Each is written to benchmarks/images/NAME.png.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro
from matplotlib.figure import Figure as Canvas

from benchmarks.paths import IMAGES, RESULTS
from benchmarks.report import figure_facts, study_figures, table_figures
from benchmarks.report.drawing import to_png
from benchmarks.report.markdown import render
from benchmarks.runs import scores
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import StudyName, TierName
from sb3_prefine.utils.files import write_atomically

RunsByStudy: TypeAlias = Mapping[StudyName, Sequence[Run]]


@dataclass(frozen=True)
class Figure:
    """
    A figure of the page. Its text is the template ``figure_NAME.md``.

    :param name: Name of its file, its template and its command.
    :param title: Title, with its number in the paper.
    :param study: Study whose records it shows.
    :param draw: Draws the runs of the study.
    :param facts: Computes the values of the template's placeholders from the runs of all studies.
    """

    name: str
    title: str
    study: StudyName
    draw: Callable[[Sequence[Run]], Canvas]
    facts: Callable[[RunsByStudy], dict[str, str]] = figure_facts.no_facts

    def section(self, runs: RunsByStudy) -> str:
        """Write the section of the page: title, text, picture and command."""
        return "\n\n".join(
            [
                f"## {self.title}",
                render(f"figure_{self.name}", **self.facts(runs)),
                f"![{self.title}](images/{self.name}.png)",
                f"`python -m benchmarks figures {self.name}`",
            ]
        )


FIGURES = (
    Figure("scatter", "Fig. 3: reward and cost of every method", "table", table_figures.draw_scatter),
    Figure("time", "Fig. 4: training time", "table", table_figures.draw_times, figure_facts.of_time),
    Figure("profiles", "Performance profiles", "table", table_figures.draw_profiles, figure_facts.of_intervals),
    Figure("safe", "Fig. 8: tasks solved safely", "table", table_figures.draw_safe_shares),
    Figure("curves", "Fig. 6, 10, 11 and 12: in training", "curves", study_figures.draw_curves),
    Figure("weights", "Fig. 9: λ and β", "weights", study_figures.draw_weights, figure_facts.of_weights),
    Figure("sizes", "Fig. 5: how many episodes", "sizes", study_figures.draw_sizes, figure_facts.of_sizes),
    Figure("taus", "Fig. 7: the threshold on the data", "taus", study_figures.draw_taus, figure_facts.of_intervals),
    Figure("longer", "With more steps", "longer", study_figures.draw_curves, figure_facts.of_longer),
)


def main(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    tier: TierName = "small",
    results: Path = RESULTS,
    images: Path = IMAGES,
) -> None:
    """
    Draw one figure, or list all figures.

    :param name: Name of the figure. Without a name, all figures are listed.
    :param tier: Tier whose records are read.
    :param results: Folder with TIER/STUDY/TASK.
    :param images: Folder for the figure.
    """
    chosen = [figure for figure in FIGURES if figure.name == name]
    if not chosen:
        print("\n".join(f"{figure.name:10} {figure.title}" for figure in FIGURES))
    for figure in chosen:
        runs = scores.load(results / tier / figure.study)
        if not runs:
            raise SystemExit(
                f"figure: {figure.name} has no records. Run: python -m benchmarks run --tier {tier} --study "
                f"{figure.study}"
            )
        print(f"Wrote {write_figure(figure, runs, images)}.")


def write_figure(figure: Figure, runs: Sequence[Run], images: Path) -> Path:
    """
    Draw a figure into its file.

    :param figure: What to draw.
    :param runs: Runs of the figure's study.
    :param images: Folder for the file.
    :return: Path of the PNG.
    """
    images.mkdir(parents=True, exist_ok=True)
    path = images / f"{figure.name}.png"
    write_atomically(path, to_png(figure.draw(runs)))
    return path
