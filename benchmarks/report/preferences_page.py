"""
Writes benchmarks/when_preferences_help.md and its pictures from the records of five studies.

    python -m benchmarks run --study preferences --executor joblib
    python -m benchmarks run --study within --executor joblib
    python -m benchmarks run --study stopping --executor joblib
    python -m benchmarks run --study checkpoints --executor joblib
    python -m benchmarks run --study counterfactuals --executor joblib
    python -m benchmarks preferences-page
"""

import io
from collections.abc import Mapping, Sequence
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks import records
from benchmarks.paths import HERE, RESULTS
from benchmarks.report import preferences_figures as pictures
from benchmarks.report.markdown import distinct, table, versions
from benchmarks.report.preferences_figures import LABELS, METHODS, RIVAL, conditions, mean_point, tasks_of
from benchmarks.runs import scores
from benchmarks.runs.methods import REFERENCE
from benchmarks.runs.scores import Run
from benchmarks.runs.selection import Selection, condition_of, describe
from benchmarks.runs.studies import BOUNDED_PREFINE, REFERENCE_FAILURES, STUDIES, StudyName, TierName
from sb3_prefine.utils.files import write_atomically

IMAGES = Path("images")
PICTURE, PLANE, STOPPING = (
    IMAGES / f"{name}.png" for name in ("when_preferences_help", "preferences_plane", "stopping")
)
# Those besides ``preferences``, which the page cannot do without.
OTHERS: tuple[StudyName, ...] = ("within", "stopping", "checkpoints", "counterfactuals")
_STUDIES = ("preferences", *OTHERS)
Surprises: TypeAlias = dict[tuple[str, Selection], list[float]]


def main(tier: TierName = "small", results: Path = RESULTS, page: Path = HERE / "when_preferences_help.md") -> None:
    """
    :param tier: whose records to read
    :param results: the folder with TIER/STUDY/TASK
    :param page: the page; its pictures go to images/ beside it
    """
    runs = scores.load(results / tier / "preferences")
    if not runs:
        raise SystemExit(f"No records yet. Run: python -m benchmarks run --tier {tier} --study preferences")
    others = {study: scores.load(results / tier / study) for study in OTHERS}
    figures = {PICTURE: pictures.draw(runs), PLANE: pictures.draw_plane(runs)}
    if others["stopping"]:
        figures[STOPPING] = pictures.draw_stopping(others["stopping"])
    (page.parent / IMAGES).mkdir(parents=True, exist_ok=True)
    for path, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        write_atomically(page.parent / path, content.getvalue())
    write_atomically(page, write(runs, others, load_surprises(results / tier / "surprise")).encode())
    print(f"Wrote {page} and its pictures.")


def load_surprises(folder: Path) -> Surprises:
    """What data_distance.py found, by task and choice of the data, a number for each draw."""
    found: Surprises = {}
    for path in sorted(folder.glob("*.json")):
        for of in records.load(path)["surprises"]:
            found.setdefault((path.stem, condition_of(Selection(**of["selection"]))), []).append(of["nats"])
    return found


def write(runs: Sequence[Run], others: Mapping[StudyName, Sequence[Run]], surprises: Surprises) -> str:
    """
    The page, as Markdown.

    :param runs: of the study ``preferences``
    :param others: of each of :data:`OTHERS`
    :param surprises: as :func:`load_surprises` gives them
    """
    sections = [
        _INTRODUCTION,
        _VERDICT,
        f"![What each has more than {RIVAL}]({PICTURE.as_posix()})",
        f"{_PLANE_TEXT}\n\n![Return against cost]({PLANE.as_posix()})",
        *(_of_task(runs, task) for task in tasks_of(runs)),
        _within(others["within"], surprises),
        _stopping(others["stopping"]),
        _checkpoints(others["checkpoints"]),
        _counterfactuals(others["counterfactuals"]),
        _how([*runs, *(run for study in OTHERS for run in others[study])]),
    ]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION = f"""# When does the preference term help?

SFT needs no preferences: it imitates the preferred episodes, from the reference's weights. PREFINE with the paper's
weights is nearly that: at the start 1.5% of its gradient (Safety-Gymnasium) or 9% (Bullet) come from the preference
term. So: with what data is there more to have, and with what weights?

Below, the data are made harder: fewer preferred episodes; preferred ones that earn less than the reference; mistaken
labels; dispreferred ones from the reference itself. *PREFINE* has the paper's weights for the suite: β = 0.05 and
λ = 1.6 (Safety-Gymnasium), which are also the defaults, 0.2 and 1.0 on Bullet. *bounded* is
`{BOUNDED_PREFINE}`:
a preference term that outweighs the supervised one, and whose log-ratios cannot run away."""


