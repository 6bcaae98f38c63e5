"""
Writes benchmarks/data.md and its picture from the records in benchmarks/results.

    python -m benchmarks data-page

generate.py writes those records. A task without one is named as missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import paper, records
from benchmarks.datasets.generate import n_dsrl_episodes
from benchmarks.paths import HERE, RESULTS
from benchmarks.report.data_figure import draw
from benchmarks.report.markdown import distinct, table, versions
from sb3_prefine import dsrl
from sb3_prefine.dsrl.download import REPOSITORY
from sb3_prefine.utils.files import write_atomically

PICTURE = Path("images") / "data.png"
Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """
    The records that are there, each by its task's name.

    :param agents: of generate.py train
    :param data: of generate.py rollout
    """

    agents: dict[str, Record]
    data: dict[str, Record]

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Read the records of the twelve tasks."""
        kinds = [
            {name: records.load(path) for name in dsrl.PAPER_TASKS if (path := folder / kind / f"{name}.json").exists()}
            for kind in ("agents", "data")
        ]
        return cls(*kinds)


def main(results: Path = RESULTS, page: Path = HERE / "data.md") -> None:
    """
    :param results: the folder with agents/ and data/
    :param page: the page; its picture goes to images/ beside it
    """
    loaded = Results.load(results)
    picture = page.parent / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, draw(loaded.data))
    write_atomically(page, write(loaded).encode())
    print(f"Wrote {page} and {picture}.")


def write(results: Results) -> str:
    """The page, as Markdown."""
    sections = [
        _introduction(results),
        _sets(results.data),
        _ranges(results.data),
        _files(results),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(results: Results) -> str:
    mujoco = distinct(record["versions"]["mujoco"] for record in results.data.values())
    missing = [name for name in dsrl.PAPER_TASKS if name not in results.data]
    lines = [
        "# Generated data for the paper's twelve tasks",
        "",
        "**These are generated data, not DSRL's own.** They are for whoever cannot download "
        f"[DSRL's files](https://huggingface.co/datasets/{REPOSITORY}), and for our own tables. What differs:",
        "",
        "- **The agents.** Snapshots of one run of PPO with a Lagrange multiplier, under one cost limit after the "
        "other ([lagrangian.py](datasets/lagrangian.py)); of the robots that can fall (Ant, Hopper, Walker2d), at one "
        "pace after the other ([speed_penalty.py](datasets/speed_penalty.py)). Each is rolled out with its own noise "
        "and with 2 and 4 times as much, Ant with half, once and twice ([recipes.py](datasets/recipes.py)). In the "
        "Goal tasks there are also scripted "
        "controllers of several speeds, margins and noises ([goal_seeker.py](datasets/goal_seeker.py)), and PPO "
        "begins as a clone of one, Walker2d's as a clone of RL Zoo's SAC agent. DSRL's data come from many "
        "algorithms.",
        f"- **The simulators.** MuJoCo {mujoco or 'of your own'}; DSRL recorded with 2.3.",
        "- **The counts.** Episodes that cost more than DSRL's highest are left out, and the fullest cells of the "
        "cost-return plane thinned until no more are left than DSRL has. Where rolling out so many would take long, "
        "there are fewer: see [the files](#the-files).",
        "- **The costs** are those of the same environments, a cost of 0 or 1 a step.",
        "",
        "So what is measured on these files says how a method does on such data. It does not repeat the paper's "
        "numbers, which stand beside ours here, marked *paper*.",
    ]
    if missing:
        lines += ["", f"**Missing so far**: {', '.join(missing)}."]
    return "\n".join(lines)


def _sets(data: dict[str, Record]) -> str:
    """Tables 2 and 3 of the paper beside ours."""
    headers = ["task", "D_p / D_np", "cost of D_p: paper", "ours", "cost of D_np: paper", "ours"]
    headers += ["return of D_p: paper", "ours", "return of D_np: paper", "ours"]
    parts = [
        "## The two sets",
        f"Chosen as the paper says ({paper.N_PREFERRED} and {paper.N_DISPREFERRED} episodes), with τ = "
        f"{distinct(record['cost_limit'] for record in data.values()) or 'that of prefine.yml'}. The paper uses 30, "
        "40 and 50, and does not say of which its tables are. Means over the episodes of a set:",
    ]
    for title, columns in (
        ("Safety-Gymnasium (Table 2)", paper.TABLE_2),
        ("Bullet-Safety-Gym (Table 3)", paper.TABLE_3),
    ):
        rows = []
        for name, theirs in columns.items():
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
            sizes = f"{len(record['preferred'])} / {len(record['dispreferred'])}"
            # The paper's as they are printed there.
            rows.append(
                [name, sizes, *(cell for of_paper, ours in pairs for cell in (f"{of_paper:,.10g}", f"{ours:,.1f}"))]
            )
        parts += [f"{title}:", table(headers, rows)]
    parts.append(f"![Returns and costs of all episodes, one picture a task]({PICTURE.as_posix()})")
    return "\n\n".join(parts)


def _ranges(data: dict[str, Record]) -> str:
    """The whole files beside DSRL's."""
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
    return f"## The files\n\nDSRL's columns are the constants of dsrl 0.1.0.\n\n{table(headers, rows)}"


def _files(results: Results) -> str:
    """How they are made, how long it takes, and their checksums."""
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
    parts = [
        "## Make them",
        "```bash\npython -m benchmarks generate rollout BallCircle    # benchmarks/generated/BallCircle.hdf5, with the "
        "committed agents\npython -m benchmarks generate train BallCircle      # only for other agents\n"
        "python -m benchmarks data-page                      # this page\n```",
        'Read one with `dsrl.load("BallCircle", "benchmarks/generated/BallCircle.hdf5")`. Versions, seed and the '
        "checksum of the agents stand in its attributes. The same versions give the same bytes on the same kind of "
        "processor. On another kind the simulators round differently: a few episodes take another course, and the "
        "checksum is another one.",
        "CPU min is the time of one core. `rollout` shares it between two processes, `train` runs in one.",
        table(headers, rows),
    ]
    if results.data:
        found = results.data.values()
        dates = distinct(record["date"] for record in found)
        parts.append(f"Seed {distinct(r['seed'] for r in found)}, {dates}; {versions(found)}.")
    return "\n\n".join(parts)


def _minutes(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds / 60:,.1f}"
