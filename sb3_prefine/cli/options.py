"""The options that commands share, in groups as ``--help`` shows them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sb3_prefine.utils.signatures import NOT_HYPERPARAMETERS, options_from

# How an argument may name a checkpoint.
CHECKPOINT = (
    "a zip, an RL-Zoo folder, a name like ppo/HalfCheetah-v3 in the folder that the environment variable "
    "RL_TRAINED_AGENTS names, or hf://OWNER/REPO on the Hugging Face Hub"
)
PolicyArgument = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=f"The checkpoint: {CHECKPOINT}.")]
EnvArgument = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(
        help='The id of an environment. "module:id" imports a module of yours first. `sb3-prefine envs` lists the '
        "environments of this package."
    ),
]
# Without tyro's "(default: )": an empty list means that no file was given.
_Files = Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")]
_one_of_both = tyro.conf.create_mutex_group(required=False, title="how the policy chooses its actions")


@dataclass(frozen=True)
class CheckpointOptions:
    """
    How to open the checkpoint. Most checkpoints need none of these options.

    :param algo: RL Zoo's name of the algorithm that trained the policy: ppo, sac, ...
    :param normalizer: The pickled VecNormalize that the policy was trained with, if it is not next to the checkpoint.
        Pass "false" if the policy was trained on raw observations.
    :param spaces_env: An environment with the policy's spaces, if the checkpoint does not contain them.
    :param trust: Unpickle the file's contents, as Stable-Baselines3 does. This runs code from the file.
    """

    algo: str | None = None
    normalizer: str | None = None
    spaces_env: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class RolloutOptions:
    """
    How to run episodes.

    :param episodes: Number of episodes.
    :param n_envs: Number of environments. A step takes the least time with 16 environments per process.
    :param n_workers: Number of processes that step the environments. The episodes do not depend on it.
    :param seed: Seed of the episodes.
    :param deterministic: Choose the mode of the policy's distribution.
    :param stochastic: Sample from the policy's distribution.
    """

    episodes: int = 100
    n_envs: int = 32
    n_workers: int = 1
    seed: int = 0
    deterministic: Annotated[bool, _one_of_both] = False
    stochastic: Annotated[bool, _one_of_both] = False

    def is_deterministic(self, default: bool) -> bool:
        """
        Tell whether the policy acts deterministically.

        :param default: The command's choice, if neither option was given.
        """
        return self.deterministic or (default and not self.stochastic)


@options_from("sb3_prefine.data.preferences", "PreferenceBuffer.from_costs", omit={"seed"})
class SelectionOptions:
    """
    How to select episodes by their cost and return, as in section 5.1 of the paper.

    :param n_preferred: Number of preferred episodes. They come from the better half, by return, of the episodes that
        cost less than the limit.
    :param n_dispreferred: Number of dispreferred episodes. They come from the costliest of the unsafe episodes.
    :param n_strata: Number of return quantiles. Each gives the same number of preferred episodes.
    :param dispreferred_pool: Number of the costliest episodes from which the dispreferred ones are drawn.
    :param unsafe: Where the dispreferred episodes come from. over_limit: from the episodes at or above the limit.
        top_cost: from all that are not preferred, for data without an episode at or above the limit.
    """


@options_from(
    "sb3_prefine.prefine",
    "PREFINE.__init__",
    # The first is a dictionary, the second is not used.
    omit={*NOT_HYPERPARAMETERS, "optimizer_kwargs", "stats_window_size"},
)
class Hyperparameters:
    """
    Hyperparameters of PREFINE, as in its constructor.

    :param learning_rate: Learning rate of Adam.
    :param buffer_size: With --mmap, the number of transitions in memory at a time.
    """


@dataclass(frozen=True)
class DataOptions:
    """
    What to learn from: --preferred and --dispreferred, or --data and --cost-limit.

    :param preferred: HDF5 files with episodes that the policy should imitate.
    :param dispreferred: HDF5 files with episodes that the policy should avoid.
    :param data: HDF5 files from which both sets are selected, by cost and return.
    :param cost_limit: Episodes of --data that cost less are safe, the others are unsafe.
    :param data_seed: Seed of the selection from --data.
    :param mmap: Leave the data on disk, for data larger than the memory. A compressed file is decompressed once, into a
        copy next to it.
    """

    preferred: _Files = ()
    dispreferred: _Files = ()
    data: _Files = ()
    cost_limit: float | None = None
    data_seed: int = 0
    mmap: bool = False


@dataclass(frozen=True)
class EarlyStoppingOptions:
    """
    When to stop before --steps. This needs no environment.

    :param held_out: Fraction of the episodes of each set that is held out. Training stops when the loss on these
        episodes no longer falls, and restores the weights with the lowest loss. 0 makes all steps on all episodes.
    :param patience: Stop after this number of evaluations in a row without a new lowest loss. There is one evaluation
        every 100 steps.
    """

    held_out: float = 0.1
    patience: int = 5


@dataclass(frozen=True)
class EvaluationOptions:
    """
    Evaluation in an environment, with deterministic actions. Training itself needs no environment.

    :param eval_env: Id of the environment in which to evaluate before and after training. During training, the
        evaluations find the best safe policy.
    :param eval_cost_limit: Highest cost of a safe episode. If it is not given, --cost-limit is used.
    :param eval_episodes: Number of episodes per evaluation.
    :param eval_freq: Number of gradient steps between two evaluations during training. 0 makes no such evaluations.
    :param eval_n_envs: Number of environments. A step takes the least time with 16 environments per process.
    :param eval_n_workers: Number of processes that step the environments. The episodes do not depend on it.
    :param eval_seed: Seed of the episodes before and after training. The evaluations during training, which choose the
        best policy, have the next seed.
    """

    eval_env: str | None = None
    eval_cost_limit: float | None = None
    eval_episodes: int = 20
    eval_freq: int = 1_000
    eval_n_envs: int = 32
    eval_n_workers: int = 1
    eval_seed: int = 0

    @property
    def rollout(self) -> RolloutOptions:
        """How to run the episodes before and after training."""
        return RolloutOptions(self.eval_episodes, self.eval_n_envs, self.eval_n_workers, self.eval_seed)
