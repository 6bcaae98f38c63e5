"""``sb3-prefine collect``."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from sb3_prefine.cli.options import CheckpointOptions, EnvArgument, PolicyArgument, RolloutOptions
from sb3_prefine.cli.outputs import check_outputs

_ROLLOUT = RolloutOptions(episodes=20)


def collect(
    policy: PolicyArgument,
    env: EnvArgument,
    *,
    out: Path,
    scales: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--scale"])] = (1.0,),
    cost_limit: float | None = None,
    overwrite: bool = False,
    rollout: RolloutOptions = _ROLLOUT,
    checkpoint: CheckpointOptions,
) -> None:
    """
    Record episodes of a policy in an HDF5 file in DSRL's layout.

    Scaling the actions of an unsafe policy often gives safe episodes: a robot that runs too fast runs slower with 0.7
    of its actions. Scaled actions are clipped to the action space. The policy samples its actions, unless you
    pass --deterministic.

    The policy's own episodes, and episodes of slower gaits:
      sb3-prefine collect ppo/HalfCheetah-v3 SpeedLimitHalfCheetah-v0 --out own.hdf5
      sb3-prefine collect ppo/HalfCheetah-v3 SpeedLimitHalfCheetah-v0 --out slower.hdf5 --scales 0.64 0.66 0.68

    :param out: The HDF5 file to write.
    :param scales: Factors on the actions. --episodes is the number for each factor, from the same initial states.
    :param cost_limit: Show the share of episodes that cost more than this.
    :param overwrite: Replace an existing file.
    """
    check_outputs(out, overwrite=overwrite)
    if not scales or len(set(scales)) < len(scales):
        raise ValueError(f"--scales: found {scales}. Give one or more factors, each once.")
    for scale in scales:
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"--scales: {scale:g} is not a factor. Give factors of 0 or more.")

    from gymnasium.spaces import Box

    from sb3_prefine import __version__
    from sb3_prefine.cli.inputs import open_policy
    from sb3_prefine.data.trajectories import Trajectories
    from sb3_prefine.evaluation.tables import data_table, print_table
    from sb3_prefine.rollout.collect import collect as collect_episodes

    reference = open_policy(policy, checkpoint)
    if scales != (1.0,) and not isinstance(reference.action_space, Box):
        raise ValueError(f"--scales: the actions are {reference.action_space}. Scale continuous actions only.")
    deterministic = rollout.is_deterministic(default=False)
    datasets = []
    for scale in scales:
        episodes = collect_episodes(
            reference,
            env,
            rollout.episodes,
            n_envs=rollout.n_envs,
            n_workers=rollout.n_workers,
            deterministic=deterministic,
            seed=rollout.seed,
            action_transform=_scaled_by(scale),
        )
        datasets.append((f"scale {scale:g}", episodes))
    everything = Trajectories.concatenate([episodes for _, episodes in datasets])
    everything.to_hdf5(
        out,
        attributes={
            "made_by": f"sb3-prefine {__version__} collect",
            "policy": policy,
            "env": env,
            "episodes_of_each_scale": rollout.episodes,
            "scales": " ".join(f"{scale:g}" for scale in scales),
            "deterministic": deterministic,
            "seed": rollout.seed,
        },
    )
    print_table(data_table(datasets if len(datasets) == 1 else [*datasets, ("all", everything)], cost_limit))
    print(f"Wrote {out}: {everything.n_transitions:,} transitions.")


def _scaled_by(scale: float) -> Callable[[Any], Any] | None:
    return None if scale == 1.0 else lambda actions: scale * actions
