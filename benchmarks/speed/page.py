"""
Write benchmarks/speed.md and its figure from the records in benchmarks/results/speed.

    python -m benchmarks speed-page

`speed` writes the records. Sections without a record say that they were not measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.speed.figure import LABELS, draw
from benchmarks.speed.rollouts import LONG_FACTOR
from benchmarks.speed.time_to_safe import RETURN_SHARE
from sb3_prefine.utils.files import write_atomically

PICTURE = Path("images") / "speed.png"
PAPER_UPDATES = 500_000
MISSING = "Not measured yet."
Records = Mapping[str, dict[str, Any]]


def main(results: Path = RESULTS / "speed", page: Path = HERE / "speed.md") -> None:
    """
    Write the page and its figure.

    :param results: Folder with the records.
    :param page: Path of the page. The figure is written to images/ beside it.
    """
    found = {path.stem: records.load(path) for path in sorted(results.glob("*.json"))}
    if {"step", "growth"} <= found.keys():
        picture = page.parent / PICTURE
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(picture, draw(found["step"], found["growth"]))
    write_atomically(page, write(found).encode())
    print(f"Wrote {page}.")


def write(found: Records) -> str:
    """Build the page as Markdown."""
    sections = (
        ("One step", "step", _step),
        ("A whole run", "whole", _whole),
        ("From learn() to a safe policy", "safe", _safe),
        ("Many runs at once", "population", _population),
        ("Growth", "growth", _growth),
        ("Threads", "threads", _threads),
        ("Measuring a policy", "rollout", _rollout),
        ("Data beyond memory, imports", "size", _size),
    )
    lines = ["# Speed", "", _INTRODUCTION]
    if {"step", "growth"} <= found.keys():
        lines += ["", f"![The time of a step, and how it grows]({PICTURE})"]
    for title, name, section in sections:
        lines += ["", f"## {title}", ""]
        if name not in found:
            lines.append(MISSING)
            continue
        lines += section(found[name])
        lines += ["", _source(found[name])]
    lines += ["", "## On a GPU", ""]
    on_gpu = [name for name in found if name.endswith("-cuda")]
    lines.append(", ".join(on_gpu) if on_gpu else _NO_GPU)
    return "\n".join(lines) + "\n"


_INTRODUCTION = """\
The training speed of PREFINE, compared with two other training loops. They are measured in turn, a few steps at a time,
so that other load on the machine affects all of them equally:

- **the floor**: behaviour cloning on one fixed batch with the same number of states: forward pass, backward pass and
  fused Adam, nothing else. Every method that trains this network on this number of states has to do at least this;
- **Algorithm 1 as written**: for each set, the policy and the reference score the data's actions and the
  counterfactuals, each in a separate forward pass.

Unless stated otherwise, all loops have HalfCheetah's sizes (17 observations, 6 actions), two hidden layers of 256
units, batches of 256 + 256 transitions, and one thread. Times are medians over rounds. Ratios are medians of the
rounds' ratios, with 95% bootstrap intervals over the rounds. `make bench` repeats all measurements except the one on
data beyond memory, which `make bench-size FOLDER=/data` repeats."""

_WHY_NOT_THE_FLOOR = """\
PREFINE makes more calls into torch than the floor: it gathers rows of the data, samples counterfactuals, scores actions
under both policies and measures the gradient. These calls work on a few numbers per state, so most of their time is
the overhead of the calls, not arithmetic."""

_WHY_NOT_THE_ENVIRONMENT = """\
Processes do not wait for each other, so the time of a long rollout consists of the parts of a step in one process: the
environment, the policy's `predict` for 16 observations at once, and the rest, which gathers, checks and records
observations and actions. The target is 70% of the environment's own speed.

