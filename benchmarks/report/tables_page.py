"""
Writes benchmarks/README.md, the paper's tables again, and benchmark.md beside it, from the records that run.py left.

    python -m benchmarks report                # of the small tier
    python -m benchmarks report --tier paper

Its pictures are made by figures.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

from benchmarks import paper, records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report import figures, zoo_page
from benchmarks.report.markdown import distinct, table, versions
from benchmarks.report.rival_sweeps import rivals
from benchmarks.report.table_figures import LABELS, pace_of
from benchmarks.report.training_time import OWN_STEPS, TASK
from benchmarks.report.tuned_weights import tuned
from benchmarks.report.verdict import reached, small_failures
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE, Method
from benchmarks.runs.scores import Run
from benchmarks.runs.studies import FAST_METHODS, SLOW_METHODS, STUDIES, TABLE_METHODS, TIERS, TierName, study_cells
from sb3_prefine import dsrl
from sb3_prefine.utils.files import write_atomically
from sb3_prefine.utils.randomness import OwnRandomState

_AGGREGATED = (REFERENCE, *FAST_METHODS)
SUITES = {
    "Safety-Gymnasium": [name for name in dsrl.PAPER_TASKS if name in paper.TABLE_2],
    "Bullet-Safety-Gym": [name for name in dsrl.PAPER_TASKS if name in paper.TABLE_3],
}


def main(tier: TierName = "small", results: Path = RESULTS, page: Path = HERE / "README.md") -> None:
    """
    :param tier: whose records to read
    :param results: the folder with TIER/STUDY/TASK
    :param page: the page; its pictures go to images/ beside it
    """
    runs = load_runs(results, tier)
    if not runs:
        raise SystemExit(
            f"{results / tier / 'table'}: there are no records. Run: python -m benchmarks run --tier {tier}"
        )
    drawn = figures.draw_all(results, tier, page.parent / "images")
    write_atomically(page, write(runs, tier, drawn, Others.load(results)).encode())
    of_zoo = page.with_name("benchmark.md")
    write_atomically(of_zoo, zoo_page.write(tabled(runs), tier).encode())
    print(f"Wrote {page}, {of_zoo} and {len(drawn)} pictures.")


def load_runs(results: Path, tier: TierName) -> list[Run]:
    """
    Of the studies ``table`` and ``rivals``.

    :param results: the folder with TIER/STUDY/TASK
    :param tier: whose
    """
    return [run for study in ("table", "rivals") for run in scores.load(results / tier / study)]


def tabled(runs: Sequence[Run]) -> list[Run]:
    """Those of Table 1, without those with other weights."""
    return [run for run in runs if run.method in TABLE_METHODS]


@dataclass(frozen=True)
class Others:
    """
    What other commands found, by task.

    :param luck: layout_luck.py
    :param standing: standing_still.py
    :param tuning: tune.py
    """

    luck: Mapping[str, dict[str, Any]]
    standing: Mapping[str, dict[str, Any]]
    tuning: Mapping[str, dict[str, Any]]

    @classmethod
    def load(cls, results: Path) -> "Others":
        """From the folder of the results."""
        found = (sorted((results / field.name).glob("*.json")) for field in fields(cls))
        return cls(*({path.stem: records.load(path) for path in paths} for paths in found))


def write(all_runs: Sequence[Run], tier: TierName, drawn: Sequence[figures.Figure], others: Others) -> str:
    """
    The page, as Markdown.

    :param all_runs: as :func:`load_runs` gives them
    :param tier: whose
    :param drawn: the figures that there are
    :param others: what else was found
    """
    runs = tabled(all_runs)
    sections = [
        _introduction(runs, tier),
        _table_1(runs, tier),
        f"## What PREFINE reaches\n\n{reached(runs)}",
        *([small_failures(others.luck, others.standing)] if tier == "small" else []),
        _aggregates(runs),
        _by_samples(scores.stochastic(runs)),
        _times(runs),
        *(_figure(figure) for figure in drawn),
        _OTHER_FIGURES,
        tuned(all_runs, others.tuning),
        rivals(all_runs),
        _how(runs, tier),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(runs: Sequence[Run], tier: TierName) -> str:
    return "\n".join(
        [
            "# The paper's tables and figures, again",
            "",
            "Every method on every task of the paper, on [generated data](data.md): **these are not DSRL's data**, so "
            "the numbers are not the paper's, which stand below ours. What can be compared is who is better than whom. "
            "The same runs in the environments' own units: [benchmark.md](benchmark.md).",
            "",
            f"This is the `{tier}` tier: {_size(runs)}. Whoever has the machines runs `--tier paper`."
            f"{_missing(runs, tier)}",
        ]
    )


def _missing(runs: Sequence[Run], tier: TierName) -> str:
    wanted, n_runs = len(study_cells(STUDIES["table"], TIERS[tier])), len(runs)
    if n_runs >= wanted:
        return ""
    return (
        f" **It is not complete: {n_runs} of its {wanted} cells are done.** Where there is one seed the intervals say "
        "nothing about others."
    )


def _size(runs: Sequence[Run]) -> str:
    budgets = [run.record["budget"] for run in runs]
    steps, ref_steps = (distinct(format(b[name], ",") for b in budgets) for name in ("steps", "ref_steps"))
    episodes, samples = (distinct(b[name] for b in budgets) for name in ("episodes", "stochastic_episodes"))
    return (
        f"{steps} gradient steps from a reference of {ref_steps}, τ = "
        f"{distinct(format(run.selection.tau, 'g') for run in runs)}, seeds {distinct(run.seed for run in runs)}, "
        f"{episodes} episodes a seed by the mode of the policy and {samples} by samples"
    )


def _table_1(runs: Sequence[Run], tier: TierName) -> str:
    return "\n\n".join(
        [
            "## Table 1",
            "Normalised reward / normalised cost, mean ± standard deviation over the seeds. A cost of 1 is the limit "
            "κ, the middle one of DSRL's three; **bold** is safe (cost up to 1), 🔵 the safe method of the highest "
            "reward. *The second line is the paper's*, on DSRL's data. D_p are the preferred episodes. Policies act by "
            f"their mode.{_stopped_early(tier)} Other learning rates and weights of DPO, PPL and CPL, some of them "
            "better: [below](#rivals-with-other-learning-rates-and-weights).",
            *_of_suites(runs),
        ]
    )


def _stopped_early(tier: TierName) -> str:
    """For whom the budget is not that of his own paper by far."""
    steps = [Method.parse(method).steps(TIERS[tier].budget) for method in SLOW_METHODS]
    if all(n >= OWN_STEPS[method] for n, method in zip(steps, SLOW_METHODS, strict=True)):
        return ""
    shares = " and ".join(f"{n / OWN_STEPS[method]:.0%}" for n, method in zip(steps, SLOW_METHODS, strict=True))
    return (
        f" {' and '.join(SLOW_METHODS)} make {shares} of the steps of their own papers here, for want of time: their "
        "columns are no verdict on them."
    )


def _of_suites(runs: Sequence[Run]) -> list[str]:
    """A table a suite, with a line of ours and a line of the paper's in each cell."""
    parts = []
    for suite, tasks in SUITES.items():
        rows = []
        for task in tasks:
            found = {method: of for method in TABLE_METHODS if (of := scores.select(runs, task=task, method=method))}
            best = best_safe([m for m in found if m != REFERENCE], found)
            kappa = distinct(f"{run.kappa:g}" for of in found.values() for run in of)
            rows.append([task, kappa, _of_preferred(found), *(_cell(task, m, found, m == best) for m in TABLE_METHODS)])
        parts += [f"{suite}:", table(["task", "κ", "D_p", *(LABELS.get(m, m) for m in TABLE_METHODS)], rows)]
    return parts


