"""The description of an HDF5 file for ``sb3-prefine info``."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.table import Table

from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.evaluation.tables import print_table, text_table

_N_BINS = 24
_BARS = " ▁▂▃▄▅▆▇█"


def describe_data(path: Path) -> None:
    """
    Print the description of an HDF5 file of episodes.

    :param path: Path of the file.
    :raises OSError: If the file cannot be read.
    :raises ValueError: If the file does not contain valid ``Trajectories``.
    """
    trajectories = Trajectories.from_hdf5(path)
    print(f"{path}: {len(trajectories):,} episodes, {trajectories.n_transitions:,} transitions")
    print_table(_datasets(path))
    print_table(_distributions(trajectories))
    with h5py.File(path, "r") as file:
        for name, value in file.attrs.items():
            print(f"{name}: {_attribute_text(value)}")


def histogram(values: np.ndarray, n_bins: int = _N_BINS) -> str:
    """
    Draw a histogram in one line of text, with a bar for each bin.

    The bins divide the range from the lowest to the highest value into equal parts. The fullest bin has the highest
    bar, the lowest bar means at least one value, and a blank means no value.

    :param values: Finite values, (n,).
    :param n_bins: Number of bins.
    :return: ``n_bins`` characters.
    """
    counts, _ = np.histogram(values, bins=n_bins)
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _datasets(path: Path) -> Table:
    """All datasets of the file, including those that ``Trajectories`` does not read."""
    rows = []

    def add(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            rows.append((name, str(entry.shape), str(entry.dtype)))

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return text_table(("dataset", "shape", "dtype"), rows, n_texts=3)


def _distributions(trajectories: Trajectories) -> Table:
    columns = (
        ("return", trajectories.episode_returns, 1),
        ("cost", trajectories.episode_costs, 1),
        ("length", trajectories.episode_lengths, 0),
    )
    headers = ("episode", "lowest", "10%", "median", "90%", "highest", "mean", "from lowest to highest")
    return text_table(headers, [_distribution(*column) for column in columns])


def _distribution(name: str, values: np.ndarray, decimals: int) -> tuple[str, ...]:
    known = values[~np.isnan(values)]
    if not len(known):
        return name, "unknown"
    label = name if len(known) == len(values) else f"{name} ({len(values) - len(known):,} unknown)"
    numbers = [*np.quantile(known, (0.0, 0.1, 0.5, 0.9, 1.0)), known.mean()]
    return label, *(f"{number:,.{decimals}f}" for number in numbers), histogram(known)


def _attribute_text(value: Any) -> str:
    """The text of an attribute, which may be a NumPy scalar, an array, or bytes in older files."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
