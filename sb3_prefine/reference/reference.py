"""The reference: a frozen policy with its normaliser and env wrappers."""

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
from sb3_prefine.reference.sb3_zip import SB3Zip
from sb3_prefine.reference.zoo_folder import EnvWrapper, wrap_env
from sb3_prefine.utils.files import with_zip_suffix, write_atomically


@dataclass(frozen=True, eq=False)
class Reference:
    """
    A frozen policy π_ref, and everything needed to run it, to copy it and to export it.

    :param policy: The policy, in evaluation mode and without gradients. This package never changes it.
    :param recipe: How to build a policy of the same kind.
    :param normalizer: Frozen statistics of the ``VecNormalize`` that the policy was trained behind; None for raw
        observations.
    :param env_wrappers: Env wrappers that the policy was trained behind, the innermost first.
    :param checkpoint: The SB3 zip that the policy came from, or one written from it.
    :param config: RL Zoo's hyperparameters of the training; empty if unknown.
    """

    policy: BasePolicy
    recipe: PolicyRecipe
    normalizer: Normalizer | None
    env_wrappers: tuple[EnvWrapper, ...]
    checkpoint: SB3Zip
    config: Mapping[str, Any]

    @property
    def observation_space(self) -> spaces.Space:
        """Space of the raw observations, behind the env wrappers."""
        return self.recipe.observation_space

    @property
    def action_space(self) -> spaces.Space:
        """Space of the actions."""
        return self.recipe.action_space

    @property
    def algo(self) -> str | None:
        """RL Zoo's name of the algorithm that trained the policy, e.g. ``"ppo"``; None if it came without one."""
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
        Choose an action, as SB3's ``predict`` does.

        :param observation: One raw observation or a batch of them; the frozen normaliser is applied here.
        :param state: Last hidden states of a recurrent policy.
        :param episode_start: Last episode starts of a recurrent policy.
        :param deterministic: Whether to take the deterministic action instead of a sample.
        :param action_masks: Allowed actions, for a policy of MaskablePPO: one flag for each option.
        :return: The action, and the next hidden state of a recurrent policy.
        """
        masks = {} if action_masks is None else {"action_masks": action_masks}
        return self.policy.predict(self.normalize(observation), state, episode_start, deterministic, **masks)

    @property
    def takes_action_masks(self) -> bool:
        """Whether the policy accepts action masks, as MaskablePPO's does."""
        return "action_masks" in inspect.signature(self.policy.predict).parameters

    def normalize(self, observation: Any) -> Any:
        """
        Normalise observations as the policy's network expects them.

        :param observation: One raw observation or a batch of them.
        """
        return observation if self.normalizer is None else self.normalizer(observation)

    @property
    def wrap_env(self) -> Callable[[gym.Env], gym.Env]:
        """Function that applies the env wrappers. It contains no policy, so it is cheap to send to other processes."""
        return partial(wrap_env, wrappers=self.env_wrappers)

    def trainable_copy(self) -> BasePolicy:
        """Build a policy of the same class and weights to train. It shares nothing with the reference."""
        policy = self.recipe.build()
        policy.load_state_dict(self.policy.state_dict())
        renew_noise(policy)
        policy.set_training_mode(False)
        return policy

    def export(self, policy: BasePolicy, path: str | Path) -> Path:
        """
        Write the weights of another policy as a plain zip of the class that the reference came from.

        If the reference came from a policy without an algorithm, the file is the one that ``BasePolicy.load`` reads; if
        it came from an ``nn.Module``, it is the module's state dict. The normaliser and the env wrappers of
        ``NAME.zip`` are written where RL Zoo writes them, to ``NAME/vecnormalize.pkl`` and ``NAME/config.yml``.

        :param policy: A policy of the reference's class.
        :param path: The path of the zip, with or without ``.zip``.
        :return: The path of the zip.
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
        """
        Make a new reference that differs only in its weights.

        :param policy: A policy of the same class, with the new weights.
        """
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


def build_reference(
    checkpoint: SB3Zip,
    recipe: PolicyRecipe,
    normalizer: Normalizer | None,
    wrappers: tuple[EnvWrapper, ...],
    config: Mapping[str, Any],
) -> Reference:
    """
    Build the policy of an SB3 zip and freeze it.

    :param checkpoint: The SB3 zip with the weights.
    :param recipe: How to build the policy.
    :param normalizer: The statistics of the ``VecNormalize`` that the policy was trained behind; None for raw
        observations.
    :param wrappers: The env wrappers that the policy was trained behind, the innermost first.
    :param config: RL Zoo's hyperparameters of the training, empty if unknown.
    :return: The reference.
    :raises ValueError: If the normaliser is for other observations than the policy's.
    """
    if normalizer is not None and not normalizer.matches(recipe.observation_space):
        raise ValueError(
            "normalizer: its statistics do not have the shape of the policy's observations, "
            f"{recipe.observation_space}. Give the vecnormalize.pkl of the same run."
        )
    policy = recipe.build()
    checkpoint.load_weights(policy)
    return Reference(_freeze(policy), recipe, normalizer, wrappers, checkpoint, config)


def _freeze(policy: BasePolicy) -> BasePolicy:
    policy.set_training_mode(False)
    return policy.requires_grad_(False)