def best_safe(methods: Sequence[str], found: dict[str, list[Run]]) -> str | None:
    """The method with the highest reward among those whose mean cost is up to the limit."""
    safe = [method for method in methods if scores.cost(found[method]).mean <= 1]
    return max(safe, key=lambda method: scores.reward(found[method]).mean, default=None)


def _cell(task: str, method: str, found: dict[str, list[Run]], best: bool) -> str:
    theirs = paper.TABLE_1[task].get(method)
    ours = scores.format_outcome(found.get(method, []))
    ours = f"🔵 {ours}" if best else ours
    return ours if theirs is None else f"{ours}<br>*{theirs.reward:.2f} / {theirs.cost:.2f}*"


def _of_preferred(found: dict[str, list[Run]]) -> str:
    """Its mean over the draws."""
    runs = next(iter(found.values()), [])
    if not runs:
        return ""
    return f"{np.mean([_data_reward(run) for run in runs]):.2f} / {np.mean([_data_cost(run) for run in runs]):.2f}"


def _data_reward(run: Run) -> float:
    return float(dsrl.normalized_reward(run.task, run.record["preferred"]["reward"]))


def _data_cost(run: Run) -> float:
    return float(dsrl.normalized_cost(run.record["preferred"]["cost"], run.kappa))


def _by_samples(runs: Sequence[Run]) -> str:
    """Table 1 and the verdict again."""
    return "\n\n".join(
        [
            "## Acting by samples",
            "The same policies, with the noise that they were trained with. Where behaviour cloning learns what many "
            "agents did, that noise is what breaks the limit: several references are safe by their mode alone.",
            *_of_suites(runs),
            reached(runs),
        ]
    )