_VERDICT = """\
**In short** (of three seeds that are planned, each section says which it has):

- **The defaults stay the paper's weights.** With labels that are within the limits they keep the limit on all of ten
  tasks, with many and with few episodes; SFT fails in one of these twenty cases, *bounded* in four. It breaks the limit
  on three tasks, and from RL Zoo's SAC agent for HalfCheetah, where those two keep it. On SwimmerVelocity, and for that
  agent, the preferred episodes are far from anything that the reference does, and log-ratios that may not rise above 5
  do not get there. On CarCircle and BallCircle it stays nearer to a reference whose reward is what costs.
- *Many clean preferred episodes:* the preference term is not needed. SFT, PREFINE and bounded come out alike, or, as on
  BallCircle, on one line of return against cost, where the weights choose the place.
- *Few or poor ones, and a skill that can be lost:* here it helps, though not always. On HalfCheetah 9 of 33 runs of
  SFT and 10 of the paper's weights earn less than half of what they were shown, 5 of bounded: the gait is kept or lost.
  With ten of all safe episodes on ten tasks, whatever they earn, bounded earns more than SFT on four within the limit,
  and less on one. On DroneRun the paper's weights forget to fly in one run of three. It is not that training goes on
  for too long: where HalfCheetah's gait is lost, it is mostly gone at the first look, after 500 of 5,000 steps.
- *Mistaken labels:* the larger the preference term, the more harm they do. With 10% of them DPO and bounded cost about
  twice the limit on BallCircle; SFT and the paper's weights stay about within it.
- *DPO alone* can lose the return altogether: the supervised term is needed, if a small one.

So: begin with the defaults. If the cost is fine and the return has collapsed, and the preferred episodes are few or
poorer than what the policy earned, try `sft_coef=0.3, beta=1.0, log_ratio_bound=5.0`, and measure the cost before you
rely on it."""

_PLANE_TEXT = """\
Who earns more mostly costs more, too. So the same policies by their return and cost, a point for each choice of the
data: a method is better than another where its points lie to the upper left of the other's."""


def _of_task(runs: Sequence[Run], task: str) -> str:
    """Return and cost of everybody under every condition."""
    of_task = scores.select(runs, task=task)
    rows = []
    for selection in conditions(of_task):
        of_condition = [run for run in of_task if run.condition == selection]
        rows.append(
            [
                describe(selection),
                _of_data(of_condition),
                *(_raw(scores.select(of_condition, method=method)) for method in METHODS),
            ]
        )
    head = ["preferred episodes", "D_p", *map(_label, METHODS)]
    return (
        f"## {task}\n\nEpisode return / cost by the mode, {_means_over(of_task)}; the limit κ is "
        f"{distinct(format(run.kappa, 'g') for run in of_task)}, **bold** is safe.\n\n{table(head, rows)}\n\n"
        f"{_n_collapsed(of_task)}"
    )


def _n_collapsed(runs: Sequence[Run]) -> str:
    """Means over seeds hide it: a skill is kept or lost."""
    counts = []
    for method in METHODS:
        found = scores.select(runs, method=method)
        collapsed = sum(run.mean_return < run.record["preferred"]["reward"] / 2 for run in found)
        counts.append(f"{_label(method)} {collapsed} of {len(found)}")
    return f"Runs that earn less than half of what their preferred episodes do: {', '.join(counts)}."


