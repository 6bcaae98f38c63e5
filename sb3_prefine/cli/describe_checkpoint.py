"""The description of a checkpoint for ``sb3-prefine info``."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from sb3_prefine.cli.inputs import open_policy
from sb3_prefine.cli.options import CheckpointOptions
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.archive import saved_algorithm
from sb3_prefine.reference.normalizer import Moments, Normalizer
from sb3_prefine.reference.reference import Reference


def describe_checkpoint(policy: str, options: CheckpointOptions) -> None:
    """
    Print the description of a checkpoint.

    :param policy: A path or name, as ``load_reference`` takes it.
    :param options: How to open it. ``trust`` is used only if the checkpoint does not open without it.
    :raises OSError: If the checkpoint cannot be read.
    :raises ValueError: If the checkpoint cannot be opened.
    """
    reference, opens_without_unpickling = _open(policy, options)
    print(policy)
    for label, value in _properties(reference):
        # The bounds of a space have several lines.
        print(f"  {label:<26}{' '.join(value.split())}")
    print(f"  {'opens without unpickling':<26}{' '.join(opens_without_unpickling.split())}")


def _open(policy: str, options: CheckpointOptions) -> tuple[Reference, str]:
    """The policy, and whether it opens without unpickling: yes, or no and the reason."""
    try:
        return open_policy(policy, replace(options, trust=False)), "yes"
    except ValueError as error:
        if not options.trust:
            raise
        return open_policy(policy, options), f"no: {error}"


def _properties(reference: Reference) -> Iterator[tuple[str, str]]:
    policy = reference.policy
    file = Path(reference.checkpoint.name)
    if file.is_file():
        yield "file", str(file)
        if writer := saved_algorithm(file):
            yield "written by", f"{writer}.save. This describes the policy that {writer} trained."
    yield "algorithm", reference.algo or "unknown (a policy without an algorithm)"
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


def _layers(policy: nn.Module) -> Iterator[tuple[str, str]]:
    """The name of each part of the network, and the sizes of its linear, convolutional and recurrent layers."""
    parts: dict[str, list[str]] = {}
    for name, module in policy.named_modules():
        # "latent_pi.0" is a layer of "latent_pi", and "mu" is a part with one layer.
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
        # The name of the likelihood does not depend on log_std_min.
        return likelihood_of(policy, log_std_min=-5.0).family
    except TypeError as error:
        return f"none: {error}"


def _normalizer(normalizer: Normalizer | None) -> str:
    if normalizer is None:
        return "none"
    # For a Dict observation space, there are statistics for each normalised part.
    moments = normalizer.observations
    parts = {"observations": moments} if isinstance(moments, Moments) else moments
    counts = ", ".join(f"{part.count:,.0f} {name}" for name, part in parts.items())
    return f"VecNormalize over {counts}, clipped to ±{normalizer.clip_obs:g}"