def _aggregates(runs: Sequence[Run]) -> str:
    """Over all tasks, by rliable."""
    tasks = [t for t in dsrl.PAPER_TASKS if all(scores.select(runs, task=t, method=m) for m in _AGGREGATED)]
    if not tasks:
        return "## Over all tasks\n\nThere is no task that every method has run on."
    rows = []
    for method in _AGGREGATED:
        row = [LABELS.get(method, method)]
        for value in (lambda run: run.rewards.mean(), lambda run: run.costs.mean()):
            row.append(_interval(scores.matrix(runs, tasks, method, value), metrics.aggregate_iqm, "{:.2f}"))
        safe = scores.matrix(runs, tasks, method, lambda run: float(run.costs.mean() <= 1))
        row.append(_interval(safe, metrics.aggregate_mean, "{:.0%}"))
        rows.append(row)
    return "\n\n".join(
        [
            "## Over all tasks",
            f"Of the {len(tasks)} tasks that all of these have run on: interquartile means, and the share of runs that "
            "are safe, with 95% intervals by stratified bootstrap "
            "([rliable](https://github.com/google-research/rliable)).",
            table(["method", "reward: IQM", "cost: IQM", "safe runs"], rows),
        ]
    )


def _interval(values: np.ndarray, aggregate: library.Callable, form: str) -> str:
    # It draws from numpy's global state, whatever random_state is.
    with OwnRandomState(0):
        points, intervals = library.get_interval_estimates({"": values}, lambda x: np.array([aggregate(x)]), reps=2_000)
    (low,), (high,) = intervals[""]
    return f"{form.format(points[''][0])} [{form.format(low)}, {form.format(high)}]"


def _times(runs: Sequence[Run]) -> str:
    """What training takes, and would take with the steps of each method's own paper."""
    found = pace_of(runs)
    if "PREFINE" not in found:
        return f"## Training time\n\nPREFINE has not run on {TASK} yet."
    rows = [
        [
            method,
            f"{pace.milliseconds:.1f}",
            f"{pace.steps:,}",
            f"{pace.seconds:,.0f} s",
            f"{pace.own_steps:,}",
            f"{pace.own_hours:.1f} h",
            f"{pace.own_hours / found['PREFINE'].own_hours:.1f}",
            f"{3600 * pace.own_hours / found['PREFINE'].seconds:,.0f}",
        ]
        for method, pace in found.items()
    ]
    head = [
        "method",
        "ms a step",
        "steps here",
        "time",
        "its paper's steps",
        "time",
        "of PREFINE's",
        "of PREFINE's here",
    ]
    return "\n\n".join(
        [
            "## Training time",
            f"On {TASK}, of one core ({distinct(pace.processor for pace in found.values())}): with the budget of this "
            "tier, and at the same pace with that of each method's own paper; and that as a multiple of what PREFINE "
            "takes with its paper's budget, and with the one of this tier, which was enough.",
            table(head, rows),
        ]
    )


