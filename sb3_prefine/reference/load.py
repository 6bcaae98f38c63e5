"""Opening a pretrained policy from anywhere: its frozen copy, its normaliser, the env wrappers around it."""

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
from sb3_prefine.reference.reference import Reference, open_checkpoint
from sb3_prefine.reference.sb3_zip import Checkpoint
from sb3_prefine.reference.zoo_folder import EnvWrapper, find_checkpoint

Source = BaseAlgorithm | nn.Module | str | Path


def load_reference(
    source: "Reference | Source",
    env: gym.Env | VecEnv | str | None = None,
    algo: str | None = None,
    normalizer: VecNormalize | str | Path | Literal[False] | None = None,
    trust: bool = False,
) -> Reference:
    """
    Open a pretrained policy.

    A file is read without running any code it carries: weights load with ``weights_only``, the policy's class,
    arguments and spaces are rebuilt from plain values, the statistics of a ``VecNormalize`` by an unpickler that
    rebuilds numbers only.

    :param source: an SB3 model or policy; the path of a zip or of an RL-Zoo folder (zip, ``vecnormalize.pkl``,
        ``config.yml``), also inside the folder that ``RL_TRAINED_AGENTS`` names (``"ppo/HalfCheetah-v3"``); a zip that
        ``PREFINE.save`` wrote; an ``nn.Module`` with :class:`~sb3_prefine.policies.HasLikelihood`'s methods
    :param env: the environment or its id: gives the spaces where the file does not tell them, and is checked against
        them where it does
    :param algo: RL Zoo's name of the algorithm (``"ppo"``), to find or to check what the file is
    :param normalizer: a ``VecNormalize`` or the path of its pickle; None finds it beside the file or around the model's
        env; False says that the policy saw raw observations
    :param trust: unpickle what the file carries and import what it names, as SB3 does: this runs its code
    :raises FileNotFoundError: nothing at this path
    :raises ValueError: a normaliser or env wrapper is missing, or the file cannot be read; says what to do
    :raises TypeError: not a kind of source that is known here
    """
    if isinstance(source, Reference):
        reference = source
    elif isinstance(source, HasReference):
        reference = source.to_reference()
    elif isinstance(source, BaseAlgorithm):
        reference = _of_model(source, normalizer)
    elif isinstance(source, BasePolicy):
        reference = _of_policy(source, normalizer)
    elif isinstance(source, nn.Module):
        reference = _of_module(source, env, normalizer)
    elif isinstance(source, (str, Path)):
        reference = _of_path(source, env, algo, normalizer, trust)
    else:
        raise TypeError(
            "policy: expected an SB3 model or policy, the path of a checkpoint, or an nn.Module with a likelihood, "
            f"found {type(source).__name__}."
        )
    if algo is not None and reference.algo not in (algo, None):
        raise ValueError(f"algo: {algo!r} was given, but {reference.checkpoint.name} is of {reference.algo!r}.")
    return reference


@runtime_checkable
class HasReference(Protocol):
    """A model that can be a reference itself: PREFINE, BC."""

    def to_reference(self) -> Reference: ...


def _of_model(model: BaseAlgorithm, given: "_Normalizer") -> Reference:
    recipe = PolicyRecipe(type(model.policy), model.observation_space, model.action_space, _model_kwargs(model))
    checkpoint = Checkpoint.of_model(model)
    normalizer = _resolve_normalizer(
        given,
        found=model.get_vec_normalize_env(),
        needed="the model was trained behind VecNormalize" if checkpoint.saw_normalized_observations else None,
    )
    return open_checkpoint(checkpoint, recipe, normalizer, (), {})


