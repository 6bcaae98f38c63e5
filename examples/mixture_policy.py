"""
Use your own policy class with PREFINE: a mixture of Gaussians, for a task with two good ways and a bad one in between.

    python examples/mixture_policy.py

A skier passes one pole after the other, on the left or on the right. The shortest way is straight through the poles.
Behaviour cloning of good and bad skiers gives a policy that hits every third pole. PREFINE learns which of the skiers
are preferred. A single Gaussian cannot learn this, because the mean of left and right is the pole.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference


class Mixture(nn.Module):
    """
    A mixture of K Gaussians over A action components.

    ``params``, ``log_prob``, ``sample`` and ``mode`` are all that PREFINE needs from a policy: see docs/policies.md.
    """

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Box, n_components: int = 2) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.shape = n_components, action_space.shape[0]
        n_params = n_components * (1 + 2 * self.shape[1])
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 32), nn.Tanh(), nn.Linear(32, n_params))

    def params(self, observations: Tensor) -> Tensor:
        """Logits, means and log-stds of the components: (B, …) -> (B, K (1 + 2A))."""
        return self.net(observations)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Log-probs of actions: (…, B, A) -> (…, B)."""
        log_weight, mean, log_std = self.parts(params)
        component_log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions.unsqueeze(-2)).sum(-1)
        return (log_weight + component_log_prob).logsumexp(-1)

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """One action per state, (B, A)."""
        log_weight, mean, log_std = self.parts(params)
        # A generator draws only on its own device, which may not be that of the weights.
        device = params.device if generator is None else generator.device
        times = torch.empty(log_weight.shape, device=device).exponential_(generator=generator).to(params)
        noise = torch.randn(mean[:, 0].shape, generator=generator, device=device).to(params)
        # Of exponential variables with the rates w_1, …, w_K, the k-th is the smallest with probability w_k.
        rows, chosen = torch.arange(len(mean), device=mean.device), (log_weight - times.log()).argmax(-1)
        return mean[rows, chosen] + log_std[rows, chosen].exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        """The mean of the component with the largest weight, (B, A)."""
        log_weight, mean, _ = self.parts(params)
        return mean[torch.arange(len(mean), device=mean.device), log_weight.argmax(-1)]

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, (B, K), and means and log-stds, (B, K, A)."""
        logits, rest = params.tensor_split([self.shape[0]], dim=-1)
        mean, log_std = rest.unflatten(-1, (2, *self.shape)).unbind(-3)
        return logits.log_softmax(-1), mean, log_std.clamp(-3.0, 1.0)


class Slalom(gym.Env):
    """
    A slope with 20 poles.

    The observation has the positions of the skier and of the next pole. The action is a step to the side. Hitting a
    pole costs 1.
    """

    observation_space = spaces.Box(-3.0, 3.0, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n_passed, self.position = 0, np.array([0.0, self.np_random.uniform(-1, 1)], np.float32)
        return self.position, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        skier, pole = np.clip(self.position[0] + action[0], -3, 3), self.position[1]
        self.n_passed, self.position = self.n_passed + 1, np.array([skier, self.np_random.uniform(-1, 1)], np.float32)
        distance = float(abs(skier - pole))
        return self.position, 1 - distance, False, self.n_passed == 20, {"cost": float(distance < 0.2)}


class Skier:
    """Passes each pole at one of several distances. ``collect`` records any object that has SB3's ``predict``."""

    def __init__(self, *distances: float) -> None:
        self.distances, self.rng = distances, np.random.default_rng(0)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        skier, pole = observation.T
        aim = pole + self.rng.choice(self.distances, len(pole)) + self.rng.normal(0, 0.05, len(pole))
        return (aim - skier)[:, None].astype(np.float32), state


def clone(data: Trajectories, n_components: int) -> Mixture:
    """Train the reference by behaviour cloning. PREFINE does not care how it was trained."""
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
    """Record episodes of the cloned policy, and of the policy that PREFINE fine-tunes from it."""
    good = collect(Skier(-0.4, 0.4), Slalom, n_episodes=50, progress_bar=False)
    bad = collect(Skier(0.0), Slalom, n_episodes=25, progress_bar=False)
    policy = clone(good + bad, n_components)
    model = PREFINE(policy, PreferenceBuffer(preferred=good, dispreferred=bad), learning_rate=3e-3, beta=0.2, seed=0)
    model.learn(600)
    model.save(f"runs/slalom-{n_components}")
    # The zip contains the weights and no code, so load needs a module of the same shape.
    module = Mixture(Slalom.observation_space, Slalom.action_space, n_components)
    safe = PREFINE.load(f"runs/slalom-{n_components}", policy=module)
    before = collect(load_reference(policy), Slalom, n_episodes=50, seed=1, progress_bar=False)
    return before, collect(safe, Slalom, n_episodes=50, seed=1, progress_bar=False)


def summary(episodes: Trajectories) -> str:
    """The mean return and cost, and the share of the poles that the skier passed on the left."""
    left = np.array(episodes.next_observations)[:, 0] < np.array(episodes.observations)[:, 1]
    reward, cost = episodes.episode_returns.mean(), episodes.episode_costs.mean()
    return f"return {reward:.1f}, cost {cost:.1f}, {left.mean():.0%} on the left"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, n_components in (("a Gaussian", 1), ("a mixture of 3", 3)):
        before, after = retrofit(n_components)
        print(f"{name}: {summary(before)} | PREFINE: {summary(after)}")
