"""
Write benchmarks/data.md and its picture from the records of ``generate``.

    python -m benchmarks data-page

Tasks without a record are named as missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import paper, records
from benchmarks.datasets.generate import n_dsrl_episodes
from benchmarks.datasets.recipes import NOISE_FACTORS
from benchmarks.paths import HERE, RESULTS
from benchmarks.report.data_figure import draw_data
from benchmarks.report.drawing import to_png
from benchmarks.report.markdown import distinct, list_names, render, table, versions
from benchmarks.runs.studies import TIERS
from sb3_prefine import dsrl
from sb3_prefine.dsrl.download import REPOSITORY
from sb3_prefine.utils.files import write_atomically

PICTURE = Path("images") / "data.png"
# The simulator that DSRL recorded with, and the package that has its constants.
DSRL_MUJOCO, DSRL_VERSION = "2.3", "0.1.0"
Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """
    All records that the page shows, by task.

    :param agents: Records of ``generate train``.
    :param data: Records of ``generate rollout``.
    """

    agents: dict[str, Record]
    data: dict[str, Record]

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """
        Read the records of the twelve tasks.

        :param folder: Folder with agents/ and data/.
        """
        kinds = [
            {name: records.load(path) for name in dsrl.PAPER_TASKS if (path := folder / kind / f"{name}.json").exists()}
            for kind in ("agents", "data")
        ]
        return cls(*kinds)


def main(results: Path = RESULTS, page: Path = HERE / "data.md") -> None:
    """
    Write the page and its picture.

    :param results: Folder with agents/ and data/.
    :param page: Path of the page. Its picture goes to images/ beside it.
    """
    loaded = Results.load(results)
    picture = page.parent / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, to_png(draw_data(loaded.data)))
    write_atomically(page, write(loaded).encode())
    print(f"Wrote {page} and {picture}.")


def write(results: Results) -> str:
    """Write the page in Markdown."""
    found = results.data.values()
    missing = [name for name in dsrl.PAPER_TASKS if name not in results.data]
    usual_noise = next(iter(set(NOISE_FACTORS.values()) - {NOISE_FACTORS["AntVelocity"]}))
    page = render(
        "data_page",
        repository=REPOSITORY,
        noise=_factors(usual_noise),
        ant_noise=_factors(NOISE_FACTORS["AntVelocity"]),
        mujoco=distinct(record["versions"]["mujoco"] for record in found) or "of your own",
        dsrl_mujoco=DSRL_MUJOCO,
        missing=f"**Missing so far**: {', '.join(missing)}." if missing else "",
        n_preferred=paper.N_PREFERRED,
        n_dispreferred=paper.N_DISPREFERRED,
        tau=distinct(record["cost_limit"] for record in found) or "that of prefine.yml",
        taus=list_names([f"{tau:g}" for tau in TIERS["paper"].taus]),
        gymnasium_sets=_sets(results.data, paper.TABLE_2),
        bullet_sets=_sets(results.data, paper.TABLE_3),
        picture=PICTURE.as_posix(),
        dsrl_version=DSRL_VERSION,
        ranges=_ranges(results.data),
        files=_files(results),
        source=_source(list(found)),
    )
    return f"{page}\n"


def _factors(factors: Iterable[float]) -> str:
    return list_names([f"{factor:g}" for factor in factors])


def _source(found: list[Record]) -> str:
    if not found:
        return ""
    dates = distinct(record["date"] for record in found)
    return f"Seed {distinct(record['seed'] for record in found)}, {dates}; {versions(found)}."


def _sets(data: dict[str, Record], printed: Mapping[str, Any]) -> str:
    """Write one of the paper's Tables 2 and 3 beside ours."""
    headers = ["task", "D_p / D_np", "cost of D_p: paper", "ours", "cost of D_np: paper", "ours"]
    headers += ["return of D_p: paper", "ours", "return of D_np: paper", "ours"]
    rows = []
    for name, theirs in printed.items():
        if name not in data:
            rows.append([name, "missing", *[""] * 8])
            continue
        record = data[name]
        means = {
            (what, of): np.mean(np.array(record[what])[record[of]])
            for what in ("returns", "costs")
            for of in ("preferred", "dispreferred")
        }
        pairs = [
            (theirs.preferred_cost, means["costs", "preferred"]),
            (theirs.dispreferred_cost, means["costs", "dispreferred"]),
            (theirs.preferred_return, means["returns", "preferred"]),
            (theirs.dispreferred_return, means["returns", "dispreferred"]),
        ]
        # The paper's numbers as they are printed there.
        cells = [cell for of_paper, ours in pairs for cell in (f"{of_paper:,.10g}", f"{ours:,.1f}")]
        rows.append([name, f"{len(record['preferred'])} / {len(record['dispreferred'])}", *cells])
    return table(headers, rows)


def _ranges(data: dict[str, Record]) -> str:
    """Write the ranges of the whole files beside DSRL's."""
    headers = [
        "task",
        "episodes: DSRL",
        "ours",
        "returns: DSRL",
        "ours",
        "mean ± std",
        "costs: DSRL",
        "ours",
        "mean ± std",
    ]
    rows = []
    for name in dsrl.PAPER_TASKS:
        if name not in data:
            rows.append([name, f"{n_dsrl_episodes(dsrl.find_task(name)):,}", "missing", *[""] * 6])
            continue
        task, record = dsrl.find_task(name), data[name]
        rows.append(
            [
                name,
                f"{n_dsrl_episodes(task):,}",
                f"{record['episodes']:,}",
                f"{task.min_episode_reward:,.1f} to {task.max_episode_reward:,.1f}",
                f"{min(record['returns']):,.1f} to {max(record['returns']):,.1f}",
                f"{record['mean_return']:,.1f} ± {record['std_return']:,.1f}",
                f"{task.min_episode_cost:g} to {task.max_episode_cost:g}",
                f"{min(record['costs']):g} to {max(record['costs']):g}",
                f"{record['mean_cost']:,.1f} ± {record['std_cost']:,.1f}",
            ]
        )
    return table(headers, rows)


def _files(results: Results) -> str:
    """Write how long the files take to make, and their checksums."""
    rows = []
    for name in dsrl.PAPER_TASKS:
        if name not in results.data:
            rows.append([name, "missing", *[""] * 5])
            continue
        record = results.data[name]
        rows.append(
            [
                name,
                _minutes(results.agents.get(name, {}).get("cpu_seconds")),
                f"{record['agents']}",
                f"{record['rolled_out']:,}",
                _minutes(record["cpu_seconds"]),
                f"{record['bytes'] / 1e6:,.1f}",
                f"`{record['sha256']}`",
            ]
        )
    headers = ["task", "train, CPU min", "agents", "rolled out", "rollout, CPU min", "MB", "SHA-256 of TASK.hdf5"]
    return table(headers, rows)


def _minutes(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds / 60:,.1f}"
