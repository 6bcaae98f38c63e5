"""``sb3-prefine info``."""

from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.cli.options import CHECKPOINT, CheckpointOptions

DATA_SUFFIXES = (".hdf5", ".h5")


def info(
    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=f"An HDF5 file of episodes, or {CHECKPOINT}.")],
    checkpoint: CheckpointOptions,
) -> None:
    """
    Describe a checkpoint or an HDF5 file of episodes.

    For a checkpoint: its algorithm, spaces and network, the likelihood of its actions or why PREFINE cannot train it,
    its normaliser and env wrappers, and whether it opens without unpickling (if not, pass --trust to describe it). For
    an HDF5 file: its datasets, and the distributions of the returns, costs and lengths of its episodes.

    A checkpoint, and a file of episodes:
      sb3-prefine info ppo/HalfCheetah-v3
      sb3-prefine info own.hdf5
    """
    import h5py

    from sb3_prefine.cli.describe_checkpoint import describe_checkpoint
    from sb3_prefine.cli.describe_data import describe_data

    path = Path(file)
    if path.suffix in DATA_SUFFIXES or (path.is_file() and h5py.is_hdf5(path)):
        describe_data(path)
    else:
        describe_checkpoint(file, checkpoint)
