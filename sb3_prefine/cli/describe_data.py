"""What ``sb3-prefine info`` says of an HDF5 file."""

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
    Print what an HDF5 file of episodes holds.

    :raises OSError: it cannot be read
    :raises ValueError: it holds no ``Trajectories``
    """
    trajectories = Trajectories.from_hdf5(path)
    print(f"{path}: {len(trajectories):,} episodes, {trajectories.n_transitions:,} transitions")
    print_table(_datasets(path))
    print_table(_distributions(trajectories))
    with h5py.File(path, "r") as file:
        for name, value in file.attrs.items():
            print(f"{name}: {_plain(value)}")


def histogram(values: np.ndarray, n_bins: int = _N_BINS) -> str:
    """
    Bars of a line's height: how many values lie in each of ``n_bins`` equal parts between the lowest and the highest.

    The fullest part has the highest bar; the lowest bar stands for at least one value, a blank for none.

    :param values: (n,), finite
    """
    counts, _ = np.histogram(values, bins=n_bins)
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _datasets(path: Path) -> Table:
    """As they lie in the file, also those that are not read."""
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


def _plain(value: Any) -> str:
    """An attribute: h5py gives NumPy scalars and arrays, older files hold bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