_OTHER_FIGURES = """\
## Fig. 2: the cost gap

How far the cost of the policy's own actions is from the cost of the data's, at the states of the data, by thirds of
training: the mean absolute difference in violations an episode, and the violations themselves. Dotted is what random
actions have. The paper's trend is there for dispreferred episodes of HalfCheetah, and hardly elsewhere: in a few
thousand steps the actions change, but a single one does not change the speed of a robot that runs.

![Fig. 2: the cost gap](images/cost_gap.png)

`python -m benchmarks cost-gap`

## Fig. 13: how much the two sets overlap

States of preferred and dispreferred episodes in the plane (UMAP), and the Jaccard index of the cells that they lie in.

![Fig. 13: how much the two sets overlap](images/overlap.png)

`python -m benchmarks overlap`"""


def _figure(figure: figures.Figure) -> str:
    return "\n\n".join(
        [
            f"## {figure.title}",
            figure.text,
            f"![{figure.title}](images/{figure.name}.png)",
            f"`{figure.command}`",
        ]
    )


def _how(runs: Sequence[Run], tier: TierName) -> str:
    records = [run.record for run in runs]
    hours = sum(record["cpu_seconds"] for record in records) / 3600
    safedice, cpq = (
        distinct(format(run.record["steps"], ",") for run in scores.select(runs, method=method)) or "no"
        for method in ("SafeDICE", "CPQ")
    )
    return "\n\n".join(
        [
            "## Make it again",
            "```bash\npython -m benchmarks generate rollout BallRun BallCircle HalfCheetahVelocity Walker2dVelocity    "
            f"# and the others\npython -m benchmarks run --tier {tier} --executor joblib\n"
            f"python -m benchmarks report --tier {tier}\n```",
            "- **The reference** is behaviour cloning of the episodes of the highest "
            f"{distinct(format(r['ref_quantile'], '.0%') for r in records)} of returns, one for each task "
            f"({distinct(r['policy'] for r in records)}).\n"
            "- **BC** starts from nothing and sees D_p alone. **SFT** is PREFINE with β = 0: the same data from the "
            "reference's weights. **DPO** is PREFINE with λ = 0. **PPL**, **CPL** and **CPL-KL** start from the "
            "reference, too. All have the same steps.\n"
            "- **SafeDICE** has D_np as its labelled and both sets as its unlabelled data, **CPQ** the rewards and "
            f"costs of all of the task's data, and κ. They make {safedice} and {cpq} steps here; 1,100,000 and 100,000 "
            "are their papers'.\n"
            "- PREFINE's β and λ are the paper's ([prefine.yml](../sb3_prefine/zoo/hyperparams/prefine.yml)), those of "
            "the others their papers'. Nothing was tuned on test episodes.",
            *([_SMALL_TIME] if tier == "small" else []),
            f"Training took {hours:.1f} hours of one core, {len(runs)} cells. {distinct(r['date'] for r in records)}; "
            f"{distinct(r['processor'] for r in records)}; {versions(records)}.",
        ]
    )


# By the clock, on 2026-11-28; the processor is the one of the training times.
_SMALL_TIME = """\
On two cores the whole tier takes a little over five hours: the table an hour without SafeDICE and CPQ, which take 37
minutes a seed, and the other studies two and a half. The data before them take half an hour. Not counted are
`rivals`, three quarters of an hour of one core, and `longer`, two hours of one core a seed."""
