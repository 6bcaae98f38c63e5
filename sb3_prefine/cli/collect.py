"""``sb3-prefine collect``."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sb3_prefine.cli.options import Acting, Opening, check_outputs

if TYPE_CHECKING:
    from sb3_prefine.reference.reference import Reference


def collect(
    policy: tyro.conf.Positional[str],
    env: tyro.conf.Positional[str],
    acting: Acting,
    opening: Opening,
    *,
    out: Path,
    episodes: int = 20,
    scales: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--scale"])] = (1.0,),
    cost_limit: float | None = None,
    seed: int = 0,
    n_envs: int = 32,
    n_workers: int = 1,
    overwrite: bool = False,
) -> None:
    """
    Roll a policy out into an HDF5 file in DSRL's layout.

    Safe episodes are often a scaled action away: a robot that runs too fast runs slower with 0.7 of its actions.
    Without --deterministic the policy samples its actions.

    The policy's own episodes, and those of slower gaits:
      sb3-prefine collect ppo/HalfCheetah-v3 SpeedLimitHalfCheetah-v0 --out own.hdf5
      sb3-prefine collect ppo/HalfCheetah-v3 SpeedLimitHalfCheetah-v0 --out slower.hdf5 --scales 0.64 0.66 0.68

    :param policy: a zip, an RL-Zoo folder, a name like ppo/HalfCheetah-v3 in the folder that the environment variable
        RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub
    :param env: an environment's id, or "module:id" to import a module of yours first; `sb3-prefine envs` lists some
    :param out: the HDF5 file to write
    :param episodes: how many episodes to record for each scale
    :param scales: factors on the actions, which are clipped afterwards; all start from the same initial states
    :param cost_limit: show the share of episodes that cost more
    :param seed: the same seed gives the same episodes
    :param n_envs: environments to make; 16 for each process take the least time a step
    :param n_workers: processes that step them; the episodes are the same
    :param overwrite: replace the file if it is there
    """
    check_outputs(out, overwrite=overwrite)
    from sb3_prefine import __version__
    from sb3_prefine.data.trajectories import Trajectories
    from sb3_prefine.evaluation.tables import data_table, print_table
    from sb3_prefine.rollout.collect import collect as roll_out

    reference = opening.open(policy)
    _check_scales(scales, reference)
    deterministic = acting.by_mode(default=False)
    sets = []
    for scale in scales:
        recorded = roll_out(
            reference,
            env,
            episodes,
            n_envs=n_envs,
            n_workers=n_workers,
            deterministic=deterministic,
            seed=seed,
            action_transform=_scaled_by(scale),
        )
        sets.append((f"scale {scale:g}", recorded))
    everything = Trajectories.concatenate([recorded for _, recorded in sets])
    everything.to_hdf5(
        out,
        attributes={
            "made_by": f"sb3-prefine {__version__} collect",
            "policy": policy,
            "env": env,
            "episodes_of_each_scale": episodes,
            "scales": " ".join(f"{scale:g}" for scale in scales),
            "deterministic": deterministic,
            "seed": seed,
        },
    )
    print_table(data_table(sets if len(sets) == 1 else [*sets, ("all", everything)], cost_limit))
    print(f"Wrote {out}: {everything.n_transitions:,} transitions.")


def _check_scales(scales: tuple[float, ...], reference: "Reference") -> None:
    from gymnasium.spaces import Box

    if not scales or len(set(scales)) < len(scales):
        raise ValueError("--scales: give one or more factors, each once.")
    for scale in scales:
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"--scales: {scale:g} is not a factor of 0 or more.")
    if scales != (1.0,) and not isinstance(reference.action_space, Box):
        raise ValueError(
            f"--scales: the policy's actions are {reference.action_space}, and only continuous ones can be scaled."
        )


def _scaled_by(scale: float) -> Callable[[Any], Any] | None:
    return None if scale == 1.0 else lambda actions: scale * actions
