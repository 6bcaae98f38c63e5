"""Opening a pretrained policy from anywhere: its frozen copy, its normaliser, the env wrappers around it."""

import importlib
import inspect
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sb3_prefine.checkpoint import Checkpoint, PolicyRecipe
from sb3_prefine.custom import HasLikelihood, ModulePolicy
from sb3_prefine.files import with_zip_suffix, write_atomically
from sb3_prefine.folder import EnvWrapper, env_wrapper, find_checkpoint, wrap_env
from sb3_prefine.gsde import renew_noise
from sb3_prefine.normalizer import Normalizer, read_normalizer

Source = BaseAlgorithm | nn.Module | str | Path


@dataclass(frozen=True, eq=False)
class Reference:
    """
    A frozen policy π_ref and everything that belongs to it.

    :param policy: in evaluation mode, its parameters without gradients; nothing here ever changes it
    :param recipe: how to build a policy of the same kind
    :param normalizer: the frozen statistics of the ``VecNormalize`` it was trained behind
    :param env_wrappers: the env wrappers it was trained behind, the innermost first
    :param checkpoint: the zip it came from, or one made of it
    :param config: RL Zoo's hyperparameters of its training, empty if unknown
    """

    policy: BasePolicy
    recipe: PolicyRecipe
    normalizer: Normalizer | None
    env_wrappers: tuple[EnvWrapper, ...]
    checkpoint: Checkpoint
    config: Mapping[str, Any]

    @property
    def observation_space(self) -> spaces.Space:
        """Of raw observations, behind the env wrappers."""
        return self.recipe.observation_space

    @property
    def action_space(self) -> spaces.Space:
        return self.recipe.action_space

    @property
    def algo(self) -> str | None:
        """RL Zoo's name of the algorithm that trained it (``"ppo"``); None if it is a policy alone."""
        return self.checkpoint.algo

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        SB3's ``predict`` on raw observations: they are normalised inside.

        :param action_masks: which actions are allowed, for MaskablePPO's policies
        """
        masks = {} if action_masks is None else {"action_masks": action_masks}
        return self.policy.predict(self.normalize(observation), state, episode_start, deterministic, **masks)

    @property
    def takes_action_masks(self) -> bool:
        """Whether the policy chooses among allowed actions only: MaskablePPO's."""
        return "action_masks" in inspect.signature(self.policy.predict).parameters

    def normalize(self, observation: Any) -> Any:
        """What the policy's network sees of a raw observation, or a batch of them."""
        return observation if self.normalizer is None else self.normalizer(observation)

    @property
    def wrap_env(self) -> Callable[[gym.Env], gym.Env]:
        """Applies the env wrappers the policy was trained behind. It holds no policy: other processes are sent it."""
        return partial(wrap_env, wrappers=self.env_wrappers)

    def trainable_copy(self) -> BasePolicy:
        """A policy of the same class and weights, to be trained; shares nothing with the reference."""
        policy = self.recipe.build()
        policy.load_state_dict(self.policy.state_dict())
        renew_noise(policy)
        policy.set_training_mode(False)
        return policy

    def export(self, policy: BasePolicy, path: str | Path) -> Path:
        """
        Write another policy's weights as a plain zip of the class the reference came from.

        Beside ``NAME.zip`` the normaliser and the env wrappers are written as RL Zoo does: ``NAME/vecnormalize.pkl``
        and ``NAME/config.yml``. A reference that was a policy alone gives the file that ``BasePolicy.load`` reads, one
        that was an ``nn.Module`` its state dict.

        :param path: with or without ``.zip``
        :return: the path of the zip
        """
        path = with_zip_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.normalizer is not None or self.env_wrappers:
            self._export_sidecars(path.with_suffix(""))
        if self.checkpoint.holds_algorithm:
            content = self.checkpoint.with_policy(policy, self.recipe, self.config).archive
        else:
            file = io.BytesIO()
            if isinstance(policy, ModulePolicy):
                torch.save(policy.module.state_dict(), file)
            else:
                policy.save(file)  # type: ignore[arg-type]
            content = file.getvalue()
        write_atomically(path, content)
        return path

    def with_weights(self, policy: BasePolicy) -> "Reference":
        """This reference with another policy's weights, as a new one."""
        checkpoint = self.checkpoint.with_policy(policy, self.recipe, self.config)
        frozen = self.recipe.build()
        frozen.load_state_dict(policy.state_dict())
        renew_noise(frozen)
        return replace(self, policy=_freeze(frozen), checkpoint=checkpoint)

    def _export_sidecars(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        if self.normalizer is not None:
            vec_normalize = self.normalizer.to_vec_normalize(self.observation_space, self.action_space)
            write_atomically(folder / "vecnormalize.pkl", pickle.dumps(vec_normalize))
        config = {**self.config, "normalize": self.config.get("normalize", self.normalizer is not None)}
        if self.env_wrappers:
            config["env_wrapper"] = [{wrapper.path: dict(wrapper.kwargs)} for wrapper in self.env_wrappers]
        write_atomically(folder / "config.yml", yaml.safe_dump(config).encode())


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
        ``PREFINE.save`` wrote; an ``nn.Module`` with :class:`~sb3_prefine.custom.HasLikelihood`'s methods
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


def write_reference(reference: Reference, archive: zipfile.ZipFile) -> None:
    """Put a reference into a zip that is being written, as plain values."""
    archive.writestr(_CHECKPOINT, reference.checkpoint.archive)
    if reference.normalizer is not None:
        vec_normalize = reference.normalizer.to_vec_normalize(reference.observation_space, reference.action_space)
        archive.writestr(_NORMALIZER, pickle.dumps(vec_normalize))
    wrappers = [[wrapper.path, dict(wrapper.kwargs)] for wrapper in reference.env_wrappers]
    archive.writestr(_SIDECARS, json.dumps({"env_wrappers": wrappers, "config": dict(reference.config)}))


def read_reference(
    archive: zipfile.ZipFile, name: str, trust: bool = False, like: "Reference | Source | None" = None
) -> Reference:
    """
    Read the reference that ``write_reference`` put into a zip.

    :param name: what to call the zip in errors
    :param trust: unpickle what the reference's own zip carries
    :param like: a policy of the same class, where that cannot be rebuilt from the zip
    """
    sidecars = json.loads(archive.read(_SIDECARS))
    normalizer = None
    if _NORMALIZER in archive.namelist():
        normalizer = read_normalizer(archive.read(_NORMALIZER), f"the normaliser in {name}")
    checkpoint = Checkpoint.read(archive.read(_CHECKPOINT), name)
    wrappers = tuple(env_wrapper(path, kwargs, name, trust) for path, kwargs in sidecars["env_wrappers"])
    recipe = checkpoint.recipe(trust=trust) if like is None else load_reference(like).recipe
    return _open(checkpoint, recipe, normalizer, wrappers, sidecars["config"])


def holds_reference(archive: zipfile.ZipFile) -> bool:
    """Whether ``PREFINE.save`` wrote this zip."""
    return _CHECKPOINT in archive.namelist()


_CHECKPOINT = "reference/checkpoint.zip"
_NORMALIZER = "reference/vecnormalize.pkl"
_SIDECARS = "reference/sidecars.json"


def _of_model(model: BaseAlgorithm, given: "_Normalizer") -> Reference:
    recipe = PolicyRecipe(type(model.policy), model.observation_space, model.action_space, _model_kwargs(model))
    checkpoint = Checkpoint.of_model(model)
    normalizer = _resolve_normalizer(
        given,
        found=model.get_vec_normalize_env(),
        needed="the model was trained behind VecNormalize" if checkpoint.saw_normalized_observations else None,
    )
    return _open(checkpoint, recipe, normalizer, (), {})


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
    return _open(Checkpoint.of_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


def _of_module(module: nn.Module, env: gym.Env | VecEnv | str | None, given: "_Normalizer") -> Reference:
    if not isinstance(module, HasLikelihood):
        raise TypeError(
            f"policy: {type(module).__name__} is an nn.Module without a likelihood. Give it the methods params, "
            "log_prob and sample that sb3_prefine.custom.HasLikelihood describes, or pass an SB3 model or policy."
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
    return _open(Checkpoint.of_policy(policy, recipe), recipe, _resolve_normalizer(given, None, None), (), {})


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
    return _open(checkpoint, recipe, normalizer, wrappers, folder.config)


def _open(
    checkpoint: Checkpoint,
    recipe: PolicyRecipe,
    normalizer: Normalizer | None,
    wrappers: tuple[EnvWrapper, ...],
    config: Mapping[str, Any],
) -> Reference:
    if normalizer is not None and not normalizer.fits(recipe.observation_space):
        raise ValueError(
            "normalizer: its statistics are of other observations than the policy's, which are of "
            f"{recipe.observation_space}. Give the vecnormalize.pkl of the same run."
        )
    policy = recipe.build()
    checkpoint.load_weights(policy)
    return Reference(_freeze(policy), recipe, normalizer, wrappers, checkpoint, config)


def _freeze(policy: BasePolicy) -> BasePolicy:
    policy.set_training_mode(False)
    return policy.requires_grad_(False)


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
            importlib.import_module("sb3_prefine.envs")
            env = made = gym.make(env, disable_env_checker=True)
        for wrapper in wrappers:
            env = wrapper(env)
    # SB3's wrapping is what a policy sees.
    wrapped = BaseAlgorithm._wrap_env(env, monitor_wrapper=False)
    if made is not None:
        made.close()
    return wrapped.observation_space, wrapped.action_space
