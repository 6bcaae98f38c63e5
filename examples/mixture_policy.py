"""
A policy of one's own with PREFINE: a mixture of Gaussians, for a task with two good ways and a bad one between them.

    python examples/mixture_policy.py

A skier passes one pole after the other, on the left or on the right. The shortest way is straight through the poles.
Behaviour cloning of all the skiers there are gives a policy that hits every third pole; PREFINE is shown which of them
are preferred. A single Gaussian cannot learn from it: the mean of left and right is the pole.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference


class Mixture(nn.Module):
    """A mixture of K Gaussians over A actions: all that PREFINE asks of a policy (see docs/policies.md)."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Box, n_components: int = 2) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.shape = n_components, action_space.shape[0]
        n_params = n_components * (1 + 2 * self.shape[1])
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 32), nn.Tanh(), nn.Linear(32, n_params))

    def params(self, observations: Tensor) -> Tensor:
        """(B, …) -> (B, K (1 + 2A)): the logit of each component, the means, the log-stds."""
        return self.net(observations)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """(…, B, A) -> (…, B)"""
        log_weight, mean, log_std = self.parts(params)
        of_components = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions.unsqueeze(-2)).sum(-1)
        return (log_weight + of_components).logsumexp(-1)

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, A)"""
        log_weight, mean, log_std = self.parts(params)
        # A generator draws on its own device only, which need not be that of the weights.
        device = params.device if generator is None else generator.device
        race = torch.empty(log_weight.shape, device=device).exponential_(generator=generator).to(params)
        noise = torch.randn(mean[:, 0].shape, generator=generator, device=device).to(params)
        # Of exponential variables with the weights as rates, the k-th is the smallest with probability w_k.
        rows, chosen = torch.arange(len(mean), device=mean.device), (log_weight - race.log()).argmax(-1)
        return mean[rows, chosen] + log_std[rows, chosen].exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        """(B, A): the mean of the component with the largest weight."""
        log_weight, mean, _ = self.parts(params)
        return mean[torch.arange(len(mean), device=mean.device), log_weight.argmax(-1)]

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights (B, K), means and log-stds (B, K, A)."""
        logits, rest = params.tensor_split([self.shape[0]], dim=-1)
        mean, log_std = rest.unflatten(-1, (2, *self.shape)).unbind(-3)
        return logits.log_softmax(-1), mean, log_std.clamp(-3.0, 1.0)


class Slalom(gym.Env):
    """20 poles. Seen are the places of the skier and of the next pole; the action is a step aside; a hit costs 1."""

    observation_space = spaces.Box(-3.0, 3.0, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n_passed, self.place = 0, np.array([0.0, self.np_random.uniform(-1, 1)], np.float32)
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        skier, pole = np.clip(self.place[0] + action[0], -3, 3), self.place[1]
        self.n_passed, self.place = self.n_passed + 1, np.array([skier, self.np_random.uniform(-1, 1)], np.float32)
        distance = float(abs(skier - pole))
        return self.place, 1 - distance, False, self.n_passed == 20, {"cost": float(distance < 0.2)}


class Skier:
    """Passes each pole at one of some distances. Whatever has SB3's ``predict`` can be recorded."""

    def __init__(self, *distances: float) -> None:
        self.distances, self.rng = distances, np.random.default_rng(0)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        skier, pole = observation.T
        aim = pole + self.rng.choice(self.distances, len(pole)) + self.rng.normal(0, 0.05, len(pole))
        return (aim - skier)[:, None].astype(np.float32), state


def clone(data: Trajectories, n_components: int) -> Mixture:
    """Behaviour cloning: the reference, trained as one likes."""
    torch.manual_seed(0)
    policy = Mixture(Slalom.observation_space, Slalom.action_space, n_components)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    observations, actions = torch.tensor(data.observations), torch.tensor(data.actions)
    for _ in range(300):
        optimizer.zero_grad()
        (-policy.log_prob(policy.params(observations), actions).mean()).backward()
        optimizer.step()
    return policy


def retrofit(n_components: int) -> tuple[Trajectories, Trajectories]:
    """Episodes of the cloned policy, and of what PREFINE makes of it."""
    good = collect(Skier(-0.4, 0.4), Slalom, n_episodes=50, progress_bar=False)
    bad = collect(Skier(0.0), Slalom, n_episodes=25, progress_bar=False)
    policy = clone(good + bad, n_components)
    model = PREFINE(policy, PreferenceBuffer(preferred=good, dispreferred=bad), learning_rate=3e-3, beta=0.2, seed=0)
    model.learn(600)
    model.save(f"runs/slalom-{n_components}")
    # The zip has the weights and no code: a module of the same shape is asked for.
    like = Mixture(Slalom.observation_space, Slalom.action_space, n_components)
    safe = PREFINE.load(f"runs/slalom-{n_components}", policy=like)
    before = collect(load_reference(policy), Slalom, n_episodes=50, seed=1, progress_bar=False)
    return before, collect(safe, Slalom, n_episodes=50, seed=1, progress_bar=False)


def numbers(of: Trajectories) -> str:
    left = np.array(of.next_observations)[:, 0] < np.array(of.observations)[:, 1]
    return f"return {of.episode_returns.mean():.1f}, cost {of.episode_costs.mean():.1f}, {left.mean():.0%} on the left"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, n_components in (("a Gaussian", 1), ("a mixture of 3", 3)):
        before, after = retrofit(n_components)
        print(f"{name}: {numbers(before)} | PREFINE: {numbers(after)}")
