"""``sb3-prefine split``."""

from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.cli.options import Selection, check_outputs, read_trajectories


def split(
    data: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="DATA [DATA ...]", help_behavior_hint="(required)"),
    ],
    selection: Selection,
    *,
    cost_limit: float,
    out: Path,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """
    Choose preferred and dispreferred episodes by their cost and return.

    Writes preferred.hdf5 and dispreferred.hdf5. If good and bad are a human judgement and not a number, write the two
    files yourself: `train` takes any two.

    From two recordings, and from a file of DSRL:
      sb3-prefine split own.hdf5 slower.hdf5 --cost-limit 25 --n-preferred 20 --n-dispreferred 10 --out chosen
      sb3-prefine split SafetyBallRun-v0-80-940.hdf5 --cost-limit 40 --out chosen

    :param data: HDF5 files in DSRL's layout, of one environment; their episodes are taken together
    :param cost_limit: episodes that cost less are safe, the others unsafe
    :param out: the folder for the two files, made if it is not there
    :param seed: the same seed chooses the same episodes
    :param overwrite: replace the two files if they are there
    """
    paths = {name: out / f"{name}.hdf5" for name in ("preferred", "dispreferred")}
    if not data:
        raise ValueError("split: there are no data. Name one or more HDF5 files.")
    check_outputs(*paths.values(), overwrite=overwrite)
    from sb3_prefine import __version__
    from sb3_prefine.evaluation.tables import data_table, print_table

    trajectories = read_trajectories(data)
    chosen = selection.choose(trajectories, cost_limit, seed)
    for name, path in paths.items():
        getattr(chosen, name).to_hdf5(
            path,
            attributes={
                "made_by": f"sb3-prefine {__version__} split",
                "data": " ".join(str(source) for source in data),
                "episodes": " ".join(str(index) for index in getattr(chosen, f"{name}_ids")),
                "cost_limit": cost_limit,
                "seed": seed,
            },
        )
    sets = [("data", trajectories), ("preferred", chosen.preferred), ("dispreferred", chosen.dispreferred)]
    print_table(data_table(sets, cost_limit))
    print(f"Wrote {paths['preferred']} and {paths['dispreferred']}.")
