"""``sb3-prefine split``."""

from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.cli.options import SelectionOptions
from sb3_prefine.cli.outputs import check_outputs


def split(
    data: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="DATA [DATA ...]", help_behavior_hint="(required)"),
    ],
    selection: SelectionOptions,
    *,
    cost_limit: float,
    out: Path,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """
    Select preferred and dispreferred episodes by their cost and return.

    Writes preferred.hdf5 and dispreferred.hdf5. If your notion of good and bad is not a number, write the two files
    yourself: `train` takes any two.

    From two recordings, and from a file of DSRL:
      sb3-prefine split own.hdf5 slower.hdf5 --cost-limit 25 --n-preferred 20 --n-dispreferred 10 --out chosen
      sb3-prefine split SafetyBallRun-v0-80-940.hdf5 --cost-limit 40 --out chosen

    :param data: HDF5 files in DSRL's layout, from one environment. Their episodes are treated as one dataset.
    :param cost_limit: Episodes that cost less are safe, the others are unsafe.
    :param out: The folder for the two files. It is created if it does not exist.
    :param seed: Seed of the selection.
    :param overwrite: Replace existing files.
    """
    paths = {name: out / f"{name}.hdf5" for name in ("preferred", "dispreferred")}
    if not data:
        raise ValueError("data: no files were given. Name one or more HDF5 files.")
    check_outputs(*paths.values(), overwrite=overwrite)

    from sb3_prefine import __version__
    from sb3_prefine.cli.inputs import read_trajectories
    from sb3_prefine.data.preferences import PreferenceBuffer
    from sb3_prefine.evaluation.tables import data_table, print_table

    episodes = read_trajectories(data)
    preferences = PreferenceBuffer.from_costs(episodes, cost_limit, seed=seed, **vars(selection))
    for name, path in paths.items():
        getattr(preferences, name).to_hdf5(
            path,
            attributes={
                "made_by": f"sb3-prefine {__version__} split",
                "data": " ".join(str(source) for source in data),
                "episodes": " ".join(str(index) for index in getattr(preferences, f"{name}_ids")),
                "cost_limit": cost_limit,
                "seed": seed,
            },
        )
    datasets = [("data", episodes), ("preferred", preferences.preferred), ("dispreferred", preferences.dispreferred)]
    print_table(data_table(datasets, cost_limit))
    print(f"Wrote {paths['preferred']} and {paths['dispreferred']}.")
