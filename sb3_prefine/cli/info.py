"""``sb3-prefine info``."""

from pathlib import Path

import tyro

from sb3_prefine.cli.options import Opening

DATA_SUFFIXES = (".hdf5", ".h5")


def info(file: tyro.conf.Positional[str], opening: Opening) -> None:
    """
    Describe a checkpoint or an HDF5 file of episodes.

    Of a checkpoint: its algorithm, spaces and network, how PREFINE scores its actions or why it cannot, its normaliser
    and env wrappers, and whether it opens without unpickling; one that does not is described with --trust. Of an HDF5
    file: its datasets, and how returns, costs and lengths of its episodes are distributed.

    Of a checkpoint, and of a file of episodes:
      sb3-prefine info ppo/HalfCheetah-v3
      sb3-prefine info own.hdf5

    :param file: an HDF5 file, a zip, an RL-Zoo folder, a name like ppo/HalfCheetah-v3 in the folder that the
        environment variable RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub
    """
    if _holds_data(Path(file)):
        from sb3_prefine.cli.describe_data import describe_data

        describe_data(Path(file))
    else:
        from sb3_prefine.cli.describe_checkpoint import describe_checkpoint

        describe_checkpoint(file, opening)


def _holds_data(path: Path) -> bool:
    import h5py

    return path.suffix in DATA_SUFFIXES or (path.is_file() and bool(h5py.is_hdf5(path)))
