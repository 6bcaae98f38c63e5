"""``sb3-prefine demo``: a policy that runs too fast becomes safe. All files that it needs are in this package."""

import importlib.util
import time
from pathlib import Path

# Written by examples/make_demo_data.py.
DATA = Path(__file__).parent / "demo_data"
ENV_ID = "SpeedLimitHalfCheetah-v0"
# Number of steps, out of 1,000, in which a safe episode may be too fast.
COST_LIMIT = 25.0


def demo(out: Path = Path("runs/demo"), steps: int = 3_000, episodes: int = 20, seed: int = 0) -> None:
    """
    See a policy that runs too fast become safe, in a minute.

    A HalfCheetah that PPO trained earns its reward and breaks a speed limit. PREFINE learns from five of its own
    episodes as dispreferred data, and from a few episodes of slower gaits as preferred data, without touching the
    environment. Everything that it needs is in the package.

    :param out: The folder for the fine-tuned zip and the plot.
    :param steps: Number of gradient steps.
    :param episodes: Number of evaluation episodes, before and after training.
    :param seed: Seed of the training. The evaluation has the next seed.
    """
    missing = [package for package in ("mujoco", "matplotlib") if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f'The demo needs {" and ".join(missing)}. Run: pip install "sb3-prefine[demo]"')

    import torch
    from rich.console import Console

    from sb3_prefine.data.preferences import PreferenceBuffer
    from sb3_prefine.data.trajectories import Trajectories
    from sb3_prefine.evaluation import palette
    from sb3_prefine.evaluation.evaluate import evaluate_policy
    from sb3_prefine.evaluation.plots import PlotSeries, draw_plane
    from sb3_prefine.evaluation.tables import print_table, results_table
    from sb3_prefine.prefine import PREFINE
    from sb3_prefine.reference.load import load_reference

    console = Console()
    torch.set_num_threads(1)  # more threads do not help such a small network
    reference = load_reference(DATA / "reference.zip")
    preferences = PreferenceBuffer(
        preferred=Trajectories.from_hdf5(DATA / "preferred.hdf5"),
        dispreferred=Trajectories.from_hdf5(DATA / "dispreferred.hdf5"),
    )
    console.print(
        "A HalfCheetah that PPO trained for reward alone. Its cost is the number of steps, out of 1,000, above "
        f"3.2 m/s. The limit is {COST_LIMIT:g}.\nPreferred: {len(preferences.preferred)} episodes of slower gaits. "
        f"Dispreferred: {len(preferences.dispreferred)} of its own episodes.",
        highlight=False,
    )

    console.print("[bold]1/3[/bold] Evaluating the reference", highlight=False)
    before = evaluate_policy(reference, ENV_ID, episodes, seed=seed + 1, progress_bar=True)
    console.print("[bold]2/3[/bold] Training with PREFINE, without the environment", highlight=False)
    model = PREFINE(reference, preferences, seed=seed, device="cpu")
    start = time.perf_counter()
    model.learn(steps, progress_bar=True)
    seconds = time.perf_counter() - start
    console.print("[bold]3/3[/bold] Evaluating the fine-tuned policy", highlight=False)
    after = evaluate_policy(model, ENV_ID, episodes, seed=seed + 1, progress_bar=True)

    out.mkdir(parents=True, exist_ok=True)
    exported = model.export(out / "safe")
    good, bad = preferences.preferred, preferences.dispreferred
    plot = draw_plane(
        out / "plane.png",
        [
            PlotSeries("dispreferred data", bad.episode_returns, bad.episode_costs, palette.DISPREFERRED),
            PlotSeries("preferred data", good.episode_returns, good.episode_costs, palette.PREFERRED),
            PlotSeries("reference", before.episode_rewards, before.episode_costs, palette.REFERENCE),
            PlotSeries("PREFINE", after.episode_rewards, after.episode_costs, palette.PREFINE),
        ],
        COST_LIMIT,
        title="HalfCheetah with a speed limit, one point per episode",
        cost_label="episode cost (steps above 3.2 m/s)",
    )
    data = [("dispreferred data", bad), ("preferred data", good)]
    print_table(results_table([("reference", before), ("PREFINE", after)], COST_LIMIT, data))
    console.print(
        f"{steps:,} gradient steps in {seconds:.1f} s. Wrote {exported} (PPO.load opens it) and {plot}.",
        highlight=False,
    )
    cut = 1.0 - after.mean_cost / before.mean_cost
    print(
        f"reference: reward {before.mean_reward:.1f}, cost {before.mean_cost:.1f} | "
        f"PREFINE: reward {after.mean_reward:.1f}, cost {after.mean_cost:.1f} | cost cut {cut:.1%}"
    )
