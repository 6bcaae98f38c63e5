"""The methods of the benchmark: how each model is constructed from a reference and data."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import yaml

from sb3_prefine import PREFINE, PreferenceBuffer, Reference, Trajectories
from sb3_prefine.baselines import BC, CPL, CPQ, PPL, SafeDICE
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm

# POLICY is the policy of the reference and of BC. SafeDICE and CPQ train new policies of the class in their papers.
POLICY, SQUASHED = "GaussianPolicy", "SquashedPolicy"


@dataclass(frozen=True)
class Budget:
    """
    Gradient steps and episodes of a cell.

    :param ref_steps: Gradient steps of the reference's behaviour cloning.
    :param steps: Gradient steps of every method that learns from the two sets only.
    :param safedice_steps: Gradient steps of SafeDICE's discriminator, and then of its policy.
    :param cpq_steps: Gradient steps of CPQ.
    :param episodes: Episodes of the evaluation with deterministic actions.
    :param stochastic_episodes: Episodes of the evaluation with stochastic actions.
    :param curve_points: Number of evaluations during training, including the one after the last step; 0 for no curve.
    :param curve_episodes: Episodes of each of these evaluations, with deterministic actions.
    """

    ref_steps: int
    steps: int
    safedice_steps: tuple[int, int]
    cpq_steps: int
    episodes: int
    stochastic_episodes: int
    curve_points: int = 0
    curve_episodes: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """
    Inputs of a method.

    :param env_id: Id of the environment, used for its spaces only.
    :param reference: The reference policy π_ref.
    :param preferences: The preferred and dispreferred episodes.
    :param trajectories: All data of the task, for CPQ.
    :param cost_limit: The limit κ on the episode cost, for CPQ.
    :param paper: The task's hyperparameters in ``prefine.yml``: β, λ, batch size, learning rate.
    :param seed: Seed of the training.
    :param budget: Gradient steps.
    """

    env_id: str
    reference: Reference
    preferences: PreferenceBuffer
    trajectories: Trajectories
    cost_limit: float
    paper: dict[str, Any]
    seed: int
    budget: Budget


@dataclass(frozen=True)
class Method:
    """
    A method with its options, written as in ``--methods``: ``PREFINE`` or ``PREFINE:beta=0.2,sft_coef=0.1``.

    :param name: A key of :data:`CONSTRUCTORS`, or ``reference``.
    :param options: Arguments of the method's class, in place of the paper's.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Method":
        """
        Parse a method from its text.

        :param text: NAME or NAME:option=value,option=value.
        :return: The method.
        :raises ValueError: If the name is unknown, or an option has no value.
        """
        name, _, rest = text.partition(":")
        if name not in (*CONSTRUCTORS, REFERENCE):
            raise ValueError(f"methods: found {name!r}. Choose some of {', '.join((REFERENCE, *CONSTRUCTORS))}.")
        options = []
        for option in filter(None, rest.split(",")):
            key, equals, value = option.partition("=")
            if not equals or name == REFERENCE:
                raise ValueError(f"methods: found {text!r}. Write NAME or NAME:option=value,option=value.")
            options.append((key, _parse_value(value)))
        return cls(name, tuple(options))

    def __str__(self) -> str:
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in self.options)}" if self.options else self.name

    @property
    def in_populations(self) -> bool:
        """Whether the method is PREFINE with some weights, so that a population can train many of its runs."""
        return self.name in _PREFINE_VARIANTS

    def make(self, setting: Setting) -> OfflineAlgorithm:
        """Construct the untrained model."""
        return CONSTRUCTORS[self.name](setting, dict(self.options))

    def steps(self, budget: Budget) -> int:
        """Get the number of gradient steps."""
        if self.name == "SafeDICE":
            return sum(budget.safedice_steps)
        return budget.cpq_steps if self.name == "CPQ" else budget.steps


def _parse_value(text: str) -> Any:
    """Parse the value of an option."""
    value = yaml.safe_load(text)
    # YAML reads 1e-05 as a string, because it has no dot.
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _prefine(setting: Setting, options: dict[str, Any], weights: dict[str, float]) -> PREFINE:
    defaults = {name: setting.paper[name] for name in ("learning_rate", "batch_size", "beta", "sft_coef")}
    return PREFINE(
        setting.reference, setting.preferences, seed=setting.seed, device="cpu", **{**defaults, **weights, **options}
    )


def _bc(setting: Setting, options: dict[str, Any]) -> BC:
    """Construct BC with a new policy, as in the paper, and with PREFINE's batch size of D_p."""
    defaults = {name: setting.paper[name] for name in ("learning_rate", "batch_size")}
    return BC(
        POLICY,
        setting.preferences.preferred,
        env=setting.env_id,
        seed=setting.seed,
        device="cpu",
        **{**defaults, **options},
    )


def _ppl(setting: Setting, options: dict[str, Any]) -> PPL:
    return PPL(setting.reference, setting.preferences, seed=setting.seed, device="cpu", **options)


def _cpl(setting: Setting, options: dict[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})) -> CPL:
    return CPL(setting.reference, setting.preferences, seed=setting.seed, device="cpu", **{**defaults, **options})


def _safedice(setting: Setting, options: dict[str, Any]) -> SafeDICE:
    """Construct SafeDICE, whose unlabelled data are both sets."""
    return SafeDICE(
        SQUASHED,
        setting.preferences,
        env=setting.env_id,
        discriminator_steps=setting.budget.safedice_steps[0],
        seed=setting.seed,
        device="cpu",
        **options,
    )


def _cpq(setting: Setting, options: dict[str, Any]) -> CPQ:
    """Construct CPQ, which learns from the rewards and costs of all data of the task."""
    return CPQ(
        SQUASHED,
        setting.trajectories,
        env=setting.env_id,
        cost_limit=setting.cost_limit,
        seed=setting.seed,
        device="cpu",
        **options,
    )


REFERENCE = "reference"
# Variants of PREFINE by their weights: SFT has no preference term, and DPO no supervised term.
_PREFINE_VARIANTS: dict[str, dict[str, float]] = {"PREFINE": {}, "SFT": {"beta": 0.0}, "DPO": {"sft_coef": 0.0}}
CONSTRUCTORS: dict[str, Callable[[Setting, dict[str, Any]], OfflineAlgorithm]] = {
    **{name: partial(_prefine, weights=weights) for name, weights in _PREFINE_VARIANTS.items()},
    "BC": _bc,
    "PPL": _ppl,
    "CPL": _cpl,
    "CPL-KL": partial(_cpl, defaults={"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75}),
    "SafeDICE": _safedice,
    "CPQ": _cpq,
}
