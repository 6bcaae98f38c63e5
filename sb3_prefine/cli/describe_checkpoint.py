"""What ``sb3-prefine info`` says of a checkpoint."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from sb3_prefine.cli.options import Hyperparameters, Opening
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.archive import saved_algorithm
from sb3_prefine.reference.normalizer import Moments, Normalizer
from sb3_prefine.reference.reference import Reference


def describe_checkpoint(policy: str, opening: Opening) -> None:
    """
    Print what a checkpoint is.

    :param policy: what ``load_reference`` takes as a text
    :param opening: how to open it; its ``trust`` is used only where it does not open without
    :raises OSError: it cannot be read
    :raises ValueError: it cannot be opened
    """
    reference, plain = _open(policy, opening)
    print(policy)
    for label, value in _facts(reference, plain):
        # A space's bounds come in several lines.
        print(f"  {label:<26}{' '.join(value.split())}")


def _open(policy: str, opening: Opening) -> tuple[Reference, str]:
    """The policy, and whether it opens without unpickling."""
    try:
        return replace(opening, trust=False).open(policy), "yes"
    except ValueError as error:
        if not opening.trust:
            raise
        return opening.open(policy), f"no: {error}"


def _facts(reference: Reference, plain: str) -> Iterator[tuple[str, str]]:
    policy = reference.policy
    file = Path(reference.checkpoint.name)
    if file.is_file():
        yield "file", str(file)
        if writer := saved_algorithm(file):
            yield "written by", f"{writer}.save: the policy trained there is described"
    yield "algorithm", reference.algo or "unknown (a policy alone)"
    yield "policy", f"{type(policy).__module__}.{type(policy).__name__}"
    yield "observations", str(reference.observation_space)
    yield "actions", str(reference.action_space)
    for name, sizes in _layers(policy):
        yield "network", f"{name}: {sizes}"
    yield "parameters", f"{sum(p.numel() for p in policy.parameters()):,}"
    yield "likelihood", _likelihood(policy)
    yield "normaliser", _normalizer(reference.normalizer)
    wrappers = [f"{wrapper.path} {dict(wrapper.kwargs) or ''}".strip() for wrapper in reference.env_wrappers]
    yield "env wrappers", ", ".join(wrappers) or "none"
    yield "opens without unpickling", plain


def _layers(policy: nn.Module) -> Iterator[tuple[str, str]]:
    """Each part of the network: the sizes between its linear layers, its convolutions and recurrent layers."""
    parts: dict[str, list[str]] = {}
    for name, module in policy.named_modules():
        # "latent_pi.0" is a layer of "latent_pi"; "mu" stands alone.
        parent, _, last = name.rpartition(".")
        part = parts.setdefault(parent if last.isdigit() else name, [])
        if isinstance(module, nn.Linear):
            part.extend([str(module.out_features)] if part else [str(module.in_features), str(module.out_features)])
        elif isinstance(module, nn.Conv2d):
            part.append(f"conv {module.in_channels}x{module.kernel_size[0]}x{module.kernel_size[1]}")
            part.append(str(module.out_channels))
        elif isinstance(module, nn.RNNBase):
            part.append(f"{module.input_size}-{type(module).__name__} {module.hidden_size}")
    return ((name, "-".join(sizes)) for name, sizes in parts.items() if sizes)


def _likelihood(policy: nn.Module) -> str:
    try:
        return likelihood_of(policy, Hyperparameters.log_std_min).family
    except TypeError as error:
        return f"none: {error}"


def _normalizer(normalizer: Normalizer | None) -> str:
    if normalizer is None:
        return "none"
    # A Dict observation space has statistics for each of its parts that is normalised.
    moments = normalizer.observations
    parts = {"observations": moments} if isinstance(moments, Moments) else moments
    counts = ", ".join(f"{part.count:,.0f} {name}" for name, part in parts.items())
    return f"VecNormalize over {counts}, clipped to ±{normalizer.clip_obs:g}"