def _within(runs: Sequence[Run], surprises: Surprises) -> str:
    """A row a task, and a group of columns for each choice of the data."""
    title = "## More tasks, and labels that are within the limits"
    if not runs:
        return f"{title}\n\nNot run yet: `python -m benchmarks run --study within`."
    study = STUDIES["within"]
    sections = []
    for selection in study.selections:
        found = [run for run in runs if run.condition == selection]
        rows = []
        for task in tasks_of(found):
            of_task = scores.select(found, task=task)
            of_methods = (_raw(scores.select(of_task, method=method)) for method in study.methods)
            nats = surprises.get((task, selection))
            far = "" if nats is None else f"{np.mean(nats):.1f}"
            rows.append([task, f"{of_task[0].kappa:g}", _of_data(of_task), far, *of_methods])
        head = ["task", "κ", "D_p", "nats", *map(_label, study.methods)]
        sections.append(f"{describe(selection)}:\n\n{table(head, rows)}\n\n{_against_rival(found, study.methods)}")
    tau = distinct(format(run.selection.tau, "g") for run in runs)
    numbers = f"Episode return / cost by the mode, {_means_over(runs)}; **bold** is safe. τ = {tau}."
    return "\n\n".join([title, f"{_WITHIN_TEXT} {numbers}", *sections, _n_safe(runs, study.methods)])


