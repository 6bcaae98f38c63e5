"""The methods of the benchmark: how each is made from a reference and data, all with the same budget."""

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

# Of the reference and of BC; SafeDICE and CPQ have the one of their papers, a new one, too.
POLICY, SQUASHED = "GaussianPolicy", "SquashedPolicy"


@dataclass(frozen=True)
class Budget:
    """
    What a cell may take.

    :param ref_steps: gradient steps of behaviour cloning, of the reference
    :param steps: of every method that learns from the two sets alone
    :param safedice_steps: of SafeDICE's discriminator, and of its policy after that
    :param cpq_steps: of CPQ
    :param episodes: of an evaluation by the mode
    :param stochastic_episodes: of one by samples
    :param curve_points: evaluations in training, the last step included; 0 for none
    :param curve_episodes: of each of them, by the mode
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
    What a method is given.

    :param env_id: of the environment, for its spaces: nobody steps it
    :param reference: π_ref
    :param preferences: the two sets
    :param trajectories: all of the task's data, which SafeDICE and CPQ learn from
    :param cost_limit: κ, which CPQ is told
    :param paper: the values of ``prefine.yml`` for the task: β, λ, batch size, learning rate
    :param seed: of the training
    :param budget: how many steps
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
    A method with its options, as ``--methods`` names it: ``PREFINE`` or ``PREFINE:beta=0.2,sft_coef=0.1``.

    :param name: one of :data:`MAKERS`, or ``reference``
    :param options: arguments of its class, in place of those of the paper
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Method":
        """
        :raises ValueError: there is no such method, or an option has no value
        """
        name, _, rest = text.partition(":")
        if name not in (*MAKERS, REFERENCE):
            raise ValueError(f"methods: there is no {name!r}. There are {', '.join((REFERENCE, *MAKERS))}.")
        options = []
        for option in filter(None, rest.split(",")):
            key, equals, value = option.partition("=")
            if not equals or name == REFERENCE:
                raise ValueError(f"methods: cannot read {text!r}. Write NAME or NAME:option=value,option=value.")
            options.append((key, _read(value)))
        return cls(name, tuple(options))

    def __str__(self) -> str:
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in self.options)}" if self.options else self.name

    @property
    def in_populations(self) -> bool:
        """Whether it is PREFINE with some weights or other, so that many runs can be trained as one."""
        return self.name in _WEIGHTS

    def make(self, setting: Setting) -> OfflineAlgorithm:
        """The untrained model."""
        return MAKERS[self.name](setting, dict(self.options))

    def steps(self, budget: Budget) -> int:
        """Its gradient steps."""
        if self.name == "SafeDICE":
            return sum(budget.safedice_steps)
        return budget.cpq_steps if self.name == "CPQ" else budget.steps


def _read(text: str) -> Any:
    """A value. YAML takes 1e-05 for text, for it wants a point."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _prefine(setting: Setting, options: dict[str, Any], weights: dict[str, float]) -> PREFINE:
    usual = {name: setting.paper[name] for name in ("learning_rate", "batch_size", "beta", "sft_coef")}
    return PREFINE(
        setting.reference, setting.preferences, seed=setting.seed, device="cpu", **{**usual, **weights, **options}
    )


def _bc(setting: Setting, options: dict[str, Any]) -> BC:
    """From scratch, as the paper's; of as many transitions a step as PREFINE takes of D_p."""
    usual = {name: setting.paper[name] for name in ("learning_rate", "batch_size")}
    return BC(
        POLICY,
        setting.preferences.preferred,
        env=setting.env_id,
        seed=setting.seed,
        device="cpu",
        **{**usual, **options},
    )


def _ppl(setting: Setting, options: dict[str, Any]) -> PPL:
    return PPL(setting.reference, setting.preferences, seed=setting.seed, device="cpu", **options)


def _cpl(setting: Setting, options: dict[str, Any], usual: Mapping[str, Any] = MappingProxyType({})) -> CPL:
    return CPL(setting.reference, setting.preferences, seed=setting.seed, device="cpu", **{**usual, **options})


def _safedice(setting: Setting, options: dict[str, Any]) -> SafeDICE:
    """Its unlabelled data are the episodes that PREFINE has too, of both sets."""
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
    """With the rewards and costs of all of the task's data."""
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
# What makes PREFINE these: SFT has no preference term, DPO no supervised one.
_WEIGHTS: dict[str, dict[str, float]] = {"PREFINE": {}, "SFT": {"beta": 0.0}, "DPO": {"sft_coef": 0.0}}
MAKERS: dict[str, Callable[[Setting, dict[str, Any]], OfflineAlgorithm]] = {
    **{name: partial(_prefine, weights=weights) for name, weights in _WEIGHTS.items()},
    "BC": _bc,
    "PPL": _ppl,
    "CPL": _cpl,
    "CPL-KL": partial(_cpl, usual={"advantage": "log_ratio", "alpha": 0.2, "bias": 0.75}),
    "SafeDICE": _safedice,
    "CPQ": _cpq,
}