def _of_policy(policy: BasePolicy, given: "_Normalizer") -> Reference:
    kwargs = policy._get_constructor_parameters()
    for name in ("observation_space", "action_space", "lr_schedule"):
        kwargs.pop(name, None)
    # SB3 leaves it out of the parameters.
    if isinstance(policy, ActorCriticPolicy):
        kwargs["share_features_extractor"] = policy.share_features_extractor
    recipe = PolicyRecipe(type(policy), policy.observation_space, policy.action_space, kwargs)
    try:
        recipe.build()
    except TypeError as error:
        raise TypeError(
            f"policy: {type(policy).__name__} cannot be built anew from what its _get_constructor_parameters() returns "
            f"({error}). Let that return all arguments of its constructor."
        ) from error
    return open_checkpoint(Checkpoint.of_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


def _of_module(module: nn.Module, env: gym.Env | VecEnv | str | None, given: "_Normalizer") -> Reference:
    if not isinstance(module, HasLikelihood):
        raise TypeError(
            f"policy: {type(module).__name__} is an nn.Module without a likelihood. Give it the methods params, "
            "log_prob and sample that sb3_prefine.policies.HasLikelihood describes, or pass an SB3 model or policy."
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
    return open_checkpoint(Checkpoint.of_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


def _of_path(
    source: str | Path,
    env: gym.Env | VecEnv | str | None,
    algo: str | None,
    given: "_Normalizer",
    trust: bool,
) -> Reference:
    folder = find_checkpoint(source, algo)
    name = str(folder.zip_path)
    content = folder.zip_path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if holds_reference(archive):
                if given is not None:
                    raise ValueError(f"normalizer: {name} was written by PREFINE.save and carries its own. Give none.")
                reference = read_reference(archive, name, trust)
                policy = reference.trainable_copy()
                Checkpoint.read(content, name).load_weights(policy)
                return reference.with_weights(policy)
    checkpoint = Checkpoint.read(content, name)
    wrappers = folder.env_wrappers(trust)
    needed = None
    if folder.normalizes_observations:
        needed = f"{name} was trained on normalised observations (its config.yml says)"
    elif checkpoint.saw_normalized_observations:
        needed = f"{name} was trained behind VecNormalize (it keeps an observation from before it)"
    normalizer = _resolve_normalizer(given, folder.normalizer_path, needed)
    if env is None:
        recipe = checkpoint.recipe(trust=trust)
    else:
        observation_space, action_space = spaces_of(env, wrappers)
        checkpoint.check_spaces(observation_space, action_space)
        recipe = checkpoint.recipe(observation_space, action_space, trust)
    return open_checkpoint(checkpoint, recipe, normalizer, wrappers, folder.config)


_Normalizer = VecNormalize | str | Path | Literal[False] | None


def _resolve_normalizer(given: _Normalizer, found: VecNormalize | Path | None, needed: str | None) -> Normalizer | None:
    """The statistics to use: those given, else those found, else none; an error if they are needed."""
    if given is False:
        return None
    source = found if given is None else given
    if source is not None:
        return read_normalizer(source)
    if needed is not None:
        raise ValueError(
            f"normalizer: {needed}, and there is no vecnormalize.pkl beside it. Without it the policy acts on what it "
            "never saw. Pass normalizer=<path of the vecnormalize.pkl>, or normalizer=False if only rewards were "
            "normalised."
        )
    return None


def _model_kwargs(model: BaseAlgorithm) -> dict[str, Any]:
    kwargs = dict(model.policy_kwargs)
    if model.use_sde:
        kwargs["use_sde"] = True
    return kwargs


def spaces_of(env: gym.Env | VecEnv | str, wrappers: tuple[EnvWrapper, ...] = ()) -> tuple[spaces.Space, spaces.Space]:
    """The spaces of an environment behind the env wrappers (a ``VecEnv`` is taken as it is), images channel-first."""
    made = None
    if not isinstance(env, VecEnv):
        if isinstance(env, str):
            import sb3_prefine.envs  # noqa: F401 (registers the Safety* ids, which only an id needs)

            env = made = gym.make(env, disable_env_checker=True)
        for wrapper in wrappers:
            env = wrapper(env)
    # SB3's wrapping is what a policy sees.
    wrapped = BaseAlgorithm._wrap_env(env, monitor_wrapper=False)
    if made is not None:
        made.close()
    return wrapped.observation_space, wrapped.action_space
