"""
Write benchmarks/speed.md and its picture from the records in benchmarks/results/speed.

    python -m benchmarks speed-page

measure.py writes these records. What was not measured is named as missing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report.markdown import CONFIDENCE, list_names, render, versions
from benchmarks.report.markdown import table as write_table
from benchmarks.runs.studies import TIERS
from benchmarks.speed.contenders import BATCH_SIZE, N_ACTIONS, N_OBSERVATIONS, WIDTHS
from benchmarks.speed.figure import LABELS, draw
from benchmarks.speed.time_to_safe import RETURN_SHARE
from sb3_prefine.utils.files import write_atomically

PICTURE = Path("images") / "speed.png"
PAPER_UPDATES = TIERS["paper"].budget.steps
# The paper: "about 1.5 hours", on an NVIDIA Tesla V100.
PAPER_MINUTES = 90
# Our targets: minutes of the paper's steps, seconds to a safe policy, and the share of the environment's own speed.
WANTED_MINUTES, WANTED_SECONDS, WANTED_SHARE = 40, 5, 0.7
MISSING = "Not measured yet."
Record = dict[str, Any]
Records = Mapping[str, Record]


def main(results: Path = RESULTS / "speed", page: Path = HERE / "speed.md") -> None:
    """
    Write the page and its picture.

    :param results: Folder with the records.
    :param page: Path of the page. Its picture goes to images/ beside it.
    """
    found = {path.stem: records.load(path) for path in sorted(results.glob("*.json"))}
    if {"step", "growth"} <= found.keys():
        picture = page.parent / PICTURE
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(picture, draw(found["step"], found["growth"]))
    write_atomically(page, write(found).encode())
    print(f"Wrote {page}.")


def write(found: Records) -> str:
    """
    Write the page in Markdown.

    :param found: The records by the name of their measurement.
    """
    sections: dict[str, Callable[[Record], str]] = {
        "step": _step,
        "whole": _whole,
        "safe": _safe,
        "population": _population,
        "growth": _growth,
        "threads": _threads,
        "rollout": _rollout,
        "size": _size,
    }
    has_picture = {"step", "growth"} <= found.keys()
    page = render(
        "speed_page",
        n_observations=N_OBSERVATIONS,
        n_actions=N_ACTIONS,
        widths=list_names([f"{width}" for width in WIDTHS]),
        batch=f"{BATCH_SIZE} + {BATCH_SIZE}",
        confidence=CONFIDENCE,
        picture=f"![A step of each contender, and how its time grows]({PICTURE.as_posix()})" if has_picture else "",
        gpu=list_names([name for name in found if name.endswith("-cuda")], otherwise=render("speed_no_gpu")),
        **{
            name: f"{section(found[name])}\n\n{_source(found[name])}" if name in found else MISSING
            for name, section in sections.items()
        },
    )
    return f"{page}\n"


def _step(record: Record) -> str:
    rows = [
        [
            name,
            *(f"{family['ms'][each]:.2f} ms" for each in LABELS),
            _ratio(family["ratios"]["learn / floor"]),
            _ratio(family["ratios"]["plain / learn"]),
        ]
        for name, family in record["families"].items()
    ]
    compiled = record["families"]["gaussian"]["ratios"].get("compiled / learn")
    return render(
        "speed_step",
        table=write_table(("policy", *LABELS.values(), "PREFINE / floor", "Algorithm 1 / PREFINE"), rows),
        compiled=f"A step takes {_ratio(compiled)} times as long" if compiled else "This was not measured",
    )


def _whole(record: Record) -> str:
    each = record["seconds"] / record["updates"]
    return render(
        "speed_whole",
        updates=f"{record['updates']:,}",
        seconds=f"{record['seconds']:.0f}",
        milliseconds=f"{1e3 * each:.2f}",
        cpu_seconds=f"{record['cpu_seconds']:.0f}",
        paper_updates=f"{PAPER_UPDATES:,}",
        paper_minutes=PAPER_MINUTES,
        minutes=f"{PAPER_UPDATES * each / 60:.0f}",
        wanted=WANTED_MINUTES,
    )


def _safe(record: Record) -> str:
    rows, missed = [], []
    found = {name: of for name, of in record.items() if isinstance(of, dict) and "runs" in of}
    for name, of in found.items():
        returns, costs, seconds = ([run[key] for run in of["runs"]] for key in ("return", "cost", "seconds"))
        missed += [f"{name.upper()}'s agent"] if mean(seconds) > WANTED_SECONDS else []
        rows.append(
            [
                name.upper(),
                f"{of['steps']:,}",
                f"{of['learning_rate']:g}{', falling to 0' if of['falls'] else ''}",
                f"{mean(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{mean(returns):,.0f} of {of['preferred_return']:,.0f} ({min(returns):,.0f} to {max(returns):,.0f})",
                f"{mean(costs):.1f} ({min(costs):.1f} to {max(costs):.1f})",
                f"{sum(run['met'] for run in of['runs'])} of {len(of['runs'])}",
            ]
        )
    return render(
        "speed_safe",
        cost_limit=list_names(sorted({f"{of['cost_limit']:g}" for of in found.values()})),
        wanted_return=f"{RETURN_SHARE:.0%}",
        table=write_table(("checkpoint", "steps", "learning rate", "training", "return", "cost", "met"), rows),
        wanted_seconds=WANTED_SECONDS,
        missed=list_names(missed, otherwise="no agent"),
    )


def _population(record: Record) -> str:
    rows = [
        [
            name,
            *(f"{found['ms'][each]:.2f} ms" for each in ("population", "singles")),
            _ratio(found["ratios"]["population / singles"]),
        ]
        for name, found in record["workloads"].items()
    ]
    head = ("network", "together", "one after the other", "together / one after the other")
    return render("speed_population", n_runs=record["runs"], table=write_table(head, rows))


def _growth(record: Record) -> str:
    return "\n\n".join(
        write_table((name, *(f"{int(n):,}" for n in times)), [["ms", *(f"{time:.2f}" for time in times.values())]])
        for name, times in record["ms"].items()
    )


def _threads(record: Record) -> str:
    rows = [
        [name, LABELS[kind], *(cell for when in ("idle", "busy") for cell in _thread_cells(found[when], kind))]
        for name, found in record["workloads"].items()
        for kind in ("floor", "learn")
    ]
    head = ("network", "", "idle: 1 thread", "2 threads", "2 / 1", "busy: 1 thread", "2 threads", "2 / 1")
    return render("speed_threads", table=write_table(head, rows))


def _thread_cells(found: Record, kind: str) -> tuple[str, str, str]:
    one, two = f"{kind} 1", f"{kind} 2"
    return f"{found['ms'][one]:.2f} ms", f"{found['ms'][two]:.2f} ms", _ratio(found["ratios"][f"{two} / {one}"])


def _rollout(record: Record) -> str:
    rows = [
        [
            run["env"],
            run["policy"],
            f"`{function}`",
            f"{run[key]['raw_steps_per_second']:,}",
            f"{run[key]['steady_steps_per_second']:,}",
            f"{run[key]['steady_share']:.0%}",
            f"{run[key]['steps_per_second']:,}",
            f"{run[key]['share']:.0%}",
            f"{run[key]['start']:.0%}",
        ]
        for run in record["runs"]
        for function, key in (("evaluate_policy", "evaluate"), ("collect", "collect"))
    ]
    parts = [
        [
            run["env"],
            run["policy"],
            *(f"{run['parts'][part]:.0%}" for part in ("environment", "policy", "rest")),
            f"{run['make_ms']:.0f} ms",
        ]
        for run in record["runs"]
    ]
    first = record["runs"][0]
    head = (
        "environment",
        "policy",
        "",
        "environment alone",
        "long rollout",
        "share",
        "short rollout",
        "share",
        "start",
    )
    return render(
        "speed_rollout",
        n_workers=first["n_workers"],
        n_envs=first["n_envs"],
        n_episodes=first["n_episodes"],
        n_observations=first["n_envs"] // first["n_workers"],
        wanted_share=f"{WANTED_SHARE:.0%}",
        table=write_table(head, rows),
        parts=write_table(
            ("environment", "policy", "`env.step`", "`predict`", "rest", "making one environment"), parts
        ),
    )


def _size(record: Record) -> str:
    training, buffer = record["training"], record["buffer"]
    return render(
        "speed_size",
        n_transitions=f"{training['n_transitions']:,}",
        gigabytes=f"{training['file_bytes'] / 1e9:.1f}",
        ratio=f"{training['ratio']:.0%}",
        n_in_memory=f"{training['n_in_memory']:,}",
        cpu_ratio=f"{training['cpu_ratio']:.0%}",
        own=f"{training['streaming']['anonymous']:,.0f}",
        own_before=f"{training['before']['anonymous']:,.0f}",
        mapped=f"{training['streaming']['file']:,.0f}",
        buffer_bytes=f"{buffer['buffer']:.0f}",
        buffer_ratio=f"{buffer['ratio']:.2f}",
        import_ratio=f"{record['import_ratio']:.2f}",
        references=list_names(
            [f"{cost['seconds']:.2f} s for {name}" for name, cost in record["load_reference"].items()]
        ),
    )


def _ratio(ratio: Sequence[float]) -> str:
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _source(record: Record) -> str:
    return f"`{record['command']}`, {record['date']}, {record['device']}; {versions([record])}."
