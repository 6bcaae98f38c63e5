"""Whether models can be trained together: what has to be the same in all runs of a population."""

import pickle
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch

from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.reference import Reference

# What shapes the computation.
SHARED_SETTINGS = (
    "device",
    "observation_space",
    "action_space",
    "batch_size",
    "loss_type",
    "label_smoothing",
    "n_counterfactuals",
    "counterfactuals",
    "log_std_min",
    "fixed_std",
    "temperature",
)
# What a population does in its own way; a subclass with another one would be trained as if it had not.
_REPLACED = ("learn", "train", "_batches", "_descend", "_log_probs", "_objective", "_with_counterfactuals")
_ONE_BY_ONE = "Train it by itself: model.learn(…)."


def check_compatible(models: Sequence[PREFINE]) -> None:
    """
    Refuse models that cannot be trained together.

    :raises TypeError: something that is no PREFINE model, or one that cannot be trained together with others
    :raises ValueError: there are none, one is there twice, or they differ; names them, and the attribute
    """
    if not models:
        raise ValueError("models: there are none. Pass PREFINE models.")
    seen: dict[int, int] = {}
    for i, model in enumerate(models):
        _check_kind(f"models[{i}]", model)
        if (j := seen.setdefault(id(model), i)) != i:
            raise ValueError(f"models: [{j}] and [{i}] are one and the same. Make a model for each run.")
        for name in SHARED_SETTINGS:
            _check_equal(name, i, getattr(model, name), getattr(models[0], name))
        has_bound, others_have = (m.log_ratio_bound is not None for m in (model, models[0]))
        if has_bound != others_have:
            _refuse("log_ratio_bound", i, model.log_ratio_bound, models[0].log_ratio_bound)
        _check_equal("type(policy)", i, type(model.policy).__name__, type(models[0].policy).__name__)
        for line, other in zip_longest(_architecture(model), _architecture(models[0]), fillvalue="nothing more"):
            _check_equal("policy", i, line, other)


def same_distribution(one: Reference, other: Reference) -> bool:
    """Whether two references, of one architecture, give the same distribution at every state."""
    if one is other:
        return True
    weights, others = one.policy.state_dict(), other.policy.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights) and (
        pickle.dumps(one.normalizer) == pickle.dumps(other.normalizer)
    )


def _check_kind(name: str, model: object) -> None:
    if not isinstance(model, PREFINE):
        raise TypeError(f"{name}: expected a PREFINE model, found {type(model).__name__}.")
    own = [method for method in _REPLACED if getattr(type(model), method) is not getattr(PREFINE, method)]
    if own:
        raise TypeError(
            f"{name}: {type(model).__name__} has its own {own[0]}, which would not be called. {_ONE_BY_ONE}"
        )
    if model._likelihood.needs == "sequences":
        raise TypeError(
            f"{name}: {type(model.policy).__name__} is recurrent. Its hidden states are run anew along whole episodes "
            f"while it learns, which is not done for many at once. {_ONE_BY_ONE}"
        )


def _check_equal(name: str, i: int, found: Any, expected: Any) -> None:
    if found != expected:
        _refuse(name, i, found, expected)


def _refuse(name: str, i: int, found: Any, expected: Any) -> None:
    raise ValueError(
        f"{name}: models[{i}] has {found}, models[0] has {expected}. It has to be the same in all runs of a "
        "population. Make a population for each."
    )


def _architecture(model: PREFINE) -> list[str]:
    """Line by line, what one network has to have in common with another to be batched with it."""
    policy: Any = model.policy
    dist = getattr(policy, "action_dist", getattr(getattr(policy, "actor", None), "action_dist", None))
    # What is no module: gSDE's use_expln; the number of latents of a CVAEPolicy.
    holders = [holder for holder in (dist, policy if isinstance(policy, HasLikelihood) else None) if holder is not None]
    attributes = [pair for holder in holders for pair in vars(holder).items() if pair[0] != "training"]
    settings = [f"{name}={value}" for name, value in attributes if isinstance(value, int | float | str)]
    trained = {id(weight) for weight in model.optimizer.param_groups[0]["params"]}
    weights = [
        f"{name} {tuple(weight.shape)} {weight.dtype}{' trained' if id(weight) in trained else ''}"
        for name, weight in policy.named_parameters()
    ]
    return [model._likelihood.family, *repr(policy).splitlines(), *settings, *weights]
