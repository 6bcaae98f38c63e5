"""What measure.py compares: PREFINE.learn, the plain loop of Algorithm 1, and the floor under both."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.nn.functional import logsigmoid

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories

# Makes so many steps.
Run = Callable[[int], None]
Family = Literal["gaussian", "squashed", "categorical"]
# HalfCheetah's sizes, and the paper's batch and network.
N_OBSERVATIONS, N_ACTIONS = 17, 6
BATCH_SIZE = 256
WIDTHS = (256, 256)
BETA, SFT_COEF, LEARNING_RATE = 0.05, 1.6, 3e-4


@dataclass(frozen=True)
class Workload:
    """
    What all contenders work on.

    :param family: of the policy: PPO's Gaussian, SAC's squashed Gaussian, PPO's categorical
    :param episodes: of 1,000 steps, preferred and dispreferred
    :param batch_size: transitions of each set
    :param widths: of the hidden layers
    :param device: of the computation
    """

    family: Family = "gaussian"
    episodes: tuple[int, int] = (100, 20)
    batch_size: int = BATCH_SIZE
    widths: tuple[int, ...] = WIDTHS
    device: str = "cpu"

    def algorithm(self) -> PPO | SAC:
        """An untrained one: what it does is of no importance here."""
        box = spaces.Box(-1.0, 1.0, (N_ACTIONS,), np.float32)
        env = _Spaces(spaces.Discrete(N_ACTIONS) if self.family == "categorical" else box)
        common: dict[str, Any] = {"seed": 0, "device": self.device, "policy_kwargs": {"net_arch": list(self.widths)}}
        if self.family == "squashed":
            return SAC("MlpPolicy", env, buffer_size=1, **common)
        return PPO("MlpPolicy", env, **common)

    def preferences(self) -> PreferenceBuffer:
        """Noise: how fast a step is does not depend on what is in it."""
        preferred, dispreferred = self.episodes
        return PreferenceBuffer(self._noise(preferred, seed=0), self._noise(dispreferred, seed=1))

    def _noise(self, n_episodes: int, seed: int) -> Trajectories:
        rng, n = np.random.default_rng(seed), n_episodes * 1_000
        actions = (
            rng.integers(N_ACTIONS, size=n)
            if self.family == "categorical"
            else rng.uniform(-0.9, 0.9, (n, N_ACTIONS)).astype(np.float32)
        )
        observations = rng.normal(size=(n, N_OBSERVATIONS)).astype(np.float32)
        ends = np.arange(1, n + 1) % 1_000 == 0
        return Trajectories(
            observations=observations,
            next_observations=observations,
            actions=actions,
            rewards=np.zeros(n),
            costs=np.zeros(n),
            terminals=np.zeros(n, bool),
            timeouts=ends,
        )


def prefine(workload: Workload, preferences: PreferenceBuffer | None = None, seed: int = 0) -> PREFINE:
    """A model, ready to learn."""
    return PREFINE(
        workload.algorithm(),
        preferences or workload.preferences(),
        learning_rate=LEARNING_RATE,
        batch_size=workload.batch_size,
        beta=BETA,
        sft_coef=SFT_COEF,
        seed=seed,
        device=workload.device,
    )


def learn(workload: Workload) -> Run:
    """``PREFINE.learn`` with its logger and a callback, as a user calls it."""
    return _learning(prefine(workload))


def compiled(workload: Workload) -> Run:
    """The same, its networks and log-probs compiled by ``torch.compile``."""
    model = prefine(workload)
    likelihood = model.likelihood
    model.likelihood = model.likelihood_ref = replace(
        likelihood, params=torch.compile(likelihood.params), log_prob=torch.compile(likelihood.log_prob)
    )
    return _learning(model)


def _learning(model: PREFINE) -> Run:
    def run(n: int) -> None:
        model.learn(n, callback=_Watching(), reset_num_timesteps=False)

    return run


def floor(workload: Workload) -> Run:
    """
    Behaviour cloning on one batch that lies ready: forward, backward and fused Adam on as many states.

    Whatever trains this network on as many states a step has to do this.
    """
    policy = Scorer(workload)
    observations, actions = policy.batch(2 * workload.batch_size)
    optimizer = torch.optim.Adam(policy.actor_parameters(), LEARNING_RATE, fused=True)

    def run(n: int) -> None:
        for _ in range(n):
            loss = -policy.log_prob(policy.distribution(observations), actions).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def plain(workload: Workload) -> Run:
    """Algorithm 1 as it is written, with an Adam that is not fused."""
    policy = Scorer(workload)
    reference = deepcopy(policy)
    sets = [policy.batch(n * 1_000) for n in workload.episodes]
    optimizer = torch.optim.Adam(policy.actor_parameters(), LEARNING_RATE)

    def run(n: int) -> None:
        for _ in range(n):
            drawn = [torch.randint(len(actions), (workload.batch_size,), device=actions.device) for _, actions in sets]
            batches = [(states[rows], actions[rows]) for (states, actions), rows in zip(sets, drawn, strict=True)]
            loss = algorithm_1(policy, reference, batches)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def algorithm_1(policy: "Scorer", reference: "Scorer", batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """
    Its loss: for each set, policy and reference score the data's action and the counterfactual in forward passes of
    their own.

    :param batches: states and actions of D_p, and of D_np
    """
    loss = torch.zeros((), device=batches[0][0].device)
    for is_preferred, (states, actions) in zip((True, False), batches, strict=True):
        distribution = policy.distribution(states)
        logp = policy.log_prob(distribution, actions)
        with torch.no_grad():
            counterfactuals = policy.sample(distribution)
            logp_ref = reference.log_prob(reference.distribution(states), actions)
            logp_cf_ref = reference.log_prob(reference.distribution(states), counterfactuals)
        logp_cf = policy.log_prob(policy.distribution(states), counterfactuals)
        delta = (logp - logp_ref) - (logp_cf - logp_cf_ref)
        loss = loss - logsigmoid(BETA * (delta if is_preferred else -delta)).mean()
        if is_preferred:
            loss = loss - SFT_COEF * logp.mean()
    return loss


class _Spaces(gym.Env):
    """No more than SB3 needs to build a network."""

    observation_space = spaces.Box(-np.inf, np.inf, (N_OBSERVATIONS,), np.float32)

    def __init__(self, action_space: spaces.Space):
        self.action_space = action_space


class _Watching(BaseCallback):
    """Called after every step, like those of users."""

    def _on_step(self) -> bool:
        return True


class Scorer:
    """A policy through SB3's own distributions: nothing of this package."""

    def __init__(self, workload: Workload):
        self._policy: Any = workload.algorithm().policy
        self._squashed = workload.family == "squashed"
        self._discrete = workload.family == "categorical"

    def actor_parameters(self) -> list[torch.nn.Parameter]:
        policy = self._policy
        if self._squashed:
            return list(policy.actor.parameters())
        heads = [] if self._discrete else [policy.log_std]
        return [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters(), *heads]

    def distribution(self, observations: Tensor) -> Any:
        if self._squashed:
            mean, log_std, _ = self._policy.actor.get_action_dist_params(observations)
            return self._policy.actor.action_dist.proba_distribution(mean, log_std)
        latent = self._policy.mlp_extractor.forward_actor(observations)
        mean = self._policy.action_net(latent)
        dist = self._policy.action_dist
        return dist.proba_distribution(mean) if self._discrete else dist.proba_distribution(mean, self._policy.log_std)

    def log_prob(self, distribution: Any, actions: Tensor) -> Tensor:
        return distribution.log_prob(actions)

    def sample(self, distribution: Any) -> Tensor:
        return distribution.sample()

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        device = self._policy.device
        observations = torch.randn((n, N_OBSERVATIONS), device=device)
        if self._discrete:
            return observations, torch.randint(N_ACTIONS, (n,), device=device)
        return observations, torch.rand((n, N_ACTIONS), device=device) * 1.8 - 0.9
