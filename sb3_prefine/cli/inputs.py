"""Open the inputs that the options name: checkpoints and files of episodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sb3_prefine.cli.options import CheckpointOptions, DataOptions, SelectionOptions
from sb3_prefine.data.preferences import PreferenceBuffer
from sb3_prefine.data.trajectories import Trajectories
from sb3_prefine.reference.load import load_reference
from sb3_prefine.reference.reference import Reference


def open_policy(policy: str, options: CheckpointOptions) -> Reference:
    """
    Open a policy. The errors are those of ``load_reference``.

    :param policy: A path or name, as ``load_reference`` takes it.
    :param options: How to open it.
    :return: The policy.
    """
    normalizer: str | Literal[False] | None = options.normalizer
    # load_reference's messages recommend normalizer=False.
    if options.normalizer is not None and options.normalizer.lower() == "false":
        normalizer = False
    return load_reference(policy, options.spaces_env, options.algo, normalizer, options.trust)


def read_trajectories(paths: Sequence[Path], mmap: bool = False) -> Trajectories:
    """
    Read the episodes of several HDF5 files as one dataset, in the order of the files.

    :param paths: Paths of the files.
    :param mmap: Leave the data on disk, as in ``Trajectories.from_hdf5``.
    :return: The episodes.
    """
    return Trajectories.concatenate([Trajectories.from_hdf5(path, mmap=mmap) for path in paths])


def read_preferences(data: DataOptions, selection: SelectionOptions) -> PreferenceBuffer:
    """
    Read the preferred and the dispreferred episodes.

    :param data: The files.
    :param selection: How to select both sets from ``data.data``.
    :return: Both sets.
    :raises ValueError: If the options name neither two sets nor data with a cost limit.
    """
    if data.data and not (data.preferred or data.dispreferred):
        if data.cost_limit is None:
            raise ValueError("--cost-limit: --data needs it. Give the cost below which an episode is safe.")
        episodes = read_trajectories(data.data, data.mmap)
        return PreferenceBuffer.from_costs(episodes, data.cost_limit, seed=data.data_seed, **vars(selection))
    if data.data or not (data.preferred and data.dispreferred):
        raise ValueError(
            "--preferred, --dispreferred: the data are not complete. Give both, or --data and --cost-limit."
        )
    return PreferenceBuffer(
        read_trajectories(data.preferred, data.mmap), read_trajectories(data.dispreferred, data.mmap)
    )
