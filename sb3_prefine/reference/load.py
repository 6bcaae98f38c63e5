"""Open a pretrained policy from anywhere, as a frozen copy with its normaliser and its env wrappers."""

import io
import zipfile
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sb3_prefine.policies.custom import HasLikelihood, ModulePolicy
from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.archive import holds_reference, read_reference
from sb3_prefine.reference.normalizer import Normalizer, read_normalizer
from sb3_prefine.reference.reference import Reference, build_reference
from sb3_prefine.reference.sb3_zip import SB3Zip
from sb3_prefine.reference.zoo_folder import EnvWrapper, find_checkpoint

# What load_reference opens.
Source = BaseAlgorithm | nn.Module | str | Path
_NormalizerSource = VecNormalize | str | Path | Literal[False] | None


def load_reference(
    source: Reference | Source,
    env: gym.Env | VecEnv | str | None = None,
    algo: str | None = None,
    normalizer: _NormalizerSource = None,
    trust: bool = False,
) -> Reference:
    """
    Open a pretrained policy.

    Opening a file runs no code that it contains. Weights load with ``weights_only``. The policy's class, arguments and
    spaces are rebuilt from plain values. The statistics of a ``VecNormalize`` are read by an unpickler that rebuilds
    numbers only.

    :param source: An SB3 model or policy; an ``nn.Module`` with the methods of
        :class:`~sb3_prefine.policies.HasLikelihood`; or the path of an SB3 zip, of a zip that ``PREFINE.save`` wrote,
        or of an RL-Zoo folder (zip, ``vecnormalize.pkl``, ``config.yml``). The path may also lie inside the folder that
        ``RL_TRAINED_AGENTS`` names (``"ppo/HalfCheetah-v3"``), or on the Hugging Face Hub
        (``"hf://sb3/ppo-HalfCheetah-v3"``).
    :param env: The environment or its id, for a file or an ``nn.Module``. The spaces come from it, after a comparison
        with those in the file if they can be read.
    :param algo: RL Zoo's name of the algorithm (``"ppo"``), to find the file or to check what it contains.
    :param normalizer: A ``VecNormalize`` or the path of its pickle. None finds it next to the file or around the
        model's environment. False means that the policy saw raw observations.
    :param trust: Unpickle the contents of the file and import what it names, as SB3 does. This runs the file's code.
    :return: The frozen policy.
    :raises FileNotFoundError: If there is no checkpoint at the path.
    :raises ValueError: If a normaliser or env wrapper is missing, or the file cannot be read. The message says what to
        do.
    :raises TypeError: If the source is of another type.
    """
    if isinstance(source, Reference):
        reference = source
    elif isinstance(source, HasReference):
        reference = source.to_reference()
    elif isinstance(source, BaseAlgorithm):
        reference = _from_model(source, normalizer)
    elif isinstance(source, BasePolicy):
        reference = _from_policy(source, normalizer)
    elif isinstance(source, nn.Module):
        reference = _from_module(source, env, normalizer)
    elif isinstance(source, (str, Path)):
        reference = _from_path(source, env, algo, normalizer, trust)
    else:
        raise TypeError(
            "policy: expected an SB3 model or policy, the path of a checkpoint, or an nn.Module with a likelihood, "
            f"found {type(source).__name__}."
        )
    if algo is not None and reference.algo not in (algo, None):
        raise ValueError(
            f"algo: {algo!r} was given, but {reference.checkpoint.name} is from {reference.algo!r}. Correct it or "
            "leave it out."
        )
    return reference


@runtime_checkable
class HasReference(Protocol):
    """A model whose trained policy can be a reference, such as PREFINE or BC."""

    def to_reference(self) -> Reference: ...


def spaces_of(env: gym.Env | VecEnv | str, wrappers: tuple[EnvWrapper, ...] = ()) -> tuple[spaces.Space, spaces.Space]:
    """
    Get the spaces that a policy sees of an environment, images channel-first.

    :param env: An environment or its id.
    :param wrappers: Env wrappers to apply first, the innermost first. A ``VecEnv`` is used as it is.
    :return: Observation space and action space.
    """
    made = None
    if not isinstance(env, VecEnv):
        if isinstance(env, str):
            # Only for an id, because this import changes gymnasium's registry: it registers the Safety* ids, also over
            # those of other packages.
            import sb3_prefine.envs  # noqa: F401

            env = made = gym.make(env, disable_env_checker=True)
        for wrapper in wrappers:
            env = wrapper(env)
    # SB3 also wraps the environment before the policy sees it, for instance to transpose images.
    wrapped = BaseAlgorithm._wrap_env(env, monitor_wrapper=False)
    if made is not None:
        made.close()
    return wrapped.observation_space, wrapped.action_space


