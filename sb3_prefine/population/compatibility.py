"""Checks whether models can be trained together: what has to be equal in all runs of a population."""

import pickle
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch

from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.prefine import PREFINE
from sb3_prefine.reference.reference import Reference

# Attributes that determine the computation and therefore have to be equal in all runs.
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
# Methods that a population does not call, because it does the same for all runs at once. So it would ignore that a
# subclass overrides one of them.
_REIMPLEMENTED = (PREFINE.learn, PREFINE.batches, PREFINE.train, PREFINE.log_probs, PREFINE.objective, PREFINE.descend)
_TRAIN_SEPARATELY = "Train it separately: model.learn(…)."


def check_compatible(models: Sequence[PREFINE]) -> None:
    """
    Refuse models that cannot be trained together.

    :param models: Models of a population.
    :raises TypeError: If one is not a PREFINE model, or cannot be trained together with others.
    :raises ValueError: If there are no models, one occurs twice, or they differ; names them and the attribute.
    """
    if not models:
        raise ValueError("models: the list is empty. Pass PREFINE models.")
    positions: dict[int, int] = {}
    for i, model in enumerate(models):
        _check_kind(f"models[{i}]", model)
        if (j := positions.setdefault(id(model), i)) != i:
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
    """
    Tell whether two references give the same distribution at every state.

    :param one: A reference.
    :param other: Another reference with the same architecture.
    :return: Whether their weights and normalisers are equal.
    """
    if one is other:
        return True
    weights, others = one.policy.state_dict(), other.policy.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights) and (
        pickle.dumps(one.normalizer) == pickle.dumps(other.normalizer)
    )


def _check_kind(name: str, model: object) -> None:
    if not isinstance(model, PREFINE):
        raise TypeError(f"{name}: expected a PREFINE model, found {type(model).__name__}.")
    for method in _REIMPLEMENTED:
        if getattr(type(model), method.__name__) is not method:
            raise TypeError(
                f"{name}: {type(model).__name__} overrides {method.__name__}, which a population does not call. "
                f"{_TRAIN_SEPARATELY}"
            )
    if model.likelihood.needs == "sequences":
        raise TypeError(
            f"{name}: {type(model.policy).__name__} is recurrent. Its hidden states are computed again along whole "
            f"episodes while it learns, which a population does not support. {_TRAIN_SEPARATELY}"
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
    """Describe, line by line, what networks must have in common to be computed as one batched network."""
    policy: Any = model.policy
    dist = getattr(policy, "action_dist", getattr(getattr(policy, "actor", None), "action_dist", None))
    # repr does not show settings that are not modules: use_expln of gSDE, the number of latents of CVAEPolicy.
    holders = [holder for holder in (dist, policy if isinstance(policy, HasLikelihood) else None) if holder is not None]
    attributes = [pair for holder in holders for pair in vars(holder).items() if pair[0] != "training"]
    settings = [f"{name}={value}" for name, value in attributes if isinstance(value, int | float | str)]
    trained = {id(weight) for weight in model.optimizer.param_groups[0]["params"]}
    weights = [
        f"{name} {tuple(weight.shape)} {weight.dtype}{' trained' if id(weight) in trained else ''}"
        for name, weight in policy.named_parameters()
    ]
    return [model.likelihood.family, *repr(policy).splitlines(), *settings, *weights]
