"""The algorithms that every test of this folder runs, each with a small policy and small data."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
from sb3_prefine.baselines import BC, CPL, CPQ, PPL, SafeDICE
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm
from tests.worlds import BAD, GOOD, RandomEnv, make_model, trajectories, weights

SMALL = {"net_arch": [16, 16]}
# SafeDICE trains its discriminator first, for this number of updates.
DISCRIMINATOR_STEPS = 5
INVALID_NON_NEGATIVE = (-0.1, np.nan, np.inf, "1")
INVALID_POSITIVE = (0.0, *INVALID_NON_NEGATIVE)
INVALID_COUNTS = (0, -1, 2.5, "16")
INVALID_FRACTIONS = (0.0, 1.5, np.nan)


@dataclass(frozen=True)
class Case:
    """
    An algorithm and a policy that it trains.

    :param name: Name of the case in the tests.
    :param algorithm: Class of the algorithm.
    :param policy: Alias of a new policy, or the SB3 class of the model that the algorithm starts from.
    :param data_name: Name of the argument with the data.
    :param options: Further arguments of the constructor.
    :param networks: Attributes with the trained networks.
    :param multipliers: Attributes with single trained numbers, which have no optimizer.
    :param optimizers: Attributes with the optimizers of these networks.
    :param metrics: Names of the metrics in the last stage of training.
    :param n_updates_before_policy: Number of updates before the first one of the policy.
    :param invalid: Values out of the range of each hyperparameter.
    """

    name: str
    algorithm: type[OfflineAlgorithm]
    policy: str | type[BaseAlgorithm]
    data_name: str
    metrics: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)
    networks: tuple[str, ...] = ("policy",)
    multipliers: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ("optimizer",)
    n_updates_before_policy: int = 0
    invalid: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def make(self, policy: Any = None, **kwargs: Any) -> Any:
        """
        Build a model. Equal arguments give equal models.

        :param policy: The policy to start from instead of that of the case.
        :param kwargs: Arguments of the constructor instead of those of the case.
        """
        policy = self.make_policy() if policy is None else policy
        given = {"batch_size": 16, "learning_rate": 1e-2, "seed": 0, "device": "cpu", **self.make_data()}
        if isinstance(policy, str):
            given |= {"env": RandomEnv(), "policy_kwargs": SMALL}
        return self.algorithm(policy, **{**given, **self.options, **kwargs})

    def make_policy(self) -> Any:
        """An untrained model, or the alias of a new policy."""
        return self.policy if isinstance(self.policy, str) else make_model(self.policy)

    def make_data(self, good: Trajectories | None = None, bad: Trajectories | None = None) -> dict[str, Any]:
        """
        The data as arguments of the constructor.

        :param good: Preferred episodes, or the only ones; None for small ones.
        :param bad: Dispreferred episodes, if the algorithm takes them; None for small ones.
        """
        good = trajectories(GOOD) if good is None else good
        if self.data_name == "trajectories":
            return {"trajectories": good}
        return {"preferences": PreferenceBuffer(good, trajectories(BAD, seed=1) if bad is None else bad)}

    def weights_of(self, model: Any) -> dict[str, torch.Tensor]:
        """A copy of everything that the algorithm trains."""
        multipliers = {name: getattr(model, name).clone() for name in self.multipliers}
        return multipliers | {
            f"{network}.{name}": tensor
            for network in self.networks
            for name, tensor in weights(getattr(model, network)).items()
        }


LOSS = frozenset({"train/loss"})
PAIRS = LOSS | {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
PAIRS |= {"logps/chosen", "logps/rejected"}
LOG_PROB = LOSS | {"train/log_prob"}
INVALID_TRAINING: dict[str, tuple[Any, ...]] = {
    "learning_rate": INVALID_NON_NEGATIVE,
    "batch_size": INVALID_COUNTS,
    "log_std_min": (np.inf, np.nan, None),
    "max_grad_norm": INVALID_POSITIVE,
}
INVALID_PREFINE = {
    **INVALID_TRAINING,
    **dict.fromkeys(("beta", "sft_coef"), INVALID_NON_NEGATIVE),
    "loss_type": ("nca",),
}
INVALID_SEGMENTS = {
    **INVALID_TRAINING,
    "segment_length": INVALID_COUNTS,
    **dict.fromkeys(("temperature", "fixed_std"), INVALID_POSITIVE),
}
INVALID_PPL = {
    **INVALID_SEGMENTS,
    "beta": INVALID_POSITIVE,
    "reduction": ("median",),
    # The policy of PPO is not deterministic.
    "fixed_std": (*INVALID_POSITIVE, 0.1),
}
INVALID_CPL = {
    **INVALID_SEGMENTS,
    "advantage": ("q_value",),
    "alpha": INVALID_POSITIVE,
    "bias": INVALID_FRACTIONS,
    "gamma": (*INVALID_FRACTIONS, 1.01),
    "bc_coef": INVALID_NON_NEGATIVE,
    "bc_data": ("rejected",),
    # A temperature needs the policy's own likelihood.
    "temperature": (*INVALID_POSITIVE, 1.0),
}
INVALID_SAFEDICE = {
    **INVALID_TRAINING,
    "gamma": (*INVALID_FRACTIONS, 1.0),
    "discriminator_steps": INVALID_COUNTS,
    "net_arch": ([16, 0], [2.5]),
    **dict.fromkeys(("critic_learning_rate", "gradient_penalty", "nu_gradient_penalty"), INVALID_NON_NEGATIVE),
}
INVALID_CPQ = {
    **INVALID_TRAINING,
    "cost_limit": (None, *INVALID_NON_NEGATIVE),
    "gamma": (*INVALID_FRACTIONS, 1.0),
    "tau": INVALID_FRACTIONS,
    "reward_scale": INVALID_POSITIVE,
    "horizon": INVALID_COUNTS,
    "n_samples": INVALID_COUNTS,
    "ood_quantile": (-0.1, 1.0),
    **dict.fromkeys(("net_arch", "vae_net_arch"), ([16, 0],)),
    **dict.fromkeys(
        ("critic_learning_rate", "vae_learning_rate", "alpha_learning_rate", "ood_scale"), INVALID_NON_NEGATIVE
    ),
}


def _prefine(name: str, policy: type[BaseAlgorithm], **options: Any) -> Case:
    metrics = PAIRS | {"train/preference_loss", "train/sft_loss"}
    return Case(name, PREFINE, policy, "preferences", metrics, options, invalid=INVALID_PREFINE)


def _bc(name: str, policy: str | type[BaseAlgorithm], **options: Any) -> Case:
    metrics = LOG_PROB | ({"train/reconstruction", "train/kl"} if policy == "CVAEPolicy" else set())
    invalid = {**INVALID_TRAINING, "ref_quantile": INVALID_FRACTIONS}
    return Case(name, BC, policy, "trajectories", metrics, options, invalid=invalid)


def _ppl(name: str, policy: type[BaseAlgorithm], **options: Any) -> Case:
    options = {"segment_length": 4, **options}
    return Case(name, PPL, policy, "preferences", PAIRS, options, invalid=INVALID_PPL)


def _cpl(name: str, policy: type[BaseAlgorithm], **options: Any) -> Case:
    options, metrics = {"segment_length": 4, **options}, PAIRS | {"train/preference_loss", "train/bc_loss"}
    return Case(name, CPL, policy, "preferences", metrics, options, invalid=INVALID_CPL)


def _safedice(name: str, policy: str | type[BaseAlgorithm]) -> Case:
    return Case(
        name,
        SafeDICE,
        policy,
        "preferences",
        frozenset(
            f"train/{name}" for name in ("policy_loss", "nu_loss", "nu_gradient_penalty", "max_weight", "nu_grad_norm")
        ),
        {"net_arch": [12, 12], "discriminator_steps": DISCRIMINATOR_STEPS},
        networks=("policy", "discriminator", "nu"),
        optimizers=("optimizer", "discriminator_optimizer", "nu_optimizer"),
        n_updates_before_policy=DISCRIMINATOR_STEPS,
        invalid=INVALID_SAFEDICE,
    )


def _cpq(name: str, policy: str | type[BaseAlgorithm]) -> Case:
    names = ("vae_loss", "critic_loss", "cost_critic_loss", "ood_cost", "alpha", "policy_loss", "safe")
    return Case(
        name,
        CPQ,
        policy,
        "trajectories",
        frozenset(f"train/{name}" for name in names),
        {"net_arch": [12, 12], "vae_net_arch": [9, 9], "cost_limit": 3.0, "alpha_learning_rate": 0.1},
        networks=("policy", "critic", "critic_target", "cost_critic", "cost_critic_target", "vae"),
        multipliers=("log_alpha",),
        optimizers=("optimizer", "critic_optimizer", "vae_optimizer"),
        invalid=INVALID_CPQ,
    )


KL = {"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75, "fixed_std": None}
CASES = [
    _prefine("PREFINE-PPO", PPO),
    _prefine("PREFINE-SAC", SAC, n_counterfactuals=2),
    _prefine("SFT-PPO", PPO, beta=0.0),
    _bc("BC-Gaussian", "GaussianPolicy"),
    _bc("BC-squashed", "SquashedPolicy", ref_quantile=0.5),
    _bc("BC-CVAE", "CVAEPolicy"),
    _bc("BC-PPO", PPO),
    _ppl("PPL-PPO", PPO),
    _ppl("PPL-SAC", SAC, reduction="mean"),
    _cpl("CPL-PPO", PPO, bc_coef=0.5),
    _cpl("CPL-SAC", SAC, **KL),
    _safedice("SafeDICE-squashed", "SquashedPolicy"),
    _safedice("SafeDICE-PPO", PPO),
    _cpq("CPQ-squashed", "SquashedPolicy"),
    _cpq("CPQ-SAC", SAC),
]
# The first case of each algorithm, and those that start from an SB3 model.
ONE_OF_EACH = list({case.algorithm: case for case in reversed(CASES)}.values())
FROM_SB3 = [case for case in CASES if not isinstance(case.policy, str)]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_algorithm = pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
each_sb3_policy = pytest.mark.parametrize("case", FROM_SB3, ids=lambda case: case.name)


def predicted(model: Any, observations: np.ndarray) -> np.ndarray:
    """The deterministic actions of a model or a policy."""
    return model.predict(observations, deterministic=True)[0]
