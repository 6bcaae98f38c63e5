"""
``python -m sb3_prefine.zoo.train --algo prefine --env ID``: RL Zoo's ``train`` with PREFINE.

All options are RL Zoo's. The hyperparameters come from ``hyperparams/prefine.yml`` unless ``--conf-file`` names another
file. ``-params`` overrides them, and names the policy and the data:

    python -m sb3_prefine.zoo.train --algo prefine --env SafetyHalfCheetahVelocity-v1 \\
        -params "pretrained:'ppo/HalfCheetah-v3'" "dataset:'data.hdf5'"
"""

import rl_zoo3.train

from sb3_prefine.zoo.manager import PrefineExperimentManager


def main() -> None:
    """Run RL Zoo's ``train`` on the arguments of the command line."""
    # train() looks up this name. rl_zoo3 has no argument for the class of the manager.
    rl_zoo3.train.ExperimentManager = PrefineExperimentManager  # type: ignore[attr-defined]
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
