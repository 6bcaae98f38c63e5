"""``sb3-prefine demo``: a policy that runs too fast becomes safe, with everything that is needed in the package."""

import importlib.util
import time
from pathlib import Path

import torch
from rich.console import Console

from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.evaluation import palette
from sb3_prefine.evaluation.evaluate import Evaluation, evaluate_policy
from sb3_prefine.evaluation.plots import PlotSeries, draw_plane
from sb3_prefine.evaluation.tables import print_table, results_table
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.load import load_reference

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
    good, bad = preferences.preferred, preferences.dispreferred
    picture = draw_plane(
        out / "plane.png",
        [
            PlotSeries("dispreferred data", bad.episode_returns, bad.episode_costs, palette.DISPREFERRED),
            PlotSeries("preferred data", good.episode_returns, good.episode_costs, palette.PREFERRED),
            PlotSeries("reference", before.episode_rewards, before.episode_costs, palette.REFERENCE),
            PlotSeries("PREFINE", after.episode_rewards, after.episode_costs, palette.PREFINE),
        ],
        COST_LIMIT,
        title="HalfCheetah with a speed limit, one point an episode",
        cost_label="episode cost (steps above 3.2 m/s)",
    )
    data = [("dispreferred data", bad), ("preferred data", good)]
    print_table(results_table([("reference", before), ("PREFINE", after)], COST_LIMIT, data))
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
