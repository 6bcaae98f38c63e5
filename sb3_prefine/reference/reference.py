"""A frozen policy and everything that belongs to it."""

import inspect
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_prefine.policies.custom import ModulePolicy
from sb3_prefine.policies.gsde import renew_noise
from sb3_prefine.policies.recipe import PolicyRecipe
from sb3_prefine.reference.normalizer import Normalizer
from sb3_prefine.reference.sb3_zip import Checkpoint
from sb3_prefine.reference.zoo_folder import EnvWrapper, wrap_env
from sb3_prefine.utils.files import with_zip_suffix, write_atomically


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


def open_checkpoint(
    checkpoint: Checkpoint,
    recipe: PolicyRecipe,
    normalizer: Normalizer | None,
    wrappers: tuple[EnvWrapper, ...],
    config: Mapping[str, Any],
) -> Reference:
    """
    Build a checkpoint's policy and freeze it.

    :param checkpoint: The zip with the weights.
    :param recipe: How to build the policy.
    :param normalizer: The statistics of the ``VecNormalize`` that the policy was trained behind, if any.
    :param wrappers: The env wrappers that the policy was trained behind, the innermost first.
    :param config: RL Zoo's hyperparameters of the training, empty if unknown.
    :raises ValueError: If the normaliser is for other observations than the policy's.
    """
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
