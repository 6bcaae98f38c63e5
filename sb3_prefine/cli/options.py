"""Options that several commands share."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from sb3_prefine.data.preferences import PreferenceBuffer
    from sb3_prefine.data.trajectories import Trajectories
    from sb3_prefine.reference.reference import Reference

_one_of_both = tyro.conf.create_mutex_group(required=False, title="how the policy acts")


@dataclass(frozen=True)
class Opening:
    """
    How a checkpoint is opened. Most need none of these.

    :param algo: RL Zoo's name of the algorithm that trained it: ppo, sac, ...
    :param normalizer: the pickled VecNormalize that the policy was trained behind, where it does not lie beside the
        checkpoint; "false" says that the policy saw raw observations
    :param spaces_env: an environment that gives the spaces, where the checkpoint does not tell them
    :param trust: unpickle what the file carries, as Stable-Baselines3 does: this runs its code
    """

    algo: str | None = None
    normalizer: str | None = None
    spaces_env: str | None = None
    trust: bool = False

    def open(self, policy: str) -> "Reference":
        """
        Open a policy, with the errors of ``load_reference``.

        :param policy: what ``load_reference`` takes as a text
        """
        from sb3_prefine.reference.load import load_reference

        normalizer: str | Literal[False] | None = self.normalizer
        # The word is that of load_reference's messages, which say: normalizer=False.
        if self.normalizer is not None and self.normalizer.lower() == "false":
            normalizer = False
        return load_reference(policy, self.spaces_env, self.algo, normalizer, self.trust)


@dataclass(frozen=True)
class Acting:
    """
    How the policy acts.

    :param deterministic: act by the mode of its distribution
    :param stochastic: act by samples of its distribution
    """

    deterministic: Annotated[bool, _one_of_both] = False
    stochastic: Annotated[bool, _one_of_both] = False

    def by_mode(self, default: bool) -> bool:
        """
        Whether the policy acts by its mode.

        :param default: of the command, where neither option was given
        """
        return self.deterministic or (default and not self.stochastic)


@dataclass(frozen=True)
class Selection:
    """
    How episodes are chosen by cost and return: the paper's way (section 5.1).

    :param n_preferred: preferred episodes, from the better half by return of those that cost less than the limit
    :param n_dispreferred: dispreferred episodes, from the costliest of the unsafe ones
    :param n_strata: return quantiles, each of which gives the same number of preferred episodes
    :param dispreferred_pool: how many of the costliest episodes the dispreferred ones are drawn from
    :param unsafe: over_limit draws dispreferred episodes from those at the limit or above it; top_cost from all that
        were not chosen as preferred, for data in which none breaks the limit
    """

    n_preferred: int = 100
    n_dispreferred: int = 20
    n_strata: int = 10
    dispreferred_pool: int = 100
    unsafe: Literal["over_limit", "top_cost"] = "over_limit"

    def choose(self, trajectories: "Trajectories", cost_limit: float, seed: int) -> "PreferenceBuffer":
        """Both sets, with the errors and warnings of ``PreferenceBuffer.from_costs``."""
        from sb3_prefine.data.preferences import PreferenceBuffer

        return PreferenceBuffer.from_costs(trajectories, cost_limit, seed=seed, **asdict(self))


@dataclass(frozen=True)
class Hyperparameters:
    """
    Of PREFINE, with the names and the defaults of its constructor.

    :param learning_rate: Adam's learning rate
    :param batch_size: transitions of each of the two sets in one gradient step
    :param beta: how strong the preference term is; 0 leaves supervised fine-tuning
    :param sft_coef: how strong the supervised term on the preferred data is; 0 leaves vanilla DPO
    :param loss_type: loss of the preference term; sigmoid is the paper's
    :param label_smoothing: the fraction of labels taken to be wrong, from 0 to below 0.5
    :param log_ratio_bound: bound each log-ratio x smoothly, as bound * tanh(x / bound); not given, none is bounded
    :param n_counterfactuals: counterfactual actions for each state, which the data's action is compared with
    :param counterfactuals: what they are sampled from: the current policy, or the reference
    :param log_std_min: the policy's log standard deviation is taken to be at least this
    :param fixed_std: take a TD3 or DDPG actor for the mean of a Gaussian with this standard deviation, in units of
        actions scaled to [-1, 1]
    :param temperature: take the Q-values of DQN or QR-DQN for the policy softmax(Q / temperature)
    :param max_grad_norm: clip the gradient's norm at this value; not given, it is not clipped
    :param buffer_size: with --mmap, the transitions that are in memory at a time
    """

    learning_rate: float = 3e-4
    batch_size: int = 256
    beta: float = 0.05
    sft_coef: float = 1.6
    loss_type: Literal["sigmoid", "sigmoid_norm", "robust", "hinge", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    log_ratio_bound: float | None = None
    n_counterfactuals: int = 1
    counterfactuals: Literal["policy", "reference"] = "policy"
    log_std_min: float = -5.0
    fixed_std: float | None = None
    temperature: float | None = None
    max_grad_norm: float | None = None
    buffer_size: int = 1_000_000


def read_trajectories(paths: Sequence[Path], mmap: bool = False) -> "Trajectories":
    """
    The episodes of several HDF5 files in one set, in the order given.

    :param paths: of the files
    :param mmap: as in ``Trajectories.from_hdf5``
    """
    from sb3_prefine.data.trajectories import Trajectories

    return Trajectories.concatenate([Trajectories.from_hdf5(path, mmap=mmap) for path in paths])


def check_outputs(*paths: Path | None, overwrite: bool) -> None:
    """
    Refuse outputs that cannot be written or would replace a file; to be asked before the work that makes them.

    :param paths: of the outputs; None is one that was not asked for
    :param overwrite: whether files that are there may be replaced
    :raises ValueError: two outputs have one path
    :raises OSError: names the path and what to do
    """
    outputs = [path for path in paths if path is not None]
    for path in outputs:
        if outputs.count(path) > 1:
            raise ValueError(f"{path} is the path of two outputs. Name another file for one of them.")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder. Name a file.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already. Name another file, or pass --overwrite to replace it.")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{path} cannot be written: {nearest} is a file, not a folder.")
        if not os.access(nearest, os.W_OK):
            raise PermissionError(f"{path} cannot be written: {nearest} may not be written to.")
