"""
Writes benchmarks/speed.md and its picture from the records in benchmarks/results/speed.

    python -m benchmarks speed-page

measure.py writes those records. What was not measured is named as missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.speed.figure import LABELS, draw
from sb3_prefine.utils.files import write_atomically

PICTURE = Path("images") / "speed.png"
PAPER_UPDATES = 500_000
MISSING = "Not measured yet."
Records = Mapping[str, dict[str, Any]]


def main(results: Path = RESULTS / "speed", page: Path = HERE / "speed.md") -> None:
    """
    :param results: the folder with the records
    :param page: the page; its picture goes to images/ beside it
    """
    found = {path.stem: records.load(path) for path in sorted(results.glob("*.json"))}
    if {"step", "growth"} <= found.keys():
        picture = page.parent / PICTURE
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(picture, draw(found["step"], found["growth"]))
    write_atomically(page, write(found).encode())
    print(f"Wrote {page}.")


def write(found: Records) -> str:
    """The page, as Markdown."""
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
        lines += ["", f"![A step of each contender, and how its time grows]({PICTURE})"]
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
How long PREFINE takes, against two others that are measured in turn with it, a few steps at a time, so that what
disturbs one disturbs all:

- **the floor**: behaviour cloning of one batch of as many states, which lies ready: forward, backward and fused Adam,
  nothing else. Whatever trains this network on as many states a step has to do this;
- **Algorithm 1 as it is written**: for each set the policy and the reference score the data's action and the
  counterfactual, each in a forward pass of its own.

All have HalfCheetah's sizes (17 numbers observed, 6 acted), a network of 256 and 256 units and batches of 256 + 256
transitions, and run on one thread, unless it says otherwise. Times are medians over rounds; ratios are medians of the
rounds' ratios, with 95% intervals by bootstrap over the rounds. `make bench` measures all of it again but the data
beyond memory, which `make bench-size FOLDER=/data` does."""

_WHY_NOT_THE_FLOOR = """\
Of a Gaussian policy's step the floor is 64 calls into torch, PREFINE 98 (views not counted): rows of the data are
gathered, counterfactuals drawn, actions scored under both policies, the gradient measured. They work on a few numbers a
state, so their time is that of the calls, not of the arithmetic."""

_WHY_NOT_THE_ENVIRONMENT = """\
Processes do not wait for each other, so a long rollout is what a step in one process is made of: the environment, the
policy's `predict` for 16 observations at once, and the rest, which gathers and checks observations and actions and
records. We aim at 70% of the environment's own speed.

A short rollout has to start as well, which is the last column's share of its time: each process makes its environments,
and those that are started import what the environment needs. Where episodes are short and environments are costly to
make, as Bullet's, that is most of it. In a program's first rollout the other processes import torch too, some
seconds; this process goes on meanwhile, and does all the work alone if it is done before."""

_WHY_NOT_A2C = """\
We aim at 5 seconds, and A2C's agent misses them. Its last hidden layer is saturated: 95% of its tanh units stand at -1
or 1 on the data, where their gradients vanish, so that it has to be trained longer. Rates up to 0.2, constant and
falling, and batches of 64 to 256 were tried: what takes 5 seconds keeps too little return or comes out differently with
each seed."""

_NO_GPU = """\
Nothing was measured on a GPU: none was at hand. The same code runs there (`device="cuda"`), and the commands take
`--device cuda`."""


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
            f"With the network and the log-probs compiled by `torch.compile` a step takes {_ratio(compiled)} times as "
            "long, so it is not used.",
        ]
    lines += ["", _WHY_NOT_THE_FLOOR]
    return lines


def _whole(record: dict[str, Any]) -> list[str]:
    each = record["seconds"] / record["updates"]
    return [
        f"`learn({record['updates']:,})` took {record['seconds']:.0f} s ({1e3 * each:.2f} ms a step; "
        f"{record['cpu_seconds']:.0f} s of processor time). At that pace the paper's {PAPER_UPDATES:,} steps, which "
        f"took it about 90 minutes on a V100, take {PAPER_UPDATES * each / 60:.0f} minutes on one core. We aimed at "
        "40, which is about what the floor alone takes on this processor: a network that is smaller, or a batch, gains "
        "what the growth below shows."
    ]


def _safe(record: dict[str, Any]) -> list[str]:
    rows = []
    names = [name for name in record if isinstance(record[name], dict) and "runs" in record[name]]
    for name in names:
        found, runs = record[name], record[name]["runs"]
        returns, costs, seconds = ([run[key] for run in runs] for key in ("return", "cost", "seconds"))
        rate = f"{found['learning_rate']:g}{', falling to 0' if found['falls'] else ''}"
        wanted = f"{found['preferred_return']:,.0f}"
        rows.append(
            (
                name.upper(),
                f"{found['steps']:,}",
                rate,
                f"{mean(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{mean(returns):,.0f} of {wanted} ({min(returns):,.0f} to {max(returns):,.0f})",
                f"{mean(costs):.1f} ({min(costs):.1f} to {max(costs):.1f})",
                f"{sum(run['met'] for run in runs)} of {len(runs)}",
            )
        )
    return [
        "RL Zoo's HalfCheetah agents, 20 preferred episodes (the PPO agent with its actions scaled down) and 20 of "
        "their own. Met is a mean cost within 25 and 95% of the preferred data's mean return. Means, lowest and "
        "highest of the seeds.",
        "",
        *_table(("checkpoint", "steps", "learning rate", "training", "return", "cost", "met"), rows),
        "",
        _WHY_NOT_A2C,
    ]


def _population(record: dict[str, Any]) -> list[str]:
    return [
        f"{record['runs']} runs in one `Population`, against the same runs one after the other:",
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
        "Busy is with one other process on every core. Behaviour cloning takes the threads that torch is set to. "
        "`PREFINE.learn` takes one, unless an update is more than 10⁹ operations, as that of 1,024 units is.",
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
        f"Steps a second of all {first['n_workers']} processes together, one for each core, with {first['n_envs']} "
        "environments. The environment alone replays the same episodes, the same resets and actions, in a plain loop "
        f"of `env.step`. The short rollout is a call with {first['n_episodes']} episodes, as long as a user waits for "
        "it; the long rollout is what four times as many take more.",
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
        f"{training['cpu_ratio']:.0%} by processor time. The process holds at most "
        f"{training['streaming']['anonymous']:,.0f} MiB of its own ({training['before']['anonymous']:,.0f} before it "
        f"opens the file), and maps at most {training['streaming']['file']:,.0f} MiB of files. Beside that the system "
        "keeps what it has read of them as long as it has room.",
        f"- A buffer in memory takes {buffer['buffer']:.0f} bytes a transition, {buffer['ratio']:.2f} times its "
        "numbers.",
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