A short rollout also has to start, which takes the share of its time in the last column: each process makes its
environments, and new processes import what the environment needs. This is most of the time if episodes are short and
environments take long to make, such as Bullet's. In the first rollout of a program, the new processes also import torch
for some seconds; the main process works in the meantime, and does all the work alone if it finishes earlier."""

_WHY_NOT_A2C = """\
The target is 5 seconds of training. A2C's agent misses it, because its last hidden layer is saturated: on the data,
most of its tanh units are at -1 or 1, where their gradients vanish, so it needs more steps. With higher learning rates,
decay or smaller batches, runs of 5 seconds lost too much return or depended on the seed."""

_NO_GPU = """\
Nothing was measured on a GPU. The same code runs there (`device="cuda"`), and the commands take `--device cuda`."""


def _step(record: dict[str, Any]) -> list[str]:
    lines = _table(
        ("policy", *LABELS.values(), "PREFINE / floor", "Algorithm 1 / PREFINE"),
        [
            (
                name,
                *(f"{family['ms'][each]:.2f} ms" for each in LABELS),
                _ratio(family["ratios"]["learn / floor"]),
                _ratio(family["ratios"]["plain / learn"]),
            )
            for name, family in record["families"].items()
        ],
    )
    compiled = record["families"]["gaussian"]["ratios"].get("compiled / learn")
    if compiled:
        lines += [
            "",
            f"With networks and log-probs compiled by `torch.compile`, a step takes {_ratio(compiled)} times as long"
            + (", so PREFINE does not use it." if compiled[0] > 1 else "."),
        ]
    lines += ["", _WHY_NOT_THE_FLOOR]
    return lines


def _whole(record: dict[str, Any]) -> list[str]:
    each = record["seconds"] / record["updates"]
    return [
        f"`learn({record['updates']:,})` took {record['seconds']:.0f} s ({1e3 * each:.2f} ms per step; "
        f"{record['cpu_seconds']:.0f} s of CPU time). At this speed the paper's {PAPER_UPDATES:,} steps, which took "
        f"about 90 minutes on its V100, take {PAPER_UPDATES * each / 60:.0f} minutes on one core. The target was 40 "
        "minutes. The section on growth shows what a smaller network or batch would gain."
    ]


def _safe(record: dict[str, Any]) -> list[str]:
    rows = []
    names = [name for name in record if isinstance(record[name], dict) and "runs" in record[name]]
    limits = ", ".join(sorted({f"{record[name]['cost_limit']:g}" for name in names}))
    for name in names:
        found, runs = record[name], record[name]["runs"]
        returns, costs, seconds = ([run[key] for run in runs] for key in ("return", "cost", "seconds"))
        rate = f"{found['learning_rate']:g}{', decaying to 0' if found['falls'] else ''}"
        preferred = f"{found['preferred_return']:,.0f}"
        rows.append(
            (
                name.upper(),
                f"{found['steps']:,}",
                rate,
                f"{mean(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{mean(returns):,.0f} of {preferred} ({min(returns):,.0f} to {max(returns):,.0f})",
                f"{mean(costs):.1f} ({min(costs):.1f} to {max(costs):.1f})",
                f"{sum(run['met'] for run in runs)} of {len(runs)}",
            )
        )
    return [
        "RL Zoo's HalfCheetah agents, fine-tuned on 20 preferred episodes (of the PPO agent with its actions scaled "
        f"down) and 20 dispreferred episodes of their own. The targets are a mean cost of at most {limits}, and "
        f"{RETURN_SHARE:.0%} of the preferred data's mean return. The table shows means, with the lowest and highest "
        "seeds in parentheses.",
        "",
        *_table(("checkpoint", "steps", "learning rate", "training", "return", "cost", "targets met"), rows),
        "",
        _WHY_NOT_A2C,
    ]


def _population(record: dict[str, Any]) -> list[str]:
    return [
        f"{record['runs']} runs in one `Population`, compared with the same runs one after the other:",
        "",
        *_table(
            ("network", "together", "one after the other", "together / one after the other"),
            [
                (
                    name,
                    *(f"{found['ms'][each]:.2f} ms" for each in ("population", "singles")),
                    _ratio(found["ratios"]["population / singles"]),
                )
                for name, found in record["workloads"].items()
            ],
        ),
    ]


def _growth(record: dict[str, Any]) -> list[str]:
    lines = []
    for name, milliseconds in record["ms"].items():
        lines += [
            *_table(
                (name, *(f"{int(n):,}" for n in milliseconds)), [("ms", *(f"{t:.2f}" for t in milliseconds.values()))]
            ),
            "",
        ]
    return lines[:-1]


def _threads(record: dict[str, Any]) -> list[str]:
    rows = [
        (name, LABELS[kind], *(cell for when in ("idle", "busy") for cell in _of_threads(found[when], kind)))
        for name, found in record["workloads"].items()
        for kind in ("floor", "learn")
    ]
    head = ("network", "", "idle: 1 thread", "2 threads", "2 / 1", "busy: 1 thread", "2 threads", "2 / 1")
    return [
        "Busy means that another process runs on every core. Behaviour cloning uses the number of threads set in "
        "torch. `PREFINE.learn` uses one thread, unless an update has more than 10⁹ operations, as with 1,024 units.",
        "",
        *_table(head, rows),
    ]


def _of_threads(found: dict[str, Any], kind: str) -> tuple[str, str, str]:
    one, two = f"{kind} 1", f"{kind} 2"
    return f"{found['ms'][one]:.2f} ms", f"{found['ms'][two]:.2f} ms", _ratio(found["ratios"][f"{two} / {one}"])


def _rollout(record: dict[str, Any]) -> list[str]:
    rows = [
        (
            run["env"],
            run["policy"],
            f"`{function}`",
            f"{run[key]['raw_steps_per_second']:,}",
            f"{run[key]['steady_steps_per_second']:,}",
            f"{run[key]['steady_share']:.0%}",
            f"{run[key]['steps_per_second']:,}",
            f"{run[key]['share']:.0%}",
            f"{run[key]['start']:.0%}",
        )
        for run in record["runs"]
        for function, key in (("evaluate_policy", "evaluate"), ("collect", "collect"))
    ]
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
    parts = [
        (
            run["env"],
            run["policy"],
            *(f"{run['parts'][part]:.0%}" for part in ("environment", "policy", "rest")),
            f"{run['make_ms']:.0f} ms",
        )
        for run in record["runs"]
    ]
    first = record["runs"][0]
    return [
        f"Steps per second of all {first['n_workers']} processes, one per core, with {first['n_envs']} environments in "
        "total. The environment alone replays the same episodes, with the same resets and actions, in a plain loop of "
        f"`env.step`. The short rollout is one call with {first['n_episodes']} episodes, start included. The long "
        f"rollout is the additional time and steps of a call with {LONG_FACTOR} times as many episodes.",
        "",
        *_table(head, rows),
        "",
        _WHY_NOT_THE_ENVIRONMENT,
        "",
        *_table(("environment", "policy", "`env.step`", "`predict`", "rest", "making one environment"), parts),
    ]


def _size(record: dict[str, Any]) -> list[str]:
    training, buffer = record["training"], record["buffer"]
    lines = [
        f"- {training['n_transitions']:,} transitions on disk ({training['file_bytes'] / 1e9:.1f} GB) train at "
        f"{training['ratio']:.0%} of the speed of {training['n_in_memory']:,} in memory, "
        f"{training['cpu_ratio']:.0%} by CPU time. The process uses at most "
        f"{training['streaming']['anonymous']:,.0f} MiB of its own ({training['before']['anonymous']:,.0f} before it "
        f"opens the file), and maps at most {training['streaming']['file']:,.0f} MiB of files. In addition, the system "
        "caches what it has read of the files while it has free memory.",
        f"- A buffer in memory takes {buffer['buffer']:.0f} bytes per transition, {buffer['ratio']:.2f} times the size "
        "of its numbers.",
        f"- `import sb3_prefine` takes {record['import_ratio']:.2f} times as long as `import stable_baselines3`.",
    ]
    lines += [
        f"- `load_reference` of {name} takes {cost['seconds']:.2f} s."
        for name, cost in record["load_reference"].items()
    ]
    return lines


def _ratio(ratio: Sequence[float]) -> str:
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _source(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"`{record['command']}`, {record['date']}, {record['device']}; {versions}."