def _from_model(model: BaseAlgorithm, given: _NormalizerSource) -> Reference:
    recipe = PolicyRecipe(type(model.policy), model.observation_space, model.action_space, _model_kwargs(model))
    checkpoint = SB3Zip.from_model(model)
    normalizer = _resolve_normalizer(
        given,
        found=model.get_vec_normalize_env(),
        needed="the model was trained behind VecNormalize" if checkpoint.saw_normalized_observations else None,
    )
    return build_reference(checkpoint, recipe, normalizer, (), {})


def _from_policy(policy: BasePolicy, given: _NormalizerSource) -> Reference:
    kwargs = policy._get_constructor_parameters()
    for name in ("observation_space", "action_space", "lr_schedule"):
        kwargs.pop(name, None)
    # SB3 omits this argument from the parameters.
    if isinstance(policy, ActorCriticPolicy):
        kwargs["share_features_extractor"] = policy.share_features_extractor
    recipe = PolicyRecipe(type(policy), policy.observation_space, policy.action_space, kwargs)
    try:
        recipe.build()
    except TypeError as error:
        raise TypeError(
            f"policy: {type(policy).__name__} cannot be rebuilt from the result of its _get_constructor_parameters() "
            f"({error}). Make that method return all arguments of the constructor."
        ) from error
    return build_reference(SB3Zip.from_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


def _from_module(module: nn.Module, env: gym.Env | VecEnv | str | None, given: _NormalizerSource) -> Reference:
    if not isinstance(module, HasLikelihood):
        raise TypeError(
            f"policy: {type(module).__name__} is an nn.Module without a likelihood. Define the methods params, "
            "log_prob and sample as sb3_prefine.policies.HasLikelihood describes, or pass an SB3 model or policy."
        )
    own: Any = module
    observation_space, action_space = (
        spaces_of(env, ())
        if env is not None
        else (getattr(own, "observation_space", None), getattr(own, "action_space", None))
    )
    if not (isinstance(observation_space, spaces.Space) and isinstance(action_space, spaces.Space)):
        raise ValueError(
            f"env: {type(module).__name__} has no observation_space and action_space. Set them as attributes, or pass "
            "env=<the environment or its id>."
        )
    recipe = PolicyRecipe(ModulePolicy, observation_space, action_space, {"module": module})
    policy = recipe.build()
    return build_reference(SB3Zip.from_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


def _from_path(
    source: str | Path,
    env: gym.Env | VecEnv | str | None,
    algo: str | None,
    given: _NormalizerSource,
    trust: bool,
) -> Reference:
    folder = find_checkpoint(source, algo)
    name = str(folder.zip_path)
    content = folder.zip_path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if holds_reference(archive):
                if given is not None:
                    raise ValueError(
                        f"normalizer: {name} was written by PREFINE.save and contains its own. Leave it out."
                    )
                reference = read_reference(archive, name, trust)
                policy = reference.trainable_copy()
                SB3Zip.read(content, name).load_weights(policy)
                return reference.with_weights(policy)
    checkpoint = SB3Zip.read(content, name)
    wrappers = folder.env_wrappers(trust)
    needed = None
    if folder.normalizes_observations:
        needed = f"{name} was trained on normalised observations (see its config.yml)"
    elif checkpoint.saw_normalized_observations:
        needed = f"{name} was trained behind VecNormalize (it contains an observation from before normalisation)"
    normalizer = _resolve_normalizer(given, folder.normalizer_path, needed)
    if env is None:
        recipe = checkpoint.recipe(trust=trust)
    else:
        observation_space, action_space = spaces_of(env, wrappers)
        checkpoint.check_spaces(observation_space, action_space)
        recipe = checkpoint.recipe(observation_space, action_space, trust)
    return build_reference(checkpoint, recipe, normalizer, wrappers, folder.config)


def _resolve_normalizer(
    given: _NormalizerSource, found: VecNormalize | Path | None, needed: str | None
) -> Normalizer | None:
    """
    Choose the statistics: the given ones, otherwise those that were found.

    :param given: What the caller passed.
    :param found: What was found next to the file or around the model's environment.
    :param needed: Why the policy needs a normaliser; None if nothing says so.
    :return: The statistics; None for raw observations.
    :raises ValueError: If a normaliser is needed and missing.
    """
    if given is False:
        return None
    source = found if given is None else given
    if source is not None:
        return read_normalizer(source)
    if needed is not None:
        raise ValueError(
            f"normalizer: {needed}, but there is no vecnormalize.pkl beside it. Without it the policy would see "
            "observations on another scale. Pass normalizer=<path of the vecnormalize.pkl>, or normalizer=False if "
            "only rewards were normalised."
        )
    return None


def _model_kwargs(model: BaseAlgorithm) -> dict[str, Any]:
    kwargs = dict(model.policy_kwargs)
    if model.use_sde:
        kwargs["use_sde"] = True
    return kwargs