def _against_rival(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """On which tasks a method's return differs from the rival's by more than chance."""
    sentences = []
    for method in methods:
        if method in (REFERENCE, RIVAL):
            continue
        more, less = [], []
        for task in tasks_of(runs):
            ours, theirs = (scores.select(runs, task=task, method=m) for m in (method, RIVAL))
            if ours and theirs:
                _, low, high = scores.difference(ours, theirs, attrgetter("rewards"))
                name = task if mean_point(ours)[0] <= ours[0].kappa else f"{task} (over the limit)"
                more += [name] if low > 0 else []
                less += [name] if high < 0 else []
        sentences.append(f"*{_label(method)}* more on {', '.join(more) or 'none'}; less on {', '.join(less) or 'none'}")
    return f"Returns that differ from {RIVAL}'s (95% intervals): {'. '.join(sentences)}."


def _n_safe(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """How many pairs of a task and a choice of the data each method is safe in."""
    counts = []
    for method in methods:
        groups: dict[tuple[str, Selection], list[Run]] = {}
        for run in scores.select(runs, method=method):
            groups.setdefault((run.task.name, run.condition), []).append(run)
        safe = sum(mean_point(group)[0] <= group[0].kappa for group in groups.values())
        counts.append(f"{_label(method)} {safe} of {len(groups)}")
    return f"Within the limit: {', '.join(counts)}."


_WITHIN_TEXT = """\
Above, episodes of up to τ = 40 are called safe, and the limit of BallCircle is 20: whoever follows such labels well
breaks it. Here what is called safe is within the limit everywhere. *nats*: how much less likely D_p's actions are for
the reference than its own, over three draws (`python -m benchmarks data-distance`)."""


def _stopping(runs: Sequence[Run]) -> str:
    """Whether fewer steps would do as well."""
    if not runs:
        return f"{_STOPPING_TITLE}\n\nNot run yet: `python -m benchmarks run --study stopping`."
    picture = f"![Return and cost in training]({STOPPING.as_posix()})"
    return f"{_STOPPING_TITLE}\n\n{_STOPPING_TEXT} Seeds: {_seeds(runs)}.\n\n{picture}"


_STOPPING_TITLE = "## Is it only that training stops in time?"
_STOPPING_TEXT = """\
Return and cost in training, with few episodes, a line a run; the dashed line is the limit κ, the dotted one the mean of
D_p. On BallCircle each method goes to a place of its own within 500 steps and stays about there. HalfCheetah's gait is
kept or lost within them, and seldom found again; the poorest preferred episodes (one seed's ten earn 558) lose it for
all methods."""


def _checkpoints(runs: Sequence[Run]) -> str:
    """References that somebody else trained: a row for each, and for each choice of the data."""
    if not runs:
        return "## RL Zoo's checkpoints\n\nNot run yet: `python -m benchmarks run --study checkpoints`."
    study = STUDIES["checkpoints"]
    rows = []
    for task, reference, selection in product(tasks_of(runs), study.references, study.selections):
        found = [run for run in scores.select(runs, task=task, reference=reference) if run.condition == selection]
        if found:
            of_methods = (_raw(scores.select(found, method=method)) for method in study.methods)
            rows.append([task, reference.upper(), describe(selection), _of_data(found), *of_methods])
    head = ["task", "checkpoint", "preferred episodes", "D_p", *map(_label, study.methods)]
    return (
        f"## RL Zoo's checkpoints\n\n{_CHECKPOINTS_TEXT} Episode return / cost by the mode, {_means_over(runs)}; the "
        f"limit κ is {distinct(format(run.kappa, 'g') for run in runs)}, **bold** is safe.\n\n{table(head, rows)}"
    )


_CHECKPOINTS_TEXT = """\
References that are far from the data, and earn far more: they were trained for the return alone. The learning rate
and the steps are those of all others. They are too few for HalfCheetah's A2C agent, most of whose last hidden units
are saturated ([the README's](../README.md#real-checkpoints) has a larger rate and more steps), and from Walker2d's
SAC agent nobody gets within the limit. Walker2d's PPO agent reads a time that the data do not hold. (To run it,
`RL_TRAINED_AGENTS` names the folder of the checkpoints.)"""


def _counterfactuals(runs: Sequence[Run]) -> str:
    """Clearly safe episodes: a row for each method and kind of counterfactual."""
    if not runs:
        return "## Counterfactuals\n\nNot run yet: `python -m benchmarks run --study counterfactuals`."
    tasks = tasks_of(runs)
    tau = distinct(format(run.selection.tau, "g") for run in runs)
    rows = [["D_p", *(_of_data(scores.select(runs, task=task)) for task in tasks)]]
    for method in STUDIES["counterfactuals"].methods:
        cells = (_raw(scores.select(runs, method=method, task=task)) for task in tasks)
        rows.append([method.replace(BOUNDED_PREFINE, LABELS[BOUNDED_PREFINE]), *cells])
    return (
        "## Clearly safe episodes, and other counterfactuals\n\n"
        f"Episode return / cost with {describe(REFERENCE_FAILURES)}, and τ = {tau}. PREFINE and *bounded* draw one "
        "counterfactual a state from the policy itself, unless it says otherwise. By the mode, "
        f"{_means_over(runs)}.\n\n{table(['', *tasks], rows)}"
    )


def _means_over(runs: Sequence[Run]) -> str:
    return f"means over the seeds ({_seeds(runs)})"


def _seeds(runs: Sequence[Run]) -> str:
    """Studies are run seed by seed: not all of them have all."""
    return distinct(run.seed for run in runs)


def _of_data(runs: Sequence[Run]) -> str:
    """Return and cost of the preferred episodes."""
    data = [run.record["preferred"] for run in runs]
    return f"{np.mean([d['reward'] for d in data]):,.0f} / {np.mean([d['cost'] for d in data]):,.0f}"


def _label(method: str) -> str:
    return "π_ref" if method == REFERENCE else LABELS.get(method, method)


def _raw(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run"
    cost, reward = mean_point(runs)
    text = f"{reward:,.0f} / {cost:,.0f}"
    return f"**{text}**" if cost <= runs[0].kappa else text


def _how(runs: Sequence[Run]) -> str:
    records = [run.record for run in runs]
    commands = "".join(f"python -m benchmarks run --study {study} --executor joblib\n" for study in _STUDIES)
    return (
        f"## Make it again\n\n```bash\n{commands}python -m benchmarks data-distance\n"
        "python -m benchmarks preferences-page\n```\n\n"
        f"{distinct(format(r['budget']['steps'], ',') for r in records)} steps, each seed with a draw of its own, "
        f"{distinct(r['budget']['episodes'] for r in records)} episodes a seed. Intervals are 95%, of the difference "
        "between runs of the same seed, by bootstrap over the seeds and their episodes. "
        f"{distinct(r['date'] for r in records)}; "
        f"{distinct(r['processor'] for r in records)}; {versions(records)}."
    )
