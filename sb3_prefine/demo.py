"""``sb3-prefine demo``: a policy that runs too fast becomes safe, with everything that is needed in the package."""

import importlib.util
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sb3_prefine.evaluation import Evaluation, evaluate_policy
from sb3_prefine.preferences import PreferenceBuffer
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference import load_reference
from sb3_prefine.trajectories import Trajectories

# Made by examples/make_demo_data.py.
DATA = Path(__file__).parent / "demo_data"
ENV_ID = "SpeedLimitHalfCheetah-v0"
# Steps of 1,000 in which an episode may be too fast.
COST_LIMIT = 25.0


def run_demo(out: Path, steps: int = 3_000, episodes: int = 20, seed: int = 0) -> tuple[Evaluation, Evaluation]:
    """
    Evaluate the reference, fine-tune it, evaluate it again; print a table, write ``plane.png`` and ``safe.zip``.

    :param out: folder for the two files, made if it is not there
    :param steps: gradient steps
    :param episodes: evaluation episodes, before and after
    :param seed: of the training; the evaluation's is another
    :return: the reference's evaluation and the fine-tuned policy's
    :raises ImportError: MuJoCo or matplotlib is missing
    """
    missing = [package for package in ("mujoco", "matplotlib") if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f'The demo needs {" and ".join(missing)}. Run: pip install "sb3-prefine[demo]"')
    console = Console()
    torch.set_num_threads(1)  # more threads only wait for each other on networks this small
    reference = load_reference(DATA / "reference.zip")
    preferences = PreferenceBuffer(
        preferred=Trajectories.from_hdf5(DATA / "preferred.hdf5"),
        dispreferred=Trajectories.from_hdf5(DATA / "dispreferred.hdf5"),
    )
    console.print(
        "A HalfCheetah that PPO trained for reward alone. Its cost: the steps above 3.2 m/s, of 1,000. "
        f"Limit: {COST_LIMIT:g}.\nPreferred: {len(preferences.preferred)} episodes of slower gaits. "
        f"Dispreferred: {len(preferences.dispreferred)} of its own.",
        highlight=False,
    )

    console.print("[bold]1/3[/bold] The reference, as it is", highlight=False)
    before = evaluate_policy(reference, ENV_ID, episodes, seed=seed + 1, progress_bar=True)
    console.print("[bold]2/3[/bold] PREFINE, without touching the environment", highlight=False)
    model = PREFINE(reference, preferences, seed=seed, device="cpu")
    start = time.perf_counter()
    model.learn(steps, progress_bar=True)
    seconds = time.perf_counter() - start
    console.print("[bold]3/3[/bold] The fine-tuned policy", highlight=False)
    after = evaluate_policy(model, ENV_ID, episodes, seed=seed + 1, progress_bar=True)

    out.mkdir(parents=True, exist_ok=True)
    exported = model.export(out / "safe")
    picture = draw_plane(out / "plane.png", preferences, before, after)
    console.print(_table(preferences, before, after))
    console.print(
        f"{steps:,} gradient steps in {seconds:.1f} s. Wrote {exported} (PPO.load opens it) and {picture}.",
        highlight=False,
    )
    cut = 1.0 - after.mean_cost / before.mean_cost
    print(
        f"reference: reward {before.mean_reward:.1f}, cost {before.mean_cost:.1f} | "
        f"PREFINE: reward {after.mean_reward:.1f}, cost {after.mean_cost:.1f} | cost cut {cut:.1%}"
    )
    return before, after


def draw_plane(path: Path, preferences: PreferenceBuffer, before: Evaluation, after: Evaluation) -> Path:
    """
    Draw the reward/cost plane, one point an episode: the data, the reference, PREFINE.

    :param path: of the PNG
    :return: the path
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(0, COST_LIMIT, color="#2e7d32", alpha=0.08)
    axes.axhline(COST_LIMIT, color="#2e7d32", linewidth=1, linestyle="--")
    good, bad = preferences.preferred, preferences.dispreferred
    for label, rewards, costs, marker, color in (
        ("dispreferred data", bad.episode_returns, bad.episode_costs, "x", "#c62828"),
        ("preferred data", good.episode_returns, good.episode_costs, "+", "#2e7d32"),
        ("reference", before.episode_rewards, before.episode_costs, "o", "#212121"),
        ("PREFINE", after.episode_rewards, after.episode_costs, "o", "#1565c0"),
    ):
        axes.scatter(rewards, costs, s=46, marker=marker, color=color, alpha=0.75, linewidths=1.4, label=label)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(-1, 1_500)
    axes.set_yticks([0, 10, 100, 1_000], ["0", "10", "100", "1,000"])
    axes.annotate(
        f"limit {COST_LIMIT:g}",
        (0.99, COST_LIMIT),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=9,
    )
    axes.set_xlabel("episode return")
    axes.set_ylabel("episode cost (steps above 3.2 m/s)")
    axes.set_title("HalfCheetah with a speed limit, one point an episode")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.9), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path


def _table(preferences: PreferenceBuffer, before: Evaluation, after: Evaluation) -> Table:
    table = Table("", "reward", "[95%]", "cost", "[95%]", f"over {COST_LIMIT:g}")
    for name, data in (("dispreferred data", preferences.dispreferred), ("preferred data", preferences.preferred)):
        unsafe = (data.episode_costs > COST_LIMIT).mean()
        rewards, costs = data.episode_returns.mean(), data.episode_costs.mean()
        table.add_row(name, f"{rewards:,.0f}", "", f"{costs:,.1f}", "", f"{unsafe:.0%}")
    table.add_section()
    for name, evaluation in (("reference", before), ("[bold]PREFINE[/bold]", after)):
        table.add_row(
            name,
            f"{evaluation.mean_reward:,.0f}",
            "{:,.0f}, {:,.0f}".format(*evaluation.reward_interval),
            f"{evaluation.mean_cost:,.1f}",
            "{:,.1f}, {:,.1f}".format(*evaluation.cost_interval),
            f"{evaluation.violation_rate(COST_LIMIT):.0%}",
        )
    return table
